"""The columns that a recipe's steps may name, of one part: the tables of several passes, row for row.

from                   columns
--------------------   -------------------------------------------------------------
plan                   url caption source_row repeated source_*; pair_id, image_id as hex
fetch                  status error_class … sha256 file (`schema.IMAGES`)
pixels                 decoded phash brightness … (`schema.PIXELS`)
embed-<model>          clip_similarity_<model>, clip_similarity_mirrored_<model>; the first model's also without suffix
signals-<scorer>       the scorer's own
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate import schema
from curate.errors import BrokenResult
from curate.schema import MIRRORED, SIMILARITY
from curate.store import Folder, Inputs

_HEX = ("pair_id", "image_id")


@dataclass(frozen=True)
class Tables:
    """Which tables there are to take columns from.

    Args:
        models: the models' short names, the first one first.
        signals: the columns of each signals folder, by its short name.
    """

    models: Sequence[str]
    signals: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Tables":
        """The tables from a pass's settings (`models`, `signals`)."""
        return cls(tuple(settings["models"]), {name: tuple(of) for name, of in settings["signals"].items()})


@dataclass(frozen=True)
class PartRows:
    """One part, row for row with its plan.

    Args:
        pair_ids: fixed_size_binary[16].
        source_rows: int64.
        before: the reason that a row has before any step, or null for the rows that the steps see.
        columns: the wanted ones; NaN is null.
    """

    pair_ids: pa.Array
    source_rows: pa.Array
    before: pa.Array
    columns: pa.Table


def read(inputs: Inputs, part: int, tables: Tables, wanted: Collection[str]) -> PartRows:
    """A part's rows with the wanted columns.

    Raises:
        BrokenResult: a table's rows are not those of the plan.
    """
    ours = [name for name in wanted if name in schema.PLAN.names or name.startswith("source_")]
    plan = inputs["plan"].table("pairs.parquet", part, _with(schema.PLAN.names[:2], "source_row", "repeated", *ours))
    pair_ids, image_ids = plan["pair_id"].combine_chunks(), plan["image_id"].combine_chunks()
    repeated = plan["repeated"].to_numpy().astype(bool)
    found = {name: _hexadecimal(plan[name].combine_chunks()) if name in _HEX else plan[name] for name in ours}

    first = _starts(image_ids)
    image_of = pa.array(np.cumsum(first) - 1)
    distinct = image_ids.filter(pa.array(first))
    images = _aligned(inputs["fetch"], "images.parquet", part, "image_id", distinct, ["status", "error_class"], wanted)
    pixels = _aligned(inputs["pixels"], "pixels.parquet", part, "image_id", distinct, ["decoded"], wanted)
    for table, of in ((images, schema.IMAGES), (pixels, schema.PIXELS)):
        found |= {name: table[name].take(image_of) for name in of.names[1:] if name in wanted}

    pair_of = pa.array(np.cumsum(~repeated) - 1, mask=repeated)
    measured = pair_ids.filter(pa.array(~repeated))
    for folder, names in _by_pair(inputs, tables, wanted):
        table = _aligned(folder, "pairs.parquet", part, "pair_id", measured, list(names), ())
        found |= {shown: table[stored].take(pair_of) for stored, shown in names.items()}
    for column in (SIMILARITY, MIRRORED):
        if column in wanted:
            found[column] = found[f"{column}_{tables.models[0]}"]
    before = _before(repeated, images.take(image_of), pixels["decoded"].take(image_of))
    columns = pa.table({name: _without_nan(found[name]) for name in wanted}) if wanted else pa.table({})
    return PartRows(pair_ids, plan["source_row"].combine_chunks(), before, columns)


def names(inputs: Inputs, tables: Tables, part: int) -> list[str]:
    """The names of all columns that `read` can give; those that vary by recipe stand in any of its parts."""
    ours = inputs["plan"].columns("pairs.parquet", part)
    theirs = [*schema.IMAGES.names[1:], *schema.PIXELS.names[1:]]
    measured = []
    for number, model in enumerate(tables.models):
        stored = inputs[f"embed-{model}"].columns("pairs.parquet", part)
        for column in (SIMILARITY, MIRRORED):
            if column in stored:
                measured += [f"{column}_{model}"] if number else [column, f"{column}_{model}"]
    return [*ours, *theirs, *measured, *(name for of in tables.signals.values() for name in of)]


