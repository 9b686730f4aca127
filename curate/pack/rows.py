"""Reads the kept pairs of a part, as the rows of a shard's Parquet files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from curate.columns import PairColumns, hexadecimal
from curate.columns import read as read_columns
from curate.errors import BrokenResult
from curate.schema import FETCHED
from curate.store import Inputs

_SIZES = ("width", "height", "original_width", "original_height")


@dataclass(frozen=True)
class Settings:
    """The settings of the pack pass.

    Args:
        shard_size: samples in every shard but the last.
        layouts: the names of the layouts to write.
        columns: the columns of a pair of the run.
    """

    shard_size: int
    layouts: Sequence[str]
    columns: PairColumns

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """Reads a pass's settings: `shard_size`, `layouts`, `columns` (`PairColumns.to_json`)."""
        return cls(settings["shard_size"], settings["layouts"], PairColumns.from_json(settings))


def read(inputs: Inputs, columns: PairColumns, part: int, start: int, stop: int) -> pa.Table:
    """Returns all columns of the result for the kept pairs `start` to `stop` of a part, row for row.

    Raises:
        BrokenResult: tables of the part do not fit together, or a kept pair has no image or embedding.
    """
    decided = read_columns(inputs, columns, part, ["repeated", "kept"])
    if pc.any(pc.and_(decided["kept"], decided["repeated"])).as_py():
        raise BrokenResult(f"{inputs['select'].path}: part {part} keeps a repeated row")
    kept = pc.indices_nonzero(decided["kept"]).slice(start, stop - start)
    if len(kept) != stop - start:
        raise BrokenResult(f"{inputs['select'].path}: part {part} keeps fewer pairs than parts.parquet says")
    names = ["pair_id", "url", *_caption(columns), "status", "file", *_SIZES, "sha256", *_measured(columns)]
    pairs = read_columns(inputs, columns, part, [*names, *columns.embeddings()], kept)
    for name in columns.embeddings():
        if pairs[name].null_count:
            raise BrokenResult(f"{inputs[columns[name].folder].path}: part {part} has no embedding for a kept pair")
    if pairs["file"].null_count or not pc.all(pc.equal(pc.fill_null(pairs["status"], ""), FETCHED)).as_py():
        raise BrokenResult(f"{inputs['fetch'].path}: part {part} lacks the image of a kept pair")
    return pairs


def described(pairs: pa.Table, columns: PairColumns) -> pa.Table:
    """Returns the rows of a shard's table: img2dataset's columns, then scores, signals, pixel and source columns.

    As with img2dataset, a source without captions gives no column `caption`.
    """
    uid = hexadecimal(pairs["pair_id"])
    columns_by_name: dict[str, pa.Array | pa.ChunkedArray] = {
        "key": uid,
        "uid": uid,
        "url": pairs["url"],
        **{name: pairs[name] for name in _caption(columns)},
        "status": pairs["status"],
        "error_message": pa.nulls(len(pairs), pa.string()),
        **{name: pairs[name] for name in (*_SIZES, "sha256")},
    }
    for name in _measured(columns):
        if name in columns_by_name:
            raise BrokenResult(f"two columns of the result are named {name!r}")
        columns_by_name[name] = pairs[name]
    return pa.table(columns_by_name)


def embedded(pairs: pa.Table, columns: PairColumns) -> pa.Table:
    """Returns the rows of a shard's embedding table: uid and, by model, image_embedding and text_embedding."""
    return pa.table({"uid": hexadecimal(pairs["pair_id"]), **{name: pairs[name] for name in columns.embeddings()}})


def _caption(columns: PairColumns) -> list[str]:
    return [name for name in columns.measured_by("plan") if name == "caption"]


def _measured(columns: PairColumns) -> list[str]:
    """The names of the measured columns in the order of the result's columns, then those of the source columns."""
    scores = sorted(columns.measured_by("embed"), key=lambda name: columns[name].stored)
    # A pair without a decoded image is not kept.
    pixels = [name for name in columns.measured_by("pixels") if name != "decoded"]
    source = [name for name in columns.measured_by("plan") if name.startswith("source_")]
    return [*scores, *columns.measured_by("signals"), *pixels, *source]
