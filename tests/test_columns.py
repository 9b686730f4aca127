"""Columns of a pair against a join in plain Python, over parts with repeats, lost images, several models and NaN."""

import io
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import schema
from curate.columns import (
    PairColumns,
    describe,
    hexadecimal,
    predicate_view,
    read,
    reasons_before,
)
from curate.errors import BrokenResult, RecipeError
from curate.store import Folder, Inputs, Store

PART = 3
SIGNALS = {
    "caption": {"caption_words": pa.int32(), "caption_language": pa.string()},
    "concept_cat": {"concept_cat": pa.float32()},
    "theirs": {"rough": pa.float16(), "tags": pa.list_(pa.string())},
}
PIXELS = {"nsfw": {"nsfw_probability": pa.float32()}}
PLAN = pa.schema([*schema.PLAN, ("source_price", pa.float64()), ("source_boxes", pa.list_(pa.int16()))])
DIM = 2

Row = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """The tables of a part, as lists of rows by (folder, file), and the columns that they make."""

    columns: PairColumns
    tables: dict[tuple[str, str], tuple[pa.Schema, list[Row]]]

    @property
    def plan(self) -> list[Row]:
        return self.tables["plan", "pairs.parquet"][1]


FLOATS = st.sampled_from([None, 0.25, -0.5, math.nan])
OF_TYPE: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.float32(): FLOATS,
    pa.float64(): FLOATS,
    pa.float16(): FLOATS,
    pa.int32(): st.sampled_from([None, 0, 7]),
    pa.int64(): st.sampled_from([None, 1 << 40]),
    pa.uint32(): st.sampled_from([None, 1 << 31]),
    pa.bool_(): st.sampled_from([None, True, False]),
    pa.string(): st.sampled_from([None, "", "ünï"]),
    pa.list_(pa.string()): st.sampled_from([None, [], ["a", None]]),
    pa.list_(pa.int16()): st.sampled_from([None, [1, 2]]),
    schema.ID: st.sampled_from([None, b"\x00" * 16]),
    schema.embedding(DIM): st.sampled_from([None, [0.5, -0.5]]),
}


@st.composite
def parts(draw: st.DrawFn) -> Part:
    """A part of a source that may name pairs itself: one pair under several URLs, and not side by side."""
    models = draw(st.dictionaries(st.sampled_from(["z", "a", "m"]), st.booleans(), min_size=1))
    columns = describe(PLAN, models, SIGNALS, PIXELS)
    urls = draw(st.lists(st.integers(0, 5), max_size=12))
    plan: list[Row] = []
    for number, url in enumerate(urls):
        caption = draw(st.sampled_from(["", "a"]))
        uid = draw(st.sampled_from([schema.pair_id(str(url), caption), b"\xff" * 16, b"\x00" * 16]))
        row = {"pair_id": uid, "image_id": schema.image_id(str(url)), "url": str(url), "caption": caption}
        given = {name: draw(OF_TYPE[PLAN.field(name).type]) for name in ("source_price", "source_boxes")}
        seen = {(other["pair_id"], other["url"]) for other in plan}
        plan.append(row | given | {"source_row": number, "repeated": (uid, str(url)) in seen})
    plan.sort(key=lambda row: (row["image_id"], row["pair_id"], row["source_row"]))
    images = sorted({row["image_id"] for row in plan})
    pairs = [row["pair_id"] for row in plan if not row["repeated"]]
    tables = {("plan", "pairs.parquet"): (PLAN, plan)}

    def add(folder: str, file: str, ids: list[bytes], key: str, fields: dict[str, pa.DataType]) -> None:
        rows = [{key: one} | {name: draw(OF_TYPE[kind]) for name, kind in fields.items()} for one in ids]
        tables[folder, file] = (pa.schema([(key, schema.ID), *fields.items()]), rows)

    add("fetch", "images.parquet", images, "image_id", fields_of(schema.IMAGES))
    for row in tables["fetch", "images.parquet"][1]:
        lost = draw(st.booleans())
        row |= {"status": "failed" if lost else schema.FETCHED, "error_class": draw(ERRORS) if lost else None}
    add("pixels", "pixels.parquet", images, "image_id", fields_of(schema.PIXELS))
    for scorer, fields in PIXELS.items():
        add(f"pixels-{scorer}", "pixels.parquet", images, "image_id", fields)
    for model, mirror in models.items():
        add(f"embed-{model}", "images.parquet", images, "image_id", {"image_embedding": schema.embedding(DIM)})
        scores = dict.fromkeys([schema.SIMILARITY, *([schema.MIRRORED] if mirror else [])], pa.float32())
        add(f"embed-{model}", "pairs.parquet", pairs, "pair_id", {"text_embedding": schema.embedding(DIM), **scores})
    for scorer, fields in SIGNALS.items():
        add(f"signals-{scorer}", "pairs.parquet", pairs, "pair_id", fields)
    everything = [row["pair_id"] for row in plan]
    add("select", "decisions.parquet", everything, "pair_id", fields_of(schema.DECISIONS))
    return Part(columns, tables)


