"""Reduces images or captions to nodes: one value for each distinct digest, ascending by digest, in blocks.

All copies of a file would be near each other, so the search runs on distinct digests. A digest has the value of its
image with the smallest image_id, or of its caption in the pair with the smallest pair_id. What follows says images for
both. A run of many images is gathered in two steps: a *shelf* holds the distinct images of some parts, ascending by
digest, in one row group for each block; a *block* holds the nodes of a range of digests, from all shelves. Memory holds
one shelf, or one block.
"""

import contextlib
import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from curate import schema
from curate.duplicates import PartValues
from curate.errors import BrokenResult
from curate.near import DENSE, DIGEST_BYTES, NODES, plain_bytes
from curate.store import Folder, Outputs

ID_BYTES = 16

_GROUP_BYTES = 32 << 20
"""Bytes of nodes in one row group of a block."""

_COPIED = 1 << 14
"""Values that are copied at a time."""

Records = npt.NDArray[Any]
"""Images or captions as records: `digest` and `id` as big-endian words, which sort as their bytes do, and `value`."""


def records(found: PartValues, where: str) -> Records:
    """Returns the values of a part as records. Raises BrokenResult where a digest is not 64 hex digits."""
    digests = bytes.fromhex("".join(found.digests.to_pylist()))
    if len(digests) != DIGEST_BYTES * len(found.digests):
        raise BrokenResult(f"{where} has a sha256 that is not 64 hex digits")
    made = np.empty(len(found.digests), _record(found.values.dtype, found.values.shape[1:]))
    made["digest"] = np.frombuffer(digests, ">u8").reshape(-1, 4)
    made["id"] = np.frombuffer(b"".join(found.ids.to_pylist()), ">u8").reshape(-1, 2)
    made["value"] = found.values
    return made


def distinct(pieces: Sequence[Records], where: str) -> Records:
    """Returns one record for each digest, that of the smallest id; ascending by digest.

    Args:
        pieces: records, in any order; one array at least.
        where: the folder of the values, for messages.

    Raises:
        BrokenResult: the values of two pieces differ in type or shape.
    """
    filled = [piece for piece in pieces if len(piece)] or pieces[:1]
    for piece in filled:
        if piece.dtype != filled[0].dtype:
            some, others = filled[0].dtype["value"], piece.dtype["value"]
            raise BrokenResult(f"{where}: some parts have values of {some}, others of {others}")
    # As plain bytes: NumPy copies records field by field, and changes the order of their bytes.
    record = filled[0].dtype
    plain = np.concatenate([piece.view(f"V{record.itemsize}") for piece in filled])
    together = plain.view(record)
    words = [together["id"][:, 1], together["id"][:, 0]]
    words += [together["digest"][:, word] for word in (3, 2, 1, 0)]
    order = np.lexsort(words)
    digest = together["digest"][order]
    first = np.ones(len(together), dtype=bool)
    first[1:] = (digest[1:] != digest[:-1]).any(axis=1)
    return plain[order[first]].view(record)


def by_block(ascending: Records, blocks: int) -> list[Records]:
    """Divides records that ascend by digest into the blocks: equal ranges of a digest's first 32 bits."""
    block = (ascending["digest"][:, 0] >> np.uint64(32)) * np.uint64(blocks) >> np.uint64(32)
    bounds = np.searchsorted(block, np.arange(blocks + 1))
    return [ascending[start:stop] for start, stop in itertools.pairwise(bounds.tolist())]


def write(path: Path, groups: Iterable[Records], like: Records, *, ids: bool = True) -> None:
    """Writes records as a local Parquet file, one row group for each array, also where it is empty.

    Args:
        path: the file.
        groups: the records.
        like: records, of which only the type counts.
        ids: whether the ids are written, too; `read` needs them.
    """
    value = like.dtype["value"]
    about = {"dtype": value.base.str, "shape": json.dumps(value.shape)}
    widths = {"digest": DIGEST_BYTES, "id": ID_BYTES, "value": value.itemsize}
    written = [name for name in widths if ids or name != "id"]
    schema = pa.schema([(name, pa.binary(widths[name])) for name in written], about)
    # Digests are distinct and values nearly random: neither a dictionary nor compression would make them shorter.
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False, "write_page_checksum": True}
    with pq.ParquetWriter(path, schema, **options) as writer:
        for group in groups:
            columns = [_binary(group[field.name], field.type) for field in schema]
            writer.write_table(pa.table(columns, schema=schema), row_group_size=max(1, len(group)))


def read(table: pa.Table) -> Records:
    """Returns the records of a row group that `write` wrote."""
    about = table.schema.metadata
    made = np.empty(table.num_rows, _record(np.dtype(about[b"dtype"].decode()), tuple(json.loads(about[b"shape"]))))
    for name in table.column_names:
        made[name] = plain_bytes(table[name]).view(made.dtype[name].base).reshape(-1, *made.dtype[name].shape)
    return made


