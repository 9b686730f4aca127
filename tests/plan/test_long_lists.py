"""Long lists, which are planned by units: the same bytes as in one unit, and nothing is done again after a kill."""

import contextlib
import csv
import gzip
import io
import json
import re
import tempfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.inline_engine import InlineEngine
from helpers.plan_run import plan_by_units, run_plan, source, written
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.commands.main import main
from curate.engine.local import LocalEngine
from curate.errors import SourceError
from curate.plan import buckets, id_index, passes
from curate.plan.formats import contract
from curate.store import Folder, Store

URLS = st.one_of(st.none(), st.sampled_from(["", "http://a", "http://b", "http://c"]), st.text(max_size=6))
TEXT = st.one_of(
    st.sampled_from(["", "a cat", '"quoted"', 'stray " quote', '"open', "two\nlines", "a\rb", "c\r\nd", "[x]", "007"]),
    st.text(max_size=6),
)
CAPTIONS = st.one_of(st.none(), TEXT, st.lists(TEXT, max_size=3), st.integers(), st.booleans())
ROWS = st.lists(st.tuples(URLS, CAPTIONS, st.one_of(st.none(), st.integers(0, 3), TEXT)), min_size=1, max_size=25)
KINDS = st.sampled_from(["jsonl", "jsonl.gz", "csv", "csv.gz", "tsv", "txt", "parquet", "arrow"])
DIVIDED = st.tuples(st.integers(1, 8), st.integers(1, 12), st.integers(1, 5), st.integers(1, 3))


def clean(cell):
    return None if cell is None else str(cell).encode("utf-8", "replace").decode()


