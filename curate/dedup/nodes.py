"""Reduces images to nodes: one value to compare for each distinct digest, ascending by digest, on the local disk.

All copies of a file would be near each other, so the search runs on distinct digests. Images are written to buckets
by the first byte of their digest, then each bucket is sorted by itself: memory holds one part, or one bucket of about
a 256th of the corpus.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.errors import BrokenResult
from curate.schema import NEAR

DIGEST_BYTES = 32


@dataclass(frozen=True)
class PartImages:
    """The images of a part that can be compared.

    Args:
        images: image_id and sha256, neither of them null.
        values: [n, …], the value of each that is compared; of one type and shape in all parts.
        unusable: the number of images that were left out because their value cannot be compared.
    """

    images: pa.Table
    values: npt.NDArray[Any]
    unusable: int = 0


@dataclass(frozen=True)
class Nodes:
    """The distinct digests of a corpus, each with one value.

    Args:
        digests: uint8 [n, 32], ascending, without repeats.
        values: [n, …], unchanged.
        images: the number of images with a digest and a usable value.
        unusable: the number of images with a digest whose value cannot be compared; they have no node.
    """

    digests: npt.NDArray[np.uint8]
    values: npt.NDArray[Any]
    images: int
    unusable: int

    def near(
        self, i: npt.NDArray[np.integer], j: npt.NDArray[np.integer], similarity: npt.NDArray[np.float64]
    ) -> pa.Table:
        """Converts pairs of nodes, i < j, into rows of `schema.NEAR`."""
        # Nodes ascend by digest, so i < j is sha256_a < sha256_b.
        return pa.table([_hex(self.digests[i]), _hex(self.digests[j]), pa.array(similarity)], schema=NEAR)


def collect(read: Callable[[int], PartImages], parts: Sequence[int], scratch: Path, where: str) -> Nodes:
    """Reads the images of all parts and keeps one value for each digest: that of the smallest image_id.

    Args:
        read: reads the images of a part.
        parts: the parts to read.
        scratch: a local folder; the returned arrays are mapped from files in it.
        where: the folder of the values, for messages.

    Raises:
        BrokenResult: the values of two parts differ in type or shape, or a digest is not 64 hex digits.
    """
    images = unusable = 0
    record: np.dtype[Any] | None = None
    with contextlib.ExitStack() as opened:
        buckets: dict[int, IO[bytes]] = {}
        for part in parts:
            found = read(part)
            records = _records(found, f"{where}: part {part}")
            record = records.dtype if record is None else record
            if record != records.dtype:
                differ = f"values of {records.dtype['value']}, others of {record['value']}"
                raise BrokenResult(f"{where}: part {part} has {differ}")
            images += len(records)
            unusable += found.unusable
            for first, rows in _by_first_byte(records):
                if first not in buckets:
                    buckets[first] = opened.enter_context((scratch / f"bucket-{first:02x}").open("wb"))
                buckets[first].write(rows.tobytes())
    digests_file, values_file = scratch / "digests", scratch / "values"
    count, value = 0, record["value"] if record is not None else np.dtype("f2")
    with digests_file.open("wb") as digests, values_file.open("wb") as values:
        for first in sorted(buckets):
            bucket = scratch / f"bucket-{first:02x}"
            distinct = _distinct(np.fromfile(bucket, dtype=record))
            bucket.unlink()
            digests.write(distinct["digest"].tobytes())
            values.write(distinct["value"].tobytes())
            count += len(distinct)
    return Nodes(
        _mapped(digests_file, np.dtype(np.uint8), (count, DIGEST_BYTES)),
        _mapped(values_file, value.base, (count, *value.shape)),
        images,
        unusable,
    )


def _records(found: PartImages, where: str) -> npt.NDArray[Any]:
    digests = bytes.fromhex("".join(found.images["sha256"].to_pylist()))
    if len(digests) != DIGEST_BYTES * len(found.images):
        raise BrokenResult(f"{where} has a sha256 that is not 64 hex digits")
    # Big-endian words sort as their bytes do.
    value = ("value", found.values.dtype, found.values.shape[1:])
    records = np.empty(len(found.images), dtype=np.dtype([("digest", ">u8", (4,)), ("image", ">u8", (2,)), value]))
    records["digest"] = np.frombuffer(digests, dtype=">u8").reshape(-1, 4)
    records["image"] = np.frombuffer(b"".join(found.images["image_id"].to_pylist()), dtype=">u8").reshape(-1, 2)
    records["value"] = found.values
    return records


def _by_first_byte(records: npt.NDArray[Any]) -> list[tuple[int, npt.NDArray[Any]]]:
    first = (records["digest"][:, 0] >> np.uint64(56)).astype(np.uint8)
    order = np.argsort(first, kind="stable")
    values, starts = np.unique(first[order], return_index=True)
    return list(zip(values.tolist(), np.split(records[order], starts[1:]), strict=True)) if len(records) else []


def _distinct(records: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """One record for each digest, that of the smallest image_id; ascending by digest."""
    words = [records["image"][:, 1], records["image"][:, 0]]
    words += [records["digest"][:, word] for word in (3, 2, 1, 0)]
    records = records[np.lexsort(words)]
    digest = records["digest"]
    first = np.ones(len(records), dtype=bool)
    first[1:] = (digest[1:] != digest[:-1]).any(axis=1)
    return records[first]


def _hex(digests: npt.NDArray[np.uint8]) -> pa.Array:
    """Digests uint8 [n, 32] as strings of 64 hex digits."""
    digits = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
    text = digits[np.stack((digests >> 4, digests & 15), axis=-1)].reshape(len(digests), 2 * DIGEST_BYTES)
    fixed = [None, pa.py_buffer(text.tobytes())]
    of = pa.binary(2 * DIGEST_BYTES)
    return pa.FixedSizeBinaryArray.from_buffers(of, len(text), fixed).cast(pa.binary()).cast(pa.string())


def _mapped(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    if 0 in shape:  # an empty file cannot be mapped
        return np.empty(shape, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r", shape=shape)
