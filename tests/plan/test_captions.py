"""What a list gives as captions: one, several, none; never JSON."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.plan_run import columns, rows_of, run_plan, source
from helpers.sample_run import sample, write_tar

from curate import schema
from curate.errors import SourceError
from curate.plan.cells import LEFT_OUT, MOST_CHARACTERS, NO_TEXT, TOO_LONG
from curate.plan.rows import NO_CAPTION

LISTS = [["a cat", "a tabby", "a cat"], [], None, ["", "a dog", None], [""], ["a bird"]]
EXPECTED = [(0, "a cat"), (0, "a tabby"), (1, ""), (2, ""), (3, "a dog"), (4, ""), (5, "a bird")]
"""`source_row` and caption."""
URLS = [f"http://{number}" for number in range(6)]


def fixed(kind: pa.DataType) -> pa.Array:
    """Lists of three, for a type that holds no others."""
    return pa.array([["a", "b", ""]] * 6, kind)


def planned(tmp_path: Path, of: dict) -> tuple[pa.Table, list[str]]:
    folder, out = run_plan(tmp_path / "run", of, part_size=2)
    table = rows_of(folder)
    # Whatever the captions, the plan's own sums and ids hold.
    assert out.counts["rows"] == table.num_rows
    named = zip(table["url"].to_pylist(), table["caption"].to_pylist(), strict=True)
    assert table["pair_id"].to_pylist() == [schema.pair_id(url, caption) for url, caption in named]
    return table, list(out.notes)


def rows(table: pa.Table) -> list[tuple[int, str]]:
    return sorted(zip(table["source_row"].to_pylist(), table["caption"].to_pylist(), strict=True))


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.string()),
        pa.large_list(pa.large_string()),
        pa.list_(pa.string_view()),
        pa.list_(pa.binary()),
        pa.list_view(pa.string()),
    ],
    ids=str,
)
@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_a_list_of_texts_is_several_captions(tmp_path: Path, suffix, kind):
    table = pa.table({"url": URLS, "caption": pa.array(LISTS, kind), "n": range(6)})
    if suffix == "parquet":
        pq.write_table(table, tmp_path / "list.parquet")
    else:
        with pa.OSFile(str(tmp_path / "list.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
    found, notes = planned(tmp_path, source(tmp_path / f"list.{suffix}"))
    assert rows(found) == EXPECTED
    assert found["source_n"].to_pylist() == found["source_row"].to_pylist()
    assert not any(found["repeated"].to_pylist())
    path = tmp_path / f"list.{suffix}"
    assert notes == [f"{path}: {LEFT_OUT} (3)", f"{path}: {NO_CAPTION} (3)"]


def test_lists_of_one_size_are_several_captions(tmp_path: Path):
    pq.write_table(pa.table({"url": URLS, "caption": fixed(pa.list_(pa.string(), 3))}), tmp_path / "list.parquet")
    found, _ = planned(tmp_path, source(tmp_path / "list.parquet"))
    assert rows(found) == [(row, caption) for row in range(6) for caption in ("a", "b")]


def test_several_captions_in_jsonl(tmp_path: Path):
    lines = [*LISTS, "alone", 7, True, {"a": 1}, ["x", ["y"], 3]]
    (tmp_path / "list.jsonl").write_text(
        "".join(json.dumps({"url": f"http://{row}", "caption": caption}) + "\n" for row, caption in enumerate(lines))
    )
    (tmp_path / "more.csv").write_text("url,caption\nhttp://last,c\n")
    found, notes = planned(tmp_path, source(tmp_path / "list.jsonl", tmp_path / "more.csv"))
    more = [(6, "alone"), (7, "7"), (8, ""), (9, ""), (10, "3"), (10, "x"), (11, "c")]
    assert rows(found) == [*EXPECTED, *more]
    assert f"{tmp_path / 'list.jsonl'}: {NO_TEXT} (3)" in notes


def test_several_captions_over_chunks_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("curate.plan.formats.contract.CHUNK_ROWS", 2)
    table = pa.table({"url": URLS, "caption": pa.array(LISTS, pa.list_(pa.string()))})
    for name in ("a", "b"):
        pq.write_table(table, tmp_path / f"{name}.parquet")
    found, _ = planned(tmp_path, source(tmp_path / "*.parquet"))
    assert rows(found) == [*EXPECTED, *((row + 6, caption) for row, caption in EXPECTED)]
    assert found.filter(np.array(found["source_row"]) >= 6)["repeated"].to_pylist() == [True] * len(EXPECTED)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.list_(pa.int64()), [[1]]),
        (pa.struct([("text", pa.string())]), [{"text": "x"}]),
        (pa.list_(pa.list_(pa.string())), [[["x"]]]),
    ],
    ids=str,
)
def test_other_nested_columns_are_refused(tmp_path: Path, kind, values):
    pq.write_table(pa.table({"url": ["u"], "caption": pa.array(values, kind)}), tmp_path / "list.parquet")
    with pytest.raises(SourceError, match=r"'caption' \(source\.caption\) is .*, not text or a list of texts$"):
        columns(source(tmp_path / "list.parquet"))


def test_a_uid_names_one_pair(tmp_path: Path):
    uids = [f"{number:032x}" for number in range(6)]
    table = pa.table({"url": URLS, "caption": pa.array(LISTS, pa.list_(pa.string())), "uid": uids})
    pq.write_table(table, tmp_path / "list.parquet")
    with pytest.raises(SourceError, match=r"holds several captions a row, and source\.uid .*; leave source\.uid out"):
        columns(source(tmp_path / "list.parquet", uid="uid"))
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    with pytest.raises(SourceError, match=r"list\.jsonl: row 0: uid names one pair, and the row has several captions"):
        run_plan(tmp_path / "run", source(tmp_path / "list.jsonl", uid="uid"))
    (tmp_path / "one.jsonl").write_text(json.dumps({"url": "u", "caption": ["x", "x"], "uid": uids[3]}) + "\n")
    found = rows_of(run_plan(tmp_path / "one", source(tmp_path / "one.jsonl", uid="uid"))[0])
    assert found["pair_id"].to_pylist() == [bytes.fromhex(uids[3])]


def test_several_captions_of_a_sample(tmp_path: Path):
    jsons: dict[str, dict[str, Any]] = {
        "a": {"caption": ["a cat", "a tabby"], "uid": "0" * 32, "n": 1},
        "b": {"caption": ["a dog"], "uid": "1" * 32, "n": 2},
        "c": {"n": 3},
        "d": {"caption": ["a", "b"]},
        "e": {"caption": ["last"]},
    }
    members = [member for key in "abcded" for member in sample(key, **jsons[key])]
    write_tar(tmp_path / "shard.tar", members)
    folder, out = run_plan(tmp_path / "run", source(tmp_path / "shard.tar", kind="samples"))
    found = rows_of(folder)
    assert out.counts["rows"] == found.num_rows
    assert rows(found) == [
        *((0, "a cat"), (0, "a tabby"), (1, "a dog"), (2, "")),
        *((3, "a"), (3, "b"), (4, "last"), (5, "a"), (5, "b")),
    ]
    by_caption = {row["caption"]: row for row in found.to_pylist()}
    assert by_caption["a dog"]["pair_id"].hex() == "1" * 32
    assert by_caption["a tabby"]["pair_id"] == schema.pair_id("sample:shard.tar/a", "a tabby")
    assert by_caption["a tabby"]["source_n"] == 1
    assert by_caption["a cat"]["image_id"] == by_caption["a tabby"]["image_id"]
    faults = [row["sample_fault"] is not None for row in found.to_pylist()]
    assert faults == [row["source_row"] in (3, 5) for row in found.to_pylist()]


@pytest.mark.parametrize("form", ["jsonl", "parquet", "tar"])
def test_captions_are_stored_up_to_a_bound(tmp_path: Path, form):
    most, longer = "é" * MOST_CHARACTERS, "é" * (MOST_CHARACTERS + 1) + "a"
    captions = [most, longer, "a cat"]
    if form == "tar":
        members = [sample(str(row), row, text, url=URLS[row]) for row, text in enumerate(captions)]
        write_tar(tmp_path / "list.tar", [member for found in members for member in found])
    elif form == "parquet":
        pq.write_table(pa.table({"url": URLS[:3], "caption": captions}), tmp_path / "list.parquet")
    else:
        lines = [json.dumps({"url": url, "caption": text}) for url, text in zip(URLS, captions, strict=False)]
        (tmp_path / "list.jsonl").write_text("\n".join(lines))
    kind = {"kind": "samples"} if form == "tar" else {}
    table, notes = planned(tmp_path, source(tmp_path / f"list.{form}", **kind))
    assert rows(table) == [(0, most), (1, most), (2, "a cat")]
    assert [note for note in notes if TOO_LONG in note] == [f"{tmp_path}/list.{form}: {TOO_LONG} (1)"]
