"""The columns of a pair, with types, and their values row for row: the only module that joins a part's tables.

    folder              file                a row is       columns
    -----------------   -----------------   ------------   -----------------------------------------------------------
    plan                pairs.parquet       a source row   pair_id image_id url caption source_row repeated source_* …
    fetch               images.parquet      an image       status error_class … sha256 file
    pixels[-<scorer>]   pixels.parquet      an image       decoded phash brightness …, or the scorer's own
    embed-<model>       images.parquet      an image       image_embedding
                        pairs.parquet       a pair         text_embedding clip_similarity [clip_similarity_mirrored]
    signals-<scorer>    pairs.parquet       a pair         the scorer's own
    select              decisions.parquet   a source row   kept reason reasons duplicate_of duplicate_similarity

`describe` lists the columns of a run before any of them is computed. Passes get the list as JSON, in their settings,
and `read` reads columns of the list by name. A model's scores are called `<column>_<model>`; those of the first model
also exist without the suffix. Embeddings of the first model have no suffix, those of other models have one.
"""

import base64
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate import schema
from curate.errors import BrokenResult, RecipeError
from curate.store import Inputs, Json

ROW, IMAGE, PAIR = "row", "image_id", "pair_id"
"""The unit that one row of a table stands for: a row of the plan, a distinct image of it, or a distinct pair of it."""

_PLAN = ("plan", "pairs.parquet", ROW)

_BEFORE = ("repeated", "status", "error_class", "decoded", "caption")

_IDS = frozenset(field.name for field in schema.PLAN if field.type == schema.ID)

_KEYS = {ROW: ("pair_id",), IMAGE: ("image_id",), PAIR: ("pair_id", "image_id", "repeated")}
"""For tables by row, image and pair: the columns of the plan that determine their order."""

_SCHEMA = "arrow:"
"""The prefix of a stored type that has no name of its own, such as a list."""


@dataclass(frozen=True)
class Column:
    """A column of a pair, and where it is stored.

    Attributes:
        name: its name in predicates, the result, the report and `explain`.
        folder: the short name of the pass folder that holds it.
        file: the role of the Parquet file that holds it.
        key: the unit that a row of that file stands for: ROW, IMAGE or PAIR.
        stored: its name in that file.
        type: its stored type; None where no predicate may name it: embeddings and decisions.
    """

    name: str
    folder: str
    file: str
    key: str
    stored: str
    type: pa.DataType | None

    @property
    def made_by(self) -> str:
        """The pass that writes it: `embed` of `embed-l14`."""
        return self.folder.partition("-")[0]


