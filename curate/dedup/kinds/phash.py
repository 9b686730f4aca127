"""`by: phash`: images whose perceptual hashes differ in few of 64 bits."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from pydantic import Field

from curate.dedup.hamming import BITS, near_hashes
from curate.duplicates import Account, NearKind, PartImages, Search
from curate.errors import BrokenResult
from curate.keys import Keys
from curate.store import Inputs, Json


class PhashKeys(Keys):
    """The key of a step that drops near hashes."""

    within: Annotated[int, Field(ge=0, le=16)] = Field(
        description="With phash: images that differ in this many of 64 bits, or fewer, are duplicates."
    )


class HammingSearch(Keys):
    """The search for near hashes."""

    phash_bits: Annotated[int, Field(ge=0, le=16)] = Field(
        8,
        description="The search stores pairs that differ in this many bits or fewer; `within` of a step may be changed "
        "up to this number without another search.",
    )


class Phash(NearKind):
    """All pairs of `phash` up to a number of differing bits (`curate.dedup.hamming`).

    The similarity of two hashes is their share of equal bits, which float64 represents exactly.
    """

    name = "phash"
    about = "at most `within` of 64 bits differ"
    keys = PhashKeys
    section = HammingSearch
    block_rows = 1 << 22
    column = "phash"
    measure = "share of equal bits"

    def words(self, keys: PhashKeys) -> str:
        """See `DuplicateKind`."""
        return f"at most {keys.within} of {BITS} bits of phash differ"

    def threshold(self, keys: PhashKeys) -> float:
        """See `NearKind`."""
        return 1 - keys.within / BITS

    def not_searched(self, keys: PhashKeys, dedup: Any) -> str:
        """See `NearKind`."""
        if keys.within <= dedup.phash_bits:
            return ""
        return f"within {keys.within} is more than dedup.phash_bits {dedup.phash_bits}; raise dedup.phash_bits"

    def reads(self, models: Sequence[str]) -> list[str]:
        """See `NearKind`."""
        del models
        return ["fetch", "pixels"]

    def depends(self, dedup: Any) -> Json:
        """See `NearKind`."""
        return {"bits": dedup.phash_bits}

    def settings(self, recipe: Any) -> Json:
        """See `NearKind`."""
        return {"bits": recipe.dedup.phash_bits}

    def images(self, inputs: Inputs, part: int, settings: Json) -> PartImages:
        """See `NearKind`."""
        del settings
        fetch, pixels = inputs["fetch"], inputs["pixels"]
        fetched = fetch.table("images.parquet", part, ["image_id", "sha256"])
        measured = pixels.table("pixels.parquet", part, ["image_id", "phash"])
        if not fetched["image_id"].equals(measured["image_id"]):
            raise BrokenResult(f"{pixels.path}: part {part} does not list the images of {fetch.path}")
        present = pc.and_(pc.is_valid(fetched["sha256"]), pc.is_valid(measured["phash"]))
        fetched, digits = fetched.filter(present), "".join(measured["phash"].filter(present).to_pylist())
        if len(digits) != BITS // 4 * len(fetched):
            raise BrokenResult(f"{pixels.path}: part {part} has a phash that is not 16 hex digits")
        return PartImages(fetched, np.frombuffer(bytes.fromhex(digits), ">u8").astype(np.uint64))

    def similarities(self, left: npt.NDArray[Any], right: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """See `NearKind`."""
        shares: npt.NDArray[np.float64] = 1 - np.bitwise_count(left[:, None] ^ right[None, :]) / BITS
        return shares

    def open(self, settings: Json) -> Search:
        """See `NearKind`."""
        return _Search(settings["bits"])


@dataclass(frozen=True)
class _Search:
    within: int

    def near(
        self, left: npt.NDArray[Any], right: npt.NDArray[Any] | None, scratch: Path, account: Account
    ) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]]:
        """See `Search`."""
        del scratch
        for i, j, bits in near_hashes(left, right, self.within, account):
            yield i, j, 1 - bits / BITS

    @property
    def floor(self) -> float:
        """See `Search`."""
        return 1 - self.within / BITS


KIND = Phash()