ERRORS = st.sampled_from([None, "dns", "http_4xx"])


def fields_of(table: pa.Schema) -> dict[str, pa.DataType]:
    return {field.name: field.type for field in table if field.name not in ("image_id", "pair_id")}


@contextmanager
def stored(part: Part, change: Callable[[str, str, pa.Table], pa.Table] | None = None) -> Iterator[Inputs]:
    """The part in pass folders, its tables in row groups of three rows."""
    with tempfile.TemporaryDirectory() as root:
        folders = {folder: Folder(Store(root), folder, "0") for folder, _ in part.tables}
        outputs = {name: folder.outputs(PART) for name, folder in folders.items()}
        for (folder, file), (fields, rows) in part.tables.items():
            table = pa.Table.from_pylist(rows, fields)
            sink = io.BytesIO()
            pq.write_table(change(folder, file, table) if change else table, sink, row_group_size=3)
            outputs[folder].put(file, sink.getvalue())
        for out in outputs.values():
            out.commit()
        yield Inputs(folders, [PART])


def joined(part: Part) -> list[Row]:
    """By definition: for each row of the plan, every column by its name."""
    found = []
    for number, row in enumerate(part.plan):
        values = {}
        for column in part.columns.columns:
            _, rows = part.tables[column.folder, column.file]
            if column.key == "row":
                values[column.name] = rows[number][column.stored]
            elif column.key == "image_id":
                (own,) = (other for other in rows if other["image_id"] == row["image_id"])
                values[column.name] = own[column.stored]
            else:
                # One pair may have several images, each with a row of its own: rows go by both.
                firsts = [(other["pair_id"], other["image_id"]) for other in part.plan if not other["repeated"]]
                values[column.name] = rows[firsts.index((row["pair_id"], row["image_id"]))][column.stored]
        found.append(values)
    return found


def same(found: list[Row], expected: list[Row]) -> bool:
    """Equal, NaN being equal to itself and no other value."""
    return repr(found) == repr(expected)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_any_columns_of_any_rows_are_those_of_a_join_by_hand(data: st.DataObject) -> None:
    part = data.draw(parts())
    everything = [column.name for column in part.columns.columns]
    names = data.draw(st.lists(st.sampled_from(everything), unique=True, min_size=1))
    rows = data.draw(st.none() | st.lists(st.integers(0, len(part.plan) - 1))) if part.plan else None
    expected = joined(part)
    with stored(part) as inputs:
        found = read(inputs, part.columns, PART, names, rows)
        assert found.column_names == names
        chosen = expected if rows is None else [expected[row] for row in rows]
        assert same(found.to_pylist(), [{name: row[name] for name in names} for row in chosen])
        whole = read(inputs, part.columns, PART, everything)
    assert same(whole.to_pylist(), expected)
    for column in part.columns.columns:
        if column.type is not None:
            assert whole.schema.field(column.name).type == column.type


def reason(row: Row) -> str | None:
    if row["repeated"]:
        return "repeated"
    if row["status"] != schema.FETCHED:
        return f"fetch:{row['error_class'] or 'internal'}"
    if not row["decoded"]:
        return "undecodable"
    return None if row["caption"].strip() else "no_caption"


