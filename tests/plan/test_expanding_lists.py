"""Lists that are small files and much larger in memory: bounded memory, or one line that names the list."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.plan_run import plan_by_units, rows_of, run_plan, source

from curate.errors import SourceError
from curate.plan import buckets
from curate.plan import source as lists
from curate.plan.cells import LONG_CELL, LONG_URL, MOST_CHARACTERS
from curate.plan.formats import contract, limited
from curate.plan.formats import text as text_format
from curate.plan.formats.contract import Dialect, Piece
from curate.plan.formats.registry import list_file


@pytest.fixture
def little_memory(monkeypatch):
    """Children of 64 MiB, for a test alone."""
    monkeypatch.setattr(limited, "MEMORY", 64 << 20)
    monkeypatch.setattr(limited, "_FRAME", 4 << 20)
    limited.end_idle()
    yield
    limited.end_idle()


@pytest.fixture
def short_lines(monkeypatch):
    monkeypatch.setattr(text_format, "LONGEST", 1000)
    monkeypatch.setattr(text_format, "_BLOCK", 64)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "txt"])
def test_a_long_line_is_cut_and_the_lines_around_it_are_read(tmp_path: Path, short_lines, kind, end):
    separator = b"\t" if kind == "tsv" else b","
    line = {
        "jsonl": lambda url, text: json.dumps({"url": url, "caption": text}).encode(),
        "txt": lambda url, text: f"{url}/{text}".encode(),
    }.get(kind, lambda url, text: separator.join([url.encode(), text.encode()]))
    head = [separator.join([b"url", b"caption"])] if kind in ("csv", "tsv") else []
    rows = [line("http://a", "before"), line("http://b", "x" * 5000), line("http://c", "after")]
    (tmp_path / f"list.{kind}.gz").write_bytes(bytes(pa.compress(end.join([*head, *rows]), codec="gzip", asbytes=True)))
    folder, out = run_plan(tmp_path / "run", source(tmp_path / f"list.{kind}.gz"))
    urls = rows_of(folder)["url"].to_pylist()
    assert (len(urls), urls[0][:8], urls[2][:8]) == (3, "http://a", "http://c")
    assert any(f"{text_format.CUT} (1)" in note for note in out.notes)


@pytest.mark.parametrize("length", [998, 999, 1000])
def test_a_line_of_the_longest_length_is_whole(tmp_path: Path, short_lines, length):
    (tmp_path / "list.txt").write_bytes(b"a" * length + b"\nb\n")
    folder, out = run_plan(tmp_path / "run", source(tmp_path / "list.txt"))
    assert rows_of(folder)["url"].to_pylist() == ["a" * min(length, 1000), "b"]
    assert bool(out.notes) == (length + 1 > 1000)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "arrow"])
def test_many_columns_are_one_line(tmp_path: Path, kind):
    names = ["url", "caption", *(f"c{number}" for number in range(contract.MOST_COLUMNS))]
    path = tmp_path / f"list.{kind}"
    if kind == "csv":
        path.write_text(",".join(names) + "\na,b\n")
    elif kind == "jsonl":
        path.write_text(json.dumps(dict.fromkeys(names, 1)) + "\n")
    else:
        table = pa.table({name: ["a"] for name in names})
        if kind == "parquet":
            pq.write_table(table, path)
        else:
            with pa.ipc.new_file(path, table.schema) as file:
                file.write_table(table)
    with pytest.raises(SourceError, match=rf"list\.{kind} has 10,002 columns; a list may have 10,000"):
        lists.look(source(path))


def test_columns_that_are_passed_through_have_a_bound(tmp_path: Path):
    path = tmp_path / "list.csv"
    path.write_text("url,caption," + ",".join(f"c{number}" for number in range(lists.MOST_PASSED + 1)) + "\na,b\n")
    with pytest.raises(SourceError, match=r"1,001 columns besides .*keep_columns"):
        lists.look(source(path))
    assert [column.to for column in lists.look(source(path, keep_columns=["c7"])).kept] == ["source_c7"]


def test_texts_are_cut_and_counted(tmp_path: Path):
    long = "a" * (MOST_CHARACTERS + 1)
    table = pa.table({"url": [f"http://{long}", "http://b"], "caption": ["", ""], "more": ["b", long]})
    pq.write_table(table, tmp_path / "list.parquet")
    folder, out = run_plan(tmp_path / "run", source(tmp_path / "list.parquet"))
    planned = rows_of(folder)
    assert [len(url) for url in planned["url"].to_pylist()] == [MOST_CHARACTERS, 8]
    assert planned["source_more"].to_pylist() == ["b", long[:-1]]
    assert {f"{tmp_path}/list.parquet: {LONG_URL} (1)", f"source_more: {LONG_CELL} (1)"} <= set(out.notes)


@pytest.mark.parametrize("by_units", [False, True])
def test_a_bucket_too_large_is_sorted_part_by_part_and_a_part_too_large_is_one_line(tmp_path, monkeypatch, by_units):
    rows = "".join(f"http://{number},{'x' * 1000}\n" for number in range(100))
    (tmp_path / "list.csv").write_text("url,caption\n" + rows)
    of = source(tmp_path / "list.csv")
    whole, _ = run_plan(tmp_path / "whole", of, part_size=10)

    def plan(name):
        return plan_by_units(tmp_path / name, of, 10) if by_units else run_plan(tmp_path / name, of, 10)[0]

    monkeypatch.setattr(buckets, "MOST_BYTES", 50_000)
    assert rows_of(plan("halves")).equals(rows_of(whole))
    monkeypatch.setattr(buckets, "MOST_BYTES", 1000)
    with pytest.raises(SourceError, match=r"part 0 of the plan has more than .*lower part_size"):
        plan("refused")


def one_text(path: Path, rows: int, length: int, kind: str = "string") -> None:
    """A list with one long caption for all rows, which a dictionary holds once."""
    caption = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), ["a" * length])
    if kind == "string":
        # Written from the dictionary, and read as plain text.
        table = pa.table({"url": [f"http://{number}" for number in range(rows)], "caption": caption})
        pq.write_table(table, path, compression="zstd", store_schema=False)
    elif kind == "dictionary":
        pq.write_table(pa.table({"url": [f"http://{number}" for number in range(rows)], "caption": caption}), path)
    else:
        table = pa.table({"url": [f"http://{number}" for number in range(rows)], "caption": caption})
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_file(path, table.schema, options=options) as file:
            file.write_table(table)


@pytest.mark.parametrize(("suffix", "kind"), [("parquet", "string"), ("parquet", "dictionary"), ("arrow", "ipc")])
def test_a_dictionary_of_a_long_text_is_read_in_small_batches(tmp_path: Path, little_memory, suffix, kind):
    # 200 MB of text, of which a child of 64 MB reads all.
    path = tmp_path / f"list.{suffix}"
    one_text(path, 2000, 100_000, kind)
    file = list_file(str(path))
    rows = largest = 0
    for chunk in file.format.read(file, Dialect(), ["url", "caption"], Piece(0, None, 0, 0)):
        rows += chunk.rows
        largest = max(largest, sum(column.nbytes for column in chunk.columns.values()))
    assert rows == 2000
    assert largest <= 5 << 20


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_a_page_larger_than_the_memory_is_one_line(tmp_path: Path, little_memory, suffix):
    path = tmp_path / f"list.{suffix}"
    one_text(path, 2, 100 << 20, "string" if suffix == "parquet" else "ipc")
    assert path.stat().st_size < 1 << 20
    with pytest.raises(SourceError, match=rf"list\.{suffix} cannot be read with 64 MiB of memory"):
        run_plan(tmp_path / "run", source(path))


def test_a_reader_that_crashes_is_one_line_and_the_next_list_has_a_new_one(tmp_path: Path, monkeypatch):
    one_text(tmp_path / "list.parquet", 10, 5)
    file = list_file(str(tmp_path / "list.parquet"))
    read = list(file.format.chunks(file, Dialect(), None))
    assert [chunk.rows for chunk in read] == [10]
    (child,) = limited._idle
    child.process.kill()
    child.process.wait()
    assert [chunk.rows for chunk in file.format.chunks(file, Dialect(), None)] == [10]
    limited.end_idle()
    monkeypatch.setattr(limited, "_START", "import os; os.abort()")
    with pytest.raises(SourceError, match=r"list\.parquet .* the process that read it ended \(exit code -6\)"):
        list(file.format.chunks(file, Dialect(), None))


PEAK = """
import re, sys
from pathlib import Path
from helpers.plan_run import run_plan, source
from curate.errors import SourceError
try:
    folder, out = run_plan(Path(sys.argv[2]), source(sys.argv[1]), 10_000)
    said = f"{out.counts['rows']} rows"
