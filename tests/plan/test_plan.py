"""What holds for the plan of any list."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.plan_run import rows_of, run_plan, source
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import schema
from curate.errors import SourceError
from curate.plan import buckets
from curate.plan.buckets import Buckets
from curate.plan.formats import contract

URLS = st.one_of(st.none(), st.sampled_from(["", "http://a", "http://b", "http://c"]), st.text(max_size=8))
CAPTIONS = st.one_of(st.none(), st.sampled_from(["", "a cat", "\ud800"]), st.text(max_size=8))
LISTS = st.lists(st.tuples(URLS, CAPTIONS), min_size=1, max_size=40)


def write(path: Path, rows) -> None:
    path.write_text("".join(json.dumps({"url": url, "caption": caption}) + "\n" for url, caption in rows))


@given(rows=LISTS, part_size=st.integers(1, 12), seed=st.integers(0, 2**63 - 1))
def test_every_row_is_planned_once_in_the_part_of_its_url(rows, part_size, seed):
    cleaned = [(schema.clean_caption(url), schema.clean_caption(caption)) for url, caption in rows]
    with tempfile.TemporaryDirectory() as scratch:
        write(Path(scratch) / "list.jsonl", rows)
        folder, out = run_plan(Path(scratch) / "run", source(Path(scratch) / "list.jsonl"), part_size, seed)
        n_parts = -(-len(rows) // part_size)
        parts = [folder.table("pairs.parquet", part) for part in range(n_parts)]
        counts = [dict(folder.marker(part).counts) for part in range(n_parts)]
        summary = folder.json("summary.json")
    planned = {row["source_row"]: (part, row) for part, table in enumerate(parts) for row in table.to_pylist()}
    assert sorted(planned) == list(range(len(rows))), "each row once"
    seen = set()
    for number, (url, caption) in enumerate(cleaned):
        part, row = planned[number]
        pair = (schema.image_id(url), schema.pair_id(url, caption))
        assert (row["url"], row["caption"], row["image_id"], row["pair_id"]) == (url, caption, *pair)
        assert part == schema.part_of(pair[0], seed, n_parts)
        assert row["repeated"] == (pair in seen)
        seen.add(pair)
    for part, table in enumerate(parts):
        order = [tuple(row.values()) for row in table.select(["image_id", "pair_id", "source_row"]).to_pylist()]
        assert order == sorted(order)
        assert counts[part] == {
            "rows": table.num_rows,
            "images": len(set(table["image_id"].to_pylist())),
            "repeated": sum(table["repeated"].to_pylist()),
        }
    assert summary == dict(out.counts) == {"parts": n_parts, **{n: sum(c[n] for c in counts) for n in counts[0]}}


@given(LISTS, st.integers(1, 30), st.integers(1, 2000))
@settings(max_examples=settings.default.max_examples // 2)
def test_the_plan_does_not_depend_on_how_it_was_held(rows, chunk, held):
    """Chunks of any size, spilled at any time, into any number of buckets, give the same bytes."""
    with tempfile.TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        write(Path(scratch) / "list.jsonl", rows)
        digests = []
        for name, values in (("one", None), ("other", (chunk, held))):
            if values:
                patch.setattr(contract, "CHUNK_ROWS", values[0])
                patch.setattr(buckets, "BUFFER_BYTES", values[1])
                patch.setattr(buckets, "BUCKET_ROWS", values[0])
            folder, out = run_plan(Path(scratch) / name, source(Path(scratch) / "list.jsonl"), part_size=3)
            units = range(out.counts["parts"])
            digests.append([folder.marker(part).files["pairs.parquet"].sha256 for part in units])
    assert digests[0] == digests[1]


def test_no_more_than_a_buffer_and_a_bucket_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(buckets, "BUFFER_BYTES", 10_000)
    monkeypatch.setattr(buckets, "BUCKET_ROWS", 100)
    shape = pa.schema([("part", pa.int64()), ("text", pa.string())])
    spilled = Buckets(tmp_path, shape, n_parts=50, part_size=20)
    waiting = []
    for start in range(0, 1000, 10):
        parts = np.arange(start, start + 10) % 50
        spilled.add(pa.table({"part": parts, "text": ["x" * 100] * 10}, schema=shape), parts)
        waiting.append(spilled.waiting_bytes)
    assert max(waiting) <= 10_000
    sizes = []
    for numbers, table in spilled.read():
        assert set(table["part"].to_pylist()) == set(numbers)
        sizes.append(table.num_rows)
    assert sizes == [100] * 10
    assert list(tmp_path.iterdir()) == []


def test_uids_name_pairs(tmp_path: Path):
    uids = ["0" * 31 + "a", "0" * 31 + "B", "0" * 31 + "a"]
    table = pa.table({"uid": uids, "url": ["http://a", "http://b", "http://a"], "text": ["x", "y", "z"]})
    pq.write_table(table, tmp_path / "a.parquet")
    folder, _ = run_plan(tmp_path / "run", source(tmp_path / "a.parquet", caption="text", uid="uid"))
    planned = rows_of(folder)
    assert [pair.hex() for pair in planned["pair_id"].to_pylist()] == [uid.lower() for uid in uids]
    assert planned["repeated"].to_pylist() == [False, False, True]
    assert planned.column_names == schema.PLAN.names


@pytest.mark.parametrize("uid", ["0" * 31, "g" * 32, "", None, "0" * 33])
def test_a_uid_that_is_none_names_its_row(tmp_path: Path, uid):
    table = pa.table({"uid": pa.array(["0" * 32, uid], pa.string()), "url": ["a", "b"], "caption": ["", ""]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(SourceError, match=r"a\.parquet: row 1: uid is .*, not 32 hex digits"):
        run_plan(tmp_path / "run", source(tmp_path / "a.parquet", uid="uid"))


def test_repeats_of_uids_are_found_among_other_images_of_the_part(tmp_path: Path):
    uids, urls = ["0" * 32, "1" * 32] * 10, [f"http://{n % 4}" for n in range(20)]
    table = pa.table({"uid": uids, "url": urls, "caption": [""] * 20})
    pq.write_table(table, tmp_path / "a.parquet")
    planned = rows_of(run_plan(tmp_path / "run", source(tmp_path / "a.parquet", uid="uid"))[0])
    # Of one uid with several URLs, which image there will be is not known yet: each is fetched and measured.
    assert planned["repeated"].to_pylist() == [False] * 4 + [True] * 16
