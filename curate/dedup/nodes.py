"""Images become nodes: one embedding for each distinct digest, ascending by digest, on local disk.

Copies of one file would meet each other in every pair of tiles, so they are collapsed before the search.
Images are first spilled into buckets by the first byte of their digest, then each bucket is sorted by
itself; memory is bounded by a part and by a 256th of the corpus.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate.errors import BrokenResult
from curate.store import Folder

DIGEST_BYTES = 32


@dataclass(frozen=True)
class Nodes:
    """The distinct digests of a corpus, each with one embedding.

    Args:
        digests: uint8 [n, 32], ascending, without repeats.
        vectors: float16 [n, dim]; finite and not zero, as stored (not normalised anew).
        images: how many images had a digest and a usable embedding.
        unusable: how many had a digest and an embedding that is zero or not finite; they are no nodes.
    """

    digests: npt.NDArray[np.uint8]
    vectors: npt.NDArray[np.float16]
    images: int
    unusable: int


def collect(fetch: Folder, embed: Folder, parts: Sequence[int], scratch: Path) -> Nodes:
    """Reads digests and embeddings of all parts and keeps one embedding for each digest.

    That of the smallest image_id stands for its digest. Images without a digest or an embedding are left
    out.

    Args:
        fetch: holds `images.parquet` with sha256 by part.
        embed: holds `images.parquet` with image_embedding by part.
        parts: the parts to read.
        scratch: a local folder; the returned arrays are mapped from files in it.

    Raises:
        BrokenResult: the two tables of a part do not list the same images, or the embeddings of two parts
            differ in length.
    """
    images = unusable = dim = 0
    with contextlib.ExitStack() as opened:
        buckets: dict[int, IO[bytes]] = {}
        for part in parts:
            records, left_out = _part_records(fetch, embed, part)
            part_dim = records.dtype["vector"].shape[0]
            if dim not in (0, part_dim):
                raise BrokenResult(f"{embed.path}: part {part} has embeddings of {part_dim}, others of {dim}")
            dim = part_dim
            images += len(records)
            unusable += left_out
            for first, rows in _by_first_byte(records):
                if first not in buckets:
                    buckets[first] = opened.enter_context((scratch / f"bucket-{first:02x}").open("wb"))
                buckets[first].write(rows.tobytes())
    digests_file, vectors_file = scratch / "digests", scratch / "vectors"
    count = 0
    with digests_file.open("wb") as digests, vectors_file.open("wb") as vectors:
        for first in sorted(buckets):
            bucket = scratch / f"bucket-{first:02x}"
            distinct = _distinct(np.fromfile(bucket, dtype=_record(dim)))
            bucket.unlink()
            digests.write(distinct["digest"].tobytes())
            vectors.write(distinct["vector"].tobytes())
            count += len(distinct)
    return Nodes(
        _mapped(digests_file, np.uint8, (count, DIGEST_BYTES)),
        _mapped(vectors_file, np.float16, (count, dim)),
        images,
        unusable,
    )


def _record(dim: int) -> np.dtype[Any]:
    # Big-endian words compare as the bytes they are made of.
    return np.dtype([("digest", ">u8", (4,)), ("image", ">u8", (2,)), ("vector", "<f2", (dim,))])


def _part_records(fetch: Folder, embed: Folder, part: int) -> tuple[npt.NDArray[Any], int]:
    """The images of a part that can be compared, and how many had an embedding that cannot."""
    fetched = fetch.table("images.parquet", part, ["image_id", "sha256"])
    embedded = embed.table("images.parquet", part, ["image_id", "image_embedding"])
    if not fetched["image_id"].equals(embedded["image_id"]):
        raise BrokenResult(f"{embed.path}: part {part} does not list the images of {fetch.path}")
    dim = embedded.schema.field("image_embedding").type.list_size
    present = pc.and_(pc.is_valid(fetched["sha256"]), pc.is_valid(embedded["image_embedding"]))
    fetched, embedded = fetched.filter(present), embedded.filter(present)
    digests = bytes.fromhex("".join(fetched["sha256"].to_pylist()))
    if len(digests) != DIGEST_BYTES * len(fetched):
        raise BrokenResult(f"{fetch.path}: part {part} has a sha256 that is not 64 hex digits")
    records = np.empty(len(fetched), dtype=_record(dim))
    records["digest"] = np.frombuffer(digests, dtype=">u8").reshape(-1, 4)
    records["image"] = np.frombuffer(b"".join(fetched["image_id"].to_pylist()), dtype=">u8").reshape(-1, 2)
    records["vector"] = _flat(embedded["image_embedding"]).reshape(-1, dim)
    usable = np.isfinite(records["vector"]).all(axis=1) & records["vector"].any(axis=1)
    return records[usable], int(len(records) - usable.sum())


def _flat(column: pa.ChunkedArray) -> npt.NDArray[np.float16]:
    values: npt.NDArray[np.float16] = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return values


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


def _mapped(path: Path, dtype: type[np.generic], shape: tuple[int, int]) -> npt.NDArray[Any]:
    if 0 in shape:  # an empty file cannot be mapped
        return np.empty(shape, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r", shape=shape)