def content(kind: str, rows) -> bytes:
    """A list of the rows; formats without lists of captions hold them as text."""
    text = io.StringIO(newline="")
    if kind == "jsonl":
        for url, caption, more in rows:
            text.write(json.dumps({"url": url, "caption": caption, "more": more}) + "\n" * (1 + len(str(more)) % 2))
    elif kind == "txt":
        text.write("\n".join(clean(url) or "" for url, _, _ in rows))
    elif kind == "csv":
        writer = csv.writer(text, quoting=csv.QUOTE_MINIMAL)
        writer.writerow(["url", "caption", "more"])
        for number, row in enumerate(rows):
            writer.writerow([clean(cell) for cell in row][: 3 - number % 5 // 4])
            if number % 7 == 6:
                # What csv writes never: quotes in the midst of a cell, and without an end.
                text.write(f"http://d,{clean(row[1])},4\n")
    elif kind == "tsv":
        text.write("url\tcaption\tmore\n")
        for row in rows:
            text.write("\t".join((clean(cell) or "").replace("\n", " ").replace("\t", " ") for cell in row) + "\n")
    else:
        lists = [caption if isinstance(caption, list) else [str(caption)] for _, caption, _ in rows]
        columns = {
            "url": pa.array([clean(url) for url, _, _ in rows], pa.string()),
            "caption": pa.array([[clean(one) for one in of] for of in lists], pa.list_(pa.string())),
            "more": pa.array([clean(more) for _, _, more in rows], pa.string()),
        }
        table, sink = pa.table(columns), io.BytesIO()
        if kind == "parquet":
            pq.write_table(table, sink, row_group_size=3)
        else:
            with pa.ipc.new_file(sink, table.schema) as file:
                file.write_table(table, 3)
        return sink.getvalue()
    return text.getvalue().encode("utf-8", "replace")


def write(folder: Path, kind: str, several) -> dict:
    plain, _, packed = kind.partition(".")
    for number, rows in enumerate(several):
        data = content(plain, rows)
        (folder / f"{number}.{kind}").write_bytes(gzip.compress(data) if packed else data)
    return source(*(folder / f"{number}.{kind}" for number in range(len(several))))


def divide(patch, piece, bucket, ids, lists):
    """Divides lists of a few rows as long ones are divided."""
    patch.setattr(contract, "PIECE_ROWS", piece)
    patch.setattr(contract, "CHUNK_ROWS", max(1, piece // 2))
    patch.setattr(buckets, "BUCKET_ROWS", bucket)
    patch.setattr(id_index, "ROWS", ids)
    patch.setattr(passes, "CUT_LISTS", lists)


def check_same(root: Path, of: dict, part_size: int, seed: int, sizes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # The number of tables of the index is part of the plan.
        patch.setattr(id_index, "ROWS", sizes[2])
        try:
            folder, _ = run_plan(root / "one", of, part_size, seed)
        except SourceError as error:
            with pytest.raises(SourceError, match=re.escape(str(error))):
                plan_by_units(root / "many", of, part_size, seed)
            return
        divide(patch, *sizes)
        many = plan_by_units(root / "many", of, part_size, seed)
    assert written(many) == written(folder)
    left = {path.name for path in (root / "many" / many.path).iterdir()}
    assert left <= {"done", "ids", "pairs", "parts", "summary", "pass.json", "attempts"}, "work in progress is deleted"


@settings(max_examples=settings.default.max_examples // 6)
@given(KINDS, st.lists(ROWS, min_size=1, max_size=3), st.integers(1, 9), st.integers(0, 3), DIVIDED)
def test_a_plan_by_units_has_the_bytes_of_one_in_one_unit(kind, several, part_size, seed, sizes):
    with tempfile.TemporaryDirectory() as name:
        check_same(Path(name), write(Path(name), kind, several), part_size, seed, sizes)


MARKS = [b'"', b",", b"\t", b"\n", b"\r", b"\r\n", b"a", b"\xff", b"\xe2\x82", b"\xc3\xa9", b" ", b"["]
BYTES = st.lists(st.sampled_from([*MARKS, b'{"url": "x", "caption": ["a", "b"]}\n']), max_size=60).map(b"".join)


@settings(max_examples=settings.default.max_examples // 3)
@given(st.sampled_from(["csv", "tsv", "jsonl", "txt"]), st.sampled_from([b"", b"\xef\xbb\xbf"]), BYTES, DIVIDED)
def test_any_bytes_are_cut_where_one_reader_ends_a_row(kind, mark, data, sizes):
    head = {"csv": b"url,caption\nx,y\n", "tsv": b"url\tcaption\nx\ty\n"}.get(kind, b'{"url": 1, "caption": 2}\n')
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / f"list.{kind}"
        path.write_bytes(mark + head + data)
        check_same(Path(name), source(path), 2, 0, sizes)


class Killed(BaseException):
    """The end of a driver."""


class KilledEngine(InlineEngine):
    """Dies after some units; counts those that it ran."""

    def __init__(self, lives: int) -> None:
        super().__init__()
        self.lives = lives

    def wait(self, seconds):
        if len(self.order) == self.lives:
            raise Killed
        return super().wait(seconds)


@given(st.lists(st.integers(0, 6), max_size=12))
@settings(max_examples=settings.default.max_examples // 20)
def test_killed_anywhere_it_goes_on_and_does_nothing_twice(kills):
    rows = [(f"http://{number % 17}", f"caption {number}", number) for number in range(60)]
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        root = Path(name)
        of = write(root, "jsonl", [rows[:20], rows[20:]])
        divide(patch, 7, 9, 11, 1)
        folder, _ = run_plan(root / "one", of, part_size=3)
        done = []
        for lives in kills:
            engine = KilledEngine(lives)
            with contextlib.suppress(Killed):
                plan_by_units(root / "many", of, part_size=3, engine=engine)
            done += engine.order
        last = KilledEngine(-1)
        plan = plan_by_units(root / "many", of, part_size=3, engine=last)
        assert written(plan) == written(folder)
        done += last.order
        # look; two lists; 8 groups of their 3 and 6 pieces; 7 buckets of parts; 6 tables of ids; the whole
        assert sorted(Counter(name for name, _ in done).items()) == [
            ("plan", 1),
            ("plan-cut", 2),
            ("plan-ids", 6),
            ("plan-look", 1),
            ("plan-read", 8),
            ("plan-sort", 7),
        ]
        assert len(set(done)) == len(done)
        assert not (root / "many" / plan.path / "work").exists()


def test_what_a_driver_left_that_died_before_it_tidied_up_is_deleted(tmp_path: Path, monkeypatch):
    of = write(tmp_path, "jsonl", [[("http://a", "a", 1)] * 20])
    divide(monkeypatch, 7, 9, 11, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "delete_folder", lambda self, folder: None)
        plan = plan_by_units(tmp_path / "run", of, part_size=3)
    work = tmp_path / "run" / plan.path / "work"
    assert work.exists()
    engine = InlineEngine()
    plan_by_units(tmp_path / "run", of, part_size=3, engine=engine)
    assert (engine.order, work.exists()) == ([], False)


@pytest.mark.soak
def test_two_processes_give_the_same_plan(tmp_path: Path):
    rows = [(f"http://{number % 997}", f"caption {number}", number) for number in range(3000)]
    of = write(tmp_path, "jsonl", [rows, rows[:700], rows[:500]])
    folder, _ = run_plan(tmp_path / "one", of, part_size=300)
    engine = LocalEngine()
    try:
        with pytest.MonkeyPatch.context() as patch:
            # The processes of the engine get what is divided in the settings of their works, but for buckets.
            patch.setattr(contract, "PIECE_ROWS", 500)
            patch.setattr(passes, "CUT_LISTS", 1)
            many = plan_by_units(tmp_path / "many", of, part_size=300, engine=engine, processes=2)
    finally:
        engine.close()
    assert written(many) == written(folder)


@pytest.mark.parametrize("change", [b"", b'{"url": "http://e"}\n'])
def test_a_list_that_changes_between_two_units_is_named(tmp_path: Path, monkeypatch, change):
    of = write(tmp_path, "jsonl", [[("http://a", "a", 1)] * 20])
    divide(monkeypatch, 7, 9, 11, 1)
    with pytest.raises(Killed):
        plan_by_units(tmp_path / "run", of, part_size=3, engine=KilledEngine(2))
    path = tmp_path / "0.jsonl"
    path.write_bytes(path.read_bytes() + change if change else path.read_bytes()[:-80])
    with pytest.raises(SourceError, match=r"0\.jsonl changed while it was read: 6 rows, then"):
        plan_by_units(tmp_path / "run", of, part_size=3)


@pytest.mark.parametrize(
    ("short", "in_engine"), [(1 << 20, set()), (1000, {"plan-cut", "plan-read", "plan-sort", "plan-ids"})]
)
def test_the_size_of_the_lists_decides_and_short_ones_start_no_worker(tmp_path: Path, monkeypatch, short, in_engine):
    write(tmp_path, "tsv", [[(f"http://host.example/{number}.jpg", "a", 1) for number in range(100)]])
    recipe = {
        "version": 1,
        "source": {"paths": [str(tmp_path / "0.tsv")]},
        "output": str(tmp_path / "run"),
        "select": [],
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    started = []

    class Engine(InlineEngine):
        def start(self, work, session):
            started.append(work.name)
            return super().start(work, session)

    monkeypatch.setattr("curate.engine.local.LocalEngine", Engine)
    monkeypatch.setattr(passes, "SHORT", short)
    assert main(["run", str(tmp_path / "recipe.yaml"), "--engine", "local", "--until", "plan"]) == 0
    assert set(started) == in_engine
    (plan,) = Folder.all_in(Store(str(tmp_path / "run")))
    assert plan.marker().counts["rows"] == 100