def put_block(block: Records, out: Outputs, path: Path, *, ids: bool = False) -> None:
    """Writes a block of nodes as a unit's files.

    Args:
        block: distinct records, ascending by digest.
        out: the unit's outputs.
        path: a local file that may be written.
        ids: whether the nodes' ids are written, too.
    """
    each = max(1, _GROUP_BYTES // block.dtype.itemsize)
    write(path, (block[start : start + each] for start in range(0, max(1, len(block)), each)), block, ids=ids)
    out.put_file(NODES, path, rows=len(block))
    content = hashlib.sha256()
    for name in ("digest", "value"):
        content.update(np.ascontiguousarray(block[name]).data)
    out.put_json("block.json", asdict(BlockFacts(len(block), content.hexdigest())))


@dataclass(frozen=True)
class BlockFacts:
    """The facts about a block that a certificate states.

    Attributes:
        nodes: their number.
        sha256: of the digests, then the values, in order.
    """

    nodes: int
    sha256: str

    @classmethod
    def of(cls, folder: Folder, block: int) -> Self:
        """Returns the facts that `put_block` stored."""
        return cls(**folder.json("block.json", block))


@dataclass(frozen=True)
class Nodes:
    """The nodes of a block.

    Args:
        digests: uint8 [n, 32], ascending, without repeats.
        values: [n, …], unchanged.
    """

    digests: npt.NDArray[np.uint8]
    values: npt.NDArray[Any]

    @classmethod
    def load(cls, folder: Folder, block: int, scratch: Path) -> Self:
        """Reads a block into two local files, from which the arrays are mapped; holds one row group in memory."""
        count, files = 0, (scratch / f"digests-{block}", scratch / f"values-{block}")
        with files[0].open("wb") as digests, files[1].open("wb") as values:
            for table in folder.tables(NODES, block, ["digest", "value"]):
                digests.write(plain_bytes(table["digest"]).data)
                values.write(plain_bytes(table["value"]).data)
                count += table.num_rows
        about = table.schema.metadata
        value, shape = np.dtype(about[b"dtype"].decode()), tuple(json.loads(about[b"shape"]))
        return cls(
            _mapped(files[0], np.dtype(np.uint8), (count, DIGEST_BYTES)), _mapped(files[1], value, (count, *shape))
        )


def put_dense(nodes: Folder, rows: Mapping[int, npt.NDArray[np.int64]], out: Outputs, scratch: Path) -> None:
    """Writes the dense nodes of a search with their values; holds one row group of a block in memory.

    Args:
        nodes: the folder of the blocks.
        rows: by block, ascending; the rows of its dense nodes, ascending.
        out: the unit's outputs.
        scratch: an empty local folder.
    """
    path, writer, count = scratch / DENSE, None, 0
    with contextlib.ExitStack() as stack:
        for block, wanted in rows.items():
            first = 0
            for table in nodes.tables(NODES, block, ["value"]):
                here = wanted[(wanted >= first) & (wanted < first + table.num_rows)]
                taken = table["value"].take(pa.array(here - first))
                if writer is None:
                    fields = [*schema.DENSE, table.schema.field("value")]
                    of_file = pa.schema(fields, table.schema.metadata)
                    options = {"use_dictionary": False, "write_page_checksum": True}
                    writer = stack.enter_context(pq.ParquetWriter(path, of_file, compression="none", **options))
                columns = [np.full(len(here), block, np.int32), here.astype(np.int32), taken]
                writer.write_table(pa.table(columns, schema=writer.schema))
                count += len(here)
                first += table.num_rows
    out.put_file(DENSE, path, rows=count)


def copied(values: npt.NDArray[Any], rows: npt.NDArray[np.int64], path: Path) -> npt.NDArray[Any]:
    """Returns some values in a local file, from which they are mapped; holds some thousands in memory."""
    with path.open("wb") as file:
        for start in range(0, len(rows), _COPIED):
            file.write(values[rows[start : start + _COPIED]].data)
    return _mapped(path, values.dtype, (len(rows), *values.shape[1:]))


def gather(found: Iterable[PartValues], where: str, things: str) -> tuple[Records, dict[str, int]]:
    """Returns the distinct records of some parts, and how many values they have, and have that cannot be compared.

    Args:
        found: the parts.
        where: the folder of the values, for messages.
        things: the name of the first count, such as `images`.

    Raises:
        BrokenResult: there is no part, or the parts do not fit together.
    """
    pieces, counts = [], {things: 0, "unusable": 0}
    for number, values in enumerate(found):
        pieces.append(records(values, f"{where}: part {number}"))
        counts[things] += len(values.digests)
        counts["unusable"] += values.unusable
    if not pieces:
        raise BrokenResult(f"{where}: there is no part to search for duplicates")
    return distinct(pieces, where), counts


def _record(value: np.dtype[Any], shape: tuple[int, ...]) -> np.dtype[Any]:
    return np.dtype([("digest", ">u8", (4,)), ("id", ">u8", (2,)), ("value", value, shape)])


def _binary(values: npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    flat = np.ascontiguousarray(values)
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(flat), [None, pa.py_buffer(flat)])


def _mapped(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    if 0 in shape:  # an empty file cannot be mapped
        return np.empty(shape, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r", shape=shape)