def stored_type(kind: pa.DataType) -> pa.DataType:
    """The type in which a column of that type comes from `read`."""
    return pa.float32() if pa.types.is_float16(kind) else kind


def words(pair_ids: pa.Array) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Ids as two numbers each, which order as their bytes do."""
    pairs = np.frombuffer(_bytes(pair_ids), ">u8").reshape(-1, 2).astype(np.uint64)
    return pairs[:, 0], pairs[:, 1]


def from_words(high: npt.NDArray[np.uint64], low: npt.NDArray[np.uint64]) -> pa.Array:
    """The ids again: fixed_size_binary[16]."""
    data = np.column_stack([high, low]).astype(">u8").tobytes()
    return pa.FixedSizeBinaryArray.from_buffers(schema.ID, len(high), [None, pa.py_buffer(data)])


def _by_pair(inputs: Inputs, tables: Tables, wanted: Collection[str]) -> list[tuple[Folder, dict[str, str]]]:
    """The tables by pair to be read: a folder, and what its wanted columns are called here."""
    named = {
        f"embed-{model}": {
            column: f"{column}_{model}"
            for column in (SIMILARITY, MIRRORED)
            if f"{column}_{model}" in wanted or (number == 0 and column in wanted)
        }
        for number, model in enumerate(tables.models)
    }
    for folder, columns in tables.signals.items():
        named[folder] = {name: name for name in columns if name in wanted}
    return [(inputs[folder], names) for folder, names in named.items() if names]


def _aligned(
    folder: Folder,
    role: str,
    part: int,
    key: str,
    ids: pa.Array,
    needed: Sequence[str],
    wanted: Collection[str],
) -> pa.Table:
    """A table's needed and wanted columns, after its ids were found to be those of the plan."""
    of = {"images.parquet": schema.IMAGES, "pixels.parquet": schema.PIXELS}.get(role, pa.schema([]))
    table = folder.table(role, part, _with([key], *needed, *(name for name in of.names[1:] if name in wanted)))
    if not table[key].combine_chunks().equals(ids):
        raise BrokenResult(f"{folder.path}: part {part}: {role} does not have the plan's rows")
    return table.combine_chunks()


def _before(repeated: npt.NDArray[np.bool_], images: pa.Table, decoded: pa.ChunkedArray) -> pa.Array:
    failed = pc.binary_join_element_wise(schema.FETCH, pc.fill_null(images["error_class"], "internal"), "")
    null = pa.scalar(None, pa.string())
    reasons = pc.if_else(
        pa.array(repeated),
        schema.REPEATED,
        pc.if_else(
            pc.equal(pc.fill_null(images["status"], ""), schema.FETCHED),
            pc.if_else(pc.fill_null(decoded, False), null, schema.UNDECODABLE),
            failed,
        ),
    )
    return reasons.combine_chunks() if isinstance(reasons, pa.ChunkedArray) else reasons


def _with(names: Sequence[str], *more: str) -> list[str]:
    return list(dict.fromkeys([*names, *more]))


def _starts(ids: pa.Array) -> npt.NDArray[np.bool_]:
    """Where an id differs from the one before it."""
    starts = np.ones(len(ids), bool)
    if len(ids):
        starts[1:] = pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
    return starts


def _without_nan(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pa.types.is_floating(column.type):
        return column
    column = column.cast(stored_type(column.type))
    return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)


def _bytes(ids: pa.Array) -> bytes:
    data: bytes = ids.buffers()[1].to_pybytes() if len(ids) else b""
    return data[ids.offset * 16 : (ids.offset + len(ids)) * 16]


def _hexadecimal(ids: pa.Array) -> pa.Array:
    offsets = np.arange(0, 32 * len(ids) + 1, 32, dtype=np.int32)
    text = _bytes(ids).hex().encode()
    return pa.StringArray.from_buffers(len(ids), pa.py_buffer(offsets), pa.py_buffer(text))