except SourceError as error:
    said = str(error)
print(said, int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) >> 10, sep="\\n")
"""


@pytest.mark.soak
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("line.jsonl.zst", "2 rows"),
        ("dictionary.parquet", "part 0 of the plan has more than 192 MB"),
        ("wide.csv", "has 30,002"),
    ],
)
def test_gigabytes_in_small_files(tmp_path: Path, name, said):
    path = tmp_path / name
    if name.startswith("line"):
        line = b'{"url": "http://b", "caption": "b"}\n{"url": "http://a", "caption": "' + b"a" * (300 << 20) + b'"}\n'
        path.write_bytes(bytes(pa.compress(line, codec="zstd", asbytes=True)))
    elif name.startswith("dictionary"):
        one_text(path, 16_384, 350_000)
    else:
        names = ["url", "caption", *(f"c{number}" for number in range(30_000))]
        path.write_text(",".join(names) + "\na,b" + "," * 30_000)
    command = [sys.executable, "-c", PEAK, str(path), str(tmp_path / "run")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    told, peak = subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout.split("\n")[:2]
    assert re.search(re.escape(said), told)
    # The reader of a typed list is another process, of 512 MiB besides what it needs to start.
    assert int(peak) <= 1000 - (0 if path.suffix != ".parquet" else 150)
