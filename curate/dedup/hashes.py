"""Perceptual hashes as values of a search: read from a column of hex digits, compared by the number of equal bits.

The similarity of two hashes is their share of equal bits, which float64 represents exactly.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate.account import Account
from curate.dedup.hamming import near_counts, near_hashes
from curate.duplicates import PartValues
from curate.errors import BrokenResult
from curate.store import Folder

Floats = npt.NDArray[np.float64]


def read_hashes(
    fetch: Folder, pixels: Folder, part: int, column: str, bits: int, least: tuple[str, float] | None = None
) -> PartValues:
    """Returns the images of a part with their hashes, uint64 [n, bits / 64].

    Args:
        fetch: the pass that has the digests.
        pixels: the pass that has the hashes.
        part: its number.
        column: of the hashes.
        bits: of a hash.
        least: a column and its lowest value with which a hash can be compared.

    Raises:
        BrokenResult: the tables of the part do not belong together, or a hash is not hex digits of that width.
    """
    fetched = fetch.table("images.parquet", part, ["image_id", "sha256"])
    names = ["image_id", column, *([least[0]] if least else [])]
    measured = pixels.table("pixels.parquet", part, names)
    if not fetched["image_id"].equals(measured["image_id"]):
        raise BrokenResult(f"{pixels.path}: part {part} does not list the images of {fetch.path}")
    present = pc.and_(pc.is_valid(fetched["sha256"]), pc.is_valid(measured[column]))
    usable = pc.and_(present, pc.greater_equal(measured[least[0]], least[1])) if least else present
    fetched, digits = fetched.filter(usable), "".join(measured[column].filter(usable).to_pylist())
    if len(digits) != bits // 4 * len(fetched):
        raise BrokenResult(f"{pixels.path}: part {part} has a {column} that is not {bits // 4} hex digits")
    values = np.frombuffer(bytes.fromhex(digits), ">u8").astype(np.uint64).reshape(len(fetched), bits // 64)
    return PartValues(fetched["sha256"], fetched["image_id"], values, _trues(present) - len(fetched))


def shares_of_equal_bits(left: npt.NDArray[np.uint64], right: npt.NDArray[np.uint64]) -> Floats:
    """Returns the similarity of each of `left` and each of `right`, float64 [n, m]."""
    differ = np.bitwise_count(left[:, None] ^ right[None, :]).sum(axis=-1, dtype=np.int64)
    shares: Floats = 1 - differ / (64 * left.shape[1])
    return shares


def each_share_of_equal_bits(left: npt.NDArray[np.uint64], right: npt.NDArray[np.uint64]) -> Floats:
    """Returns the similarity of left[k] and right[k] for each k, float64 [n]."""
    differ = np.bitwise_count(left ^ right).sum(axis=-1, dtype=np.int64)
    shares: Floats = 1 - differ / (64 * left.shape[1])
    return shares


def bits_that_differ(similarity: float, bits: int) -> str:
    """Words for the distance of two hashes of so many bits: `7 of 64 bits differ`."""
    return f"{round((1 - similarity) * bits)} of {bits} bits differ"


@dataclass(frozen=True)
class HashSearch:
    """The search among hashes.

    Attributes:
        within: the number of bits in which near hashes may differ.
        bits: of a hash.
    """

    within: int
    bits: int

    @property
    def floor(self) -> float:
        """See `Search`."""
        return 1 - self.within / self.bits

    def near(
        self, left: npt.NDArray[Any], right: npt.NDArray[Any] | None, scratch: Path, account: Account
    ) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]]:
        """See `Search`."""
        del scratch
        for i, j, differ in near_hashes(left, right, self.within, account):
            yield i, j, 1 - differ / self.bits

    def near_counts(self, values: npt.NDArray[Any], sample: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """See `Search`."""
        return near_counts(values, sample, self.within)


def _trues(mask: pa.ChunkedArray) -> int:
    return int(pc.sum(mask, min_count=0).as_py())