@settings(deadline=None, max_examples=25)
@given(parts())
def test_reasons_before_all_steps_and_what_predicates_see(part: Part) -> None:
    names = list(dict.fromkeys([*part.columns.before(), *part.columns.types()]))
    with stored(part) as inputs:
        pairs = read(inputs, part.columns, PART, names)
    expected = joined(part)
    assert reasons_before(pairs).to_pylist() == [reason(row) for row in expected]
    seen = predicate_view(pairs)
    assert {field.name: field.type for field in seen.schema} == {name: part.columns.types()[name] for name in names}

    def seen_value(value: Any) -> Any:
        return value.hex() if isinstance(value, bytes) else None if value != value else value

    assert seen.to_pylist() == [{name: seen_value(row[name]) for name in names} for row in expected]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.binary(min_size=16, max_size=16)), st.data())
def test_ids_are_hex_wherever_their_array_begins(ids: list[bytes], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(ids)))
    whole = pa.array(ids, schema.ID)
    assert hexadecimal(whole.slice(start)).to_pylist() == [one.hex() for one in ids[start:]]
    assert hexadecimal(pa.chunked_array([whole.slice(start), whole])).to_pylist() == [
        one.hex() for one in [*ids[start:], *ids]
    ]


def a_part(models: dict[str, bool]) -> Part:
    """Two images with two pairs each, the last of which is listed twice; every measurement is there."""
    columns = describe(PLAN, models, SIGNALS, PIXELS)
    urls = sorted(["0", "1"], key=schema.image_id)
    plan = [
        {"pair_id": bytes([number]) * 16, "image_id": schema.image_id(urls[number // 2]), "url": urls[number // 2]}
        | {"caption": str(number), "source_row": number, "repeated": False}
        for number in range(4)
    ]
    plan.append(plan[-1] | {"source_row": 4, "repeated": True})
    tables: dict[tuple[str, str], tuple[pa.Schema, list[Row]]] = {("plan", "pairs.parquet"): (PLAN, plan)}
    ids = {
        "row": [{"pair_id": row["pair_id"]} for row in plan],
        "image_id": [{"image_id": plan[row]["image_id"]} for row in (0, 2)],
        "pair_id": [{"pair_id": row["pair_id"]} for row in plan[:4]],
    }
    for column in columns.columns:
        if column.folder != "plan":
            kind = column.type or pa.string()
            fields, rows = tables.get((column.folder, column.file)) or (
                pa.schema([(next(iter(ids[column.key][0])), schema.ID)]),
                [dict(one) for one in ids[column.key]],
            )
            if column.stored not in fields.names:
                tables[column.folder, column.file] = (fields.append(pa.field(column.stored, kind)), rows)
    return Part(columns, tables)


FILES = sorted(set(a_part({"m": False}).tables) - {("plan", "pairs.parquet")})


@pytest.mark.parametrize("file", FILES, ids=" ".join)
@pytest.mark.parametrize("change", ["lost", "more", "swapped"])
def test_a_table_without_the_plans_rows_is_refused(file: tuple[str, str], change: str) -> None:
    part = a_part({"m": False})

    def changed(folder: str, role: str, table: pa.Table) -> pa.Table:
        if (folder, role) != file:
            return table
        rows = list(range(len(table)))
        return table.take({"lost": rows[:-1], "more": [*rows, 0], "swapped": [1, 0, *rows[2:]]}[change])

    name = next(column.name for column in part.columns.columns if (column.folder, column.file) == file)
    with stored(part, changed) as inputs, pytest.raises(BrokenResult) as error:
        read(inputs, part.columns, PART, [name])
    assert str(error.value) == f"{file[0]}-0: part 3: {file[1]} does not have the plan's rows"


def test_a_repeat_of_no_pair_is_refused() -> None:
    part = a_part({"m": False})
    part.plan[-1]["pair_id"] = b"\x99" * 16
    with stored(part) as inputs, pytest.raises(BrokenResult, match="plan-0: part 3: a row is marked as repeated"):
        read(inputs, part.columns, PART, ["caption_words"])


def test_only_what_is_asked_for_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    part = a_part({"m": True, "n": False})
    opened: list[tuple[str, str, list[str]]] = []
    table = Folder.table

    def noted(self: Folder, role: str, unit: int, columns: list[str]) -> pa.Table:
        opened.append((self.name, role, columns))
        return table(self, role, unit, columns)

    monkeypatch.setattr(Folder, "table", noted)
    with stored(part) as inputs:
        read(inputs, part.columns, PART, ["clip_similarity", "clip_similarity_m", "width", "url"])
        assert sorted(opened) == [
            ("embed-m", "pairs.parquet", ["pair_id", "clip_similarity"]),
            ("fetch", "images.parquet", ["image_id", "width"]),
            ("plan", "pairs.parquet", ["image_id", "pair_id", "repeated", "url"]),
        ]
        opened.clear()
        read(inputs, part.columns, PART, ["caption"])
        assert opened == [("plan", "pairs.parquet", ["caption"])]


def test_scores_go_by_their_model_and_the_first_ones_also_without() -> None:
    columns = describe(PLAN, {"z": False, "a": True}, SIGNALS)
    assert columns.measured_by("embed") == [
        "clip_similarity",
        "clip_similarity_z",
        "clip_similarity_a",
        "clip_similarity_mirrored_a",
    ]
    assert columns.embeddings() == ["image_embedding", "text_embedding", "image_embedding_a", "text_embedding_a"]
    assert columns.scores("z", schema.SIMILARITY) == ["clip_similarity", "clip_similarity_z"]
    assert columns.scores("z", schema.MIRRORED) == []
    first = describe(PLAN, {"a": True, "z": False}, SIGNALS)
    assert first.scores("a", schema.MIRRORED) == ["clip_similarity_mirrored", "clip_similarity_mirrored_a"]


def test_a_predicate_may_name_what_was_measured_and_nothing_else() -> None:
    columns = describe(PLAN, {"m": False}, SIGNALS, PIXELS)
    types = columns.types()
    assert types["pair_id"] == types["image_id"] == pa.string()
    assert types["rough"] == pa.float32()
    assert types["source_boxes"] == pa.list_(pa.int16())
    assert types["nsfw_probability"] == pa.float32()
    assert not types.keys() & {*columns.embeddings(), *columns.decisions()}
    assert columns.decisions() == schema.DECISIONS.names[1:]
    assert columns.measured_by("pixels") == [*schema.PIXELS.names[1:], "nsfw_probability"]
    assert columns.measured_by("signals") == [name for of in SIGNALS.values() for name in of]


def test_two_columns_of_one_name_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"signals-class_x and signals-class_x_probability would both write a column"):
        describe(
            PLAN,
            {"m": False},
            {
                "class_x": {"class_x": pa.string(), "class_x_probability": pa.float32()},
                "class_x_probability": {"class_x_probability": pa.string()},
            },
        )
    with pytest.raises(RecipeError, match="column 'width'"):
        describe(PLAN, {"m": False}, {"sizes": {"width": pa.int32()}})
    with pytest.raises(RecipeError, match="column 'kept'"):
        describe(PLAN, {"m": False}, {"opinions": {"kept": pa.bool_()}})


TYPES = st.recursive(
    st.sampled_from([pa.bool_(), pa.int8(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.null()])
    | st.sampled_from([pa.string(), pa.large_string(), pa.binary(), pa.binary(16), pa.decimal128(9, 2)])
    | st.sampled_from([pa.date32(), pa.time64("us"), pa.timestamp("ns"), pa.timestamp("us", "UTC"), pa.duration("s")]),
    lambda of: st.builds(pa.list_, of) | st.builds(lambda one, two: pa.struct([("one", one), ("two", two)]), of, of),
    max_leaves=4,
)


@settings(deadline=None)
@given(st.lists(TYPES, max_size=4), st.dictionaries(st.sampled_from(["z", "a"]), st.booleans(), min_size=1))
def test_the_list_travels_as_json(types: list[pa.DataType], models: dict[str, bool]) -> None:
    plan = pa.schema([*schema.PLAN, *((f"source_{number}", kind) for number, kind in enumerate(types))])
    columns = describe(plan, models, SIGNALS, PIXELS)
    stored_text = json.dumps({"other": 1, **columns.to_json()})
    assert PairColumns.from_json(json.loads(stored_text)) == columns