@dataclass(frozen=True)
class PairColumns:
    """The columns that a pair of a run has, grouped by pass."""

    columns: tuple[Column, ...] = ()

    @cached_property
    def _by_name(self) -> Mapping[str, Column]:
        return {column.name: column for column in self.columns}

    def __getitem__(self, name: str) -> Column:
        """The column of that name. Raises KeyError."""
        return self._by_name[name]

    def types(self) -> dict[str, pa.DataType]:
        """The columns that a predicate may name, with the types that predicates see (`predicate_view`)."""
        return {column.name: _seen_type(column.name, column.type) for column in self.columns if column.type}

    def before(self) -> list[str]:
        """The columns that `reasons_before` reads; no `caption` where the source has none."""
        return [name for name in _BEFORE if name in self._by_name]

    def measured_by(self, *passes: str) -> list[str]:
        """The names of the columns that these passes write, without embeddings and decisions."""
        return [column.name for column in self.columns if column.type and column.made_by in passes]

    def scores(self, model: str, stored: str) -> list[str]:
        """The names of a model's score (`schema.SIMILARITY`, `schema.MIRRORED`); empty where it has no such score."""
        return [column.name for column in self.columns if (column.folder, column.stored) == (f"embed-{model}", stored)]

    def embeddings(self) -> list[str]:
        """The names of the embeddings, grouped by model."""
        return [column.name for column in self.columns if column.made_by == "embed" and column.type is None]

    def decisions(self) -> list[str]:
        """The names of the columns that `select` writes."""
        return [column.name for column in self.columns if column.made_by == "select"]

    def to_json(self) -> Json:
        """The list as JSON, for the settings of passes."""
        return {
            "columns": [
                {**vars(column), "type": None if column.type is None else _type_name(column.type)}
                for column in self.columns
            ]
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """The list from `to_json`, or from settings that contain it; other keys are ignored."""
        return cls(
            tuple(
                Column(**{**column, "type": None if column["type"] is None else _type_named(column["type"])})
                for column in stored["columns"]
            )
        )


def describe(
    plan: pa.Schema,
    models: Mapping[str, bool],
    signals: Mapping[str, Mapping[str, pa.DataType]],
    pixels: Mapping[str, Mapping[str, pa.DataType]] | None = None,
    *,
    captions: bool = True,
    without_text: Collection[str] = (),
) -> PairColumns:
    """Returns the columns of every pair of a run.

    Args:
        plan: the schema of the plan's table.
        models: by short name, the first model first: whether the model also scores mirrored images.
        signals: by scorer, its columns with their types.
        pixels: by pixel scorer, likewise; the columns of `schema.PIXELS` are always included.
        captions: whether the source has captions; if False, `caption`, text embeddings and similarities are left out.
        without_text: the models without a text tower, of which text embeddings and similarities are left out.

    Raises:
        RecipeError: two columns would have one name.
    """
    found = [
        *_named(_types(plan, *(() if captions else ("caption",))), *_PLAN),
        *_named(_types(schema.IMAGES, IMAGE, schema.CHECKSUM), "fetch", "images.parquet", IMAGE),
        *_named(_types(schema.PIXELS, IMAGE), "pixels", "pixels.parquet", IMAGE),
    ]
    for scorer, types in (pixels or {}).items():
        found += _named(types, f"pixels-{scorer}", "pixels.parquet", IMAGE)
    for number, (model, mirror) in enumerate(models.items()):
        has_text = captions and model not in without_text
        found += _of_model(model, is_first=number == 0, mirror=mirror, has_text=has_text)
    for scorer, types in signals.items():
        found += _named(types, f"signals-{scorer}", "pairs.parquet", PAIR)
    found += _named(dict.fromkeys(_types(schema.DECISIONS, PAIR)), "select", "decisions.parquet", ROW)
    by_name: dict[str, Column] = {}
    for column in found:
        other = by_name.setdefault(column.name, column)
        if other is not column:
            raise RecipeError(
                f"{other.folder} and {column.folder} would both write a column {column.name!r}; "
                "choose another name for the signal or the model"
            )
    return PairColumns(tuple(found))


def read(
    inputs: Inputs, columns: PairColumns, part: int, names: Iterable[str], rows: Sequence[int] | pa.Array | None = None
) -> pa.Table:
    """Reads columns of a part's pairs, row for row with the part's plan, in their stored types.

    A row that repeats a pair has the values of that pair, and of its own image.

    Args:
        inputs: the folders of the columns, and `plan`.
        columns: the columns of the run.
        part: the number of the part.
        names: the columns to read, in the order of the returned columns.
        rows: the rows of the plan to read, in the order of the returned rows; by default all of them.

    Raises:
        BrokenResult: a table of the part does not have the plan's rows.
    """
    wanted = [columns[name] for name in dict.fromkeys(names)]
    files: dict[tuple[str, str, str], list[Column]] = {}
    for column in wanted:
        files.setdefault((column.folder, column.file, column.key), []).append(column)
    planned = files.pop(_PLAN, [])
    keys = sorted({key for _, _, key in files})
    needed = [name for key in keys for name in _KEYS[key]]
    plan = _table(inputs, *_PLAN[:2], part, [*needed, *_stored(planned)])
    chosen = None if rows is None else np.asarray(rows, np.int64)
    orders = {key: _order(plan, key, f"{inputs['plan'].path}: part {part}") for key in keys}

    found = {column.name: plan[column.stored] for column in planned}
    if chosen is not None:
        found = {name: values.take(pa.array(chosen)) for name, values in found.items()}
    for (folder, file, key), of in files.items():
        order = orders[key]
        id_name = PAIR if key == ROW else key
        table = _table(inputs, folder, file, part, [id_name, *_stored(of)])
        if not table[id_name].equals(order.ids):
            raise BrokenResult(f"{inputs[folder].path}: part {part}: {file} does not have the plan's rows")
        at = order.rows(chosen)
        # A stored column with two names is read once.
        by_stored = {name: table[name] if at is None else table[name].take(at) for name in _stored(of)}
        found |= {column.name: by_stored[column.stored] for column in of}
    return pa.table({column.name: found[column.name] for column in wanted})


def reasons_before(pairs: pa.Table) -> pa.Array:
    """Returns each row's drop reason before any step, null for the rows that the steps see.

    Args:
        pairs: rows with the columns `PairColumns.before`.
    """
    empty = schema.NO_CAPTION if "caption" in pairs.column_names else None
    has_caption = schema.has_caption(pairs["caption"]) if empty else pa.scalar(True)
    decoded = pc.if_else(has_caption, pa.scalar(None, pa.string()), pa.scalar(empty, pa.string()))
    failed = pc.binary_join_element_wise(schema.FETCH, pc.fill_null(pairs["error_class"], "internal"), "")
    reasons = pc.if_else(
        pairs["repeated"],
        schema.REPEATED,
        pc.if_else(
            pc.equal(pc.fill_null(pairs["status"], ""), schema.FETCHED),
            pc.if_else(pc.fill_null(pairs["decoded"], False), decoded, schema.UNDECODABLE),
            failed,
        ),
    )
    return reasons.combine_chunks()


def predicate_view(pairs: pa.Table) -> pa.Table:
    """Returns rows as predicates see them: ids as 32 hex digits, float16 as float32, NaN as null."""
    return pa.table({name: _seen(name, pairs[name]) for name in pairs.column_names})


def hexadecimal(ids: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Returns binary(16) values without nulls as strings of 32 lower-case hex digits."""
    flat = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
    text = memoryview(flat.buffers()[1])[flat.offset * 16 : (flat.offset + len(flat)) * 16].hex() if len(flat) else ""
    offsets = np.arange(0, 32 * len(flat) + 1, 32, dtype=np.int32)
    return pa.StringArray.from_buffers(len(flat), pa.py_buffer(offsets), pa.py_buffer(text.encode()))


def _types(table: pa.Schema, *without: str) -> dict[str, pa.DataType]:
    return {field.name: field.type for field in table if field.name not in without}


def _named(types: Mapping[str, pa.DataType | None], folder: str, file: str, key: str) -> list[Column]:
    """The columns of a file whose names are their stored names."""
    return [Column(name, folder, file, key, name, kind) for name, kind in types.items()]


def _of_model(model: str, *, is_first: bool, mirror: bool, has_text: bool) -> Iterator[Column]:
    folder, suffix = f"embed-{model}", "" if is_first else f"_{model}"
    yield Column(f"image_embedding{suffix}", folder, "images.parquet", IMAGE, "image_embedding", None)
    if not has_text:
        return
    yield Column(f"text_embedding{suffix}", folder, "pairs.parquet", PAIR, "text_embedding", None)
    for stored in (schema.SIMILARITY, schema.MIRRORED)[: 1 + mirror]:
        for name in ([stored] if is_first else []) + [f"{stored}_{model}"]:
            yield Column(name, folder, "pairs.parquet", PAIR, stored, pa.float32())


@dataclass(frozen=True)
class _Order:
    """Maps the rows of a part's plan to the rows of a table.

    Attributes:
        ids: the ids that the table has to hold, in order.
        row_of: int64[rows of the plan], the table's row for each row of the plan; None where they are the same.
    """

    ids: pa.ChunkedArray
    row_of: npt.NDArray[np.int64] | None

    def rows(self, chosen: npt.NDArray[np.int64] | None) -> pa.Array | None:
        """The table's rows for the chosen rows of the plan, None for all; returns None for all rows in order."""
        if self.row_of is None:
            return None if chosen is None else pa.array(chosen)
        return pa.array(self.row_of if chosen is None else self.row_of[chosen])


def _order(plan: pa.Table, key: str, where: str) -> _Order:
    if key == ROW:
        return _Order(plan["pair_id"], None)
    if key == IMAGE:
        is_first = _starts(plan["image_id"].combine_chunks())
        ids = plan["image_id"]
    else:
        is_first = ~plan["repeated"].to_numpy().astype(bool)
        ids = plan["pair_id"]
    if is_first.all():
        return _Order(ids, None)
    own = ids.filter(pa.array(is_first))
    row_of = np.cumsum(is_first) - 1
    if key == PAIR:
        # The plan is sorted by image and pair, so a repeated row directly follows the rows of its pair.
        pairs, images = (plan[name].combine_chunks() for name in ("pair_id", "image_id"))
        follows = ~_starts(pairs) & ~_starts(images)
        if (~is_first & ~follows).any():
            raise BrokenResult(f"{where}: a row is marked as repeated but does not follow a row of the same pair")
    return _Order(own, row_of)


def _starts(ids: pa.Array) -> npt.NDArray[np.bool_]:
    """A mask of the rows whose id differs from that of the row before."""
    starts = np.ones(len(ids), bool)
    if len(ids):
        starts[1:] = pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
    return starts


def _stored(columns: Iterable[Column]) -> list[str]:
    return list(dict.fromkeys(column.stored for column in columns))


def _table(inputs: Inputs, folder: str, file: str, part: int, names: Iterable[str]) -> pa.Table:
    """Columns of a part's file, each in one piece."""
    return inputs[folder].table(file, part, list(dict.fromkeys(names))).combine_chunks()


def _seen_type(name: str, kind: pa.DataType) -> pa.DataType:
    if name in _IDS:
        return pa.string()
    return pa.float32() if pa.types.is_float16(kind) else kind


def _seen(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    if name in _IDS:
        return hexadecimal(column)
    if not pa.types.is_floating(column.type):
        return column
    column = column.cast(_seen_type(name, column.type))
    is_nan = pc.is_nan(column)
    return pc.if_else(is_nan, pa.scalar(None, column.type), column) if pc.any(is_nan).as_py() else column


def _type_name(kind: pa.DataType) -> str:
    """Returns a type as text: Arrow's name for it where that name identifies it, else an Arrow schema in base64."""
    try:
        if pa.type_for_alias(str(kind)) == kind:
            return str(kind)
    except ValueError:
        pass
    return _SCHEMA + base64.b64encode(pa.schema([("", kind)]).serialize()).decode()


def _type_named(text: str) -> pa.DataType:
    if text.startswith(_SCHEMA):
        stored = base64.b64decode(text.removeprefix(_SCHEMA))
        return pa.ipc.read_schema(pa.py_buffer(stored)).field(0).type
    return pa.type_for_alias(text)
