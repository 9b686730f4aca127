"""Arrow's file and stream formats as lists, against pyarrow and Feather's own writer."""

import itertools
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pytest
from helpers.plan_run import columns, rows_of, run_plan, source

from curate.errors import SourceError
from curate.plan.formats import contract
from curate.plan.formats.contract import Dialect
from curate.plan.formats.registry import list_file

ROWS = 40


@pytest.fixture
def table() -> pa.Table:
    captions = pa.array([None, "a cat", 'say "hi"', "日本"] * 10, pa.string_view())
    return pa.table(
        {
            "URL": pa.array([f"http://example.com/{number}" for number in range(ROWS)], pa.large_string()),
            "TEXT": captions,
            "kind": pa.array(["cat", "dog"] * 20).dictionary_encode(),
            "boxes": [[float(number)] * (number % 3) for number in range(ROWS)],
            "seen": pa.array(range(ROWS), pa.timestamp("s")),
        }
    )


def write(path: Path, table: pa.Table, *, stream: bool, compression: str | None = None, rows: int = 7) -> None:
    options = pa.ipc.IpcWriteOptions(compression=compression)
    opener = pa.ipc.new_stream if stream else pa.ipc.new_file
    with opener(str(path), table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=rows)


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("suffix", ["arrow", "ipc"])
def test_columns_come_back_with_their_types(tmp_path: Path, table: pa.Table, suffix, stream, compression):
    write(tmp_path / f"list.{suffix}", table, stream=stream, compression=compression)
    of = source(tmp_path / f"list.{suffix}", url="URL", caption="TEXT")
    planned = rows_of(run_plan(tmp_path / "run", of, part_size=9)[0])
    assert planned["url"].to_pylist() == table["URL"].to_pylist()
    assert planned["caption"].to_pylist() == ["" if text is None else text for text in table["TEXT"].to_pylist()]
    assert planned["source_kind"].type == pa.string()
    for name in ("kind", "boxes", "seen"):
        assert planned[f"source_{name}"].to_pylist() == table[name].to_pylist()
    # Parquet, in which a plan is stored, knows no seconds.
    assert planned["source_seen"].type == pa.timestamp("ms")
    assert planned.schema == columns(of)


def test_feather_as_pandas_writes_it(tmp_path: Path, table: pa.Table):
    table = table.set_column(1, "TEXT", table["TEXT"].cast(pa.string()))
    pyarrow.feather.write_feather(table, tmp_path / "list.feather")
    planned = rows_of(run_plan(tmp_path / "run", source(tmp_path / "list.feather", url="URL", caption="TEXT"))[0])
    assert planned["url"].to_pylist() == table["URL"].to_pylist()


@pytest.mark.parametrize("stream", [False, True])
def test_a_list_is_read_by_record_batch_and_by_column(tmp_path: Path, table: pa.Table, monkeypatch, stream):
    write(tmp_path / "list.arrow", table, stream=stream, rows=10)
    monkeypatch.setattr(contract, "CHUNK_ROWS", 4)
    file = list_file(str(tmp_path / "list.arrow"))
    chunks = list(file.format.chunks(file, Dialect(), ["URL", "nowhere"]))
    assert [chunk.rows for chunk in chunks] == [4, 4, 2] * 4
    assert all(list(chunk.columns) == ["URL"] for chunk in chunks)
    urls = itertools.chain.from_iterable(chunk.columns["URL"].to_pylist() for chunk in chunks)
    assert list(urls) == table["URL"].to_pylist()
    assert file.format.count(file, Dialect()) == ROWS


def test_an_empty_list_and_one_without_columns(tmp_path: Path, table: pa.Table):
    write(tmp_path / "empty.arrow", table.slice(0, 0), stream=True)
    with pytest.raises(SourceError, match=r"the list is empty: no rows in .*empty\.arrow"):
        columns(source(tmp_path / "empty.arrow", url="URL", caption="TEXT"))
    write(tmp_path / "none.arrow", pa.table({}), stream=False)
    with pytest.raises(SourceError, match="the list is empty"):
        columns(source(tmp_path / "none.arrow"))


def test_types_that_parquet_lacks(tmp_path: Path):
    views = pa.table({"url": ["u"], "caption": ["c"], "tags": pa.array([["a", "b"]], pa.list_view(pa.string_view()))})
    write(tmp_path / "views.arrow", views, stream=False)
    planned = rows_of(run_plan(tmp_path / "run", source(tmp_path / "views.arrow"))[0])
    assert planned["source_tags"].to_pylist() == [["a", "b"]]
    union = pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])])
    table = pa.table({"url": ["u"], "caption": ["c"], "n": union})
    write(tmp_path / "union.arrow", table, stream=False)
    with pytest.raises(SourceError, match=r"union\.arrow: column 'n' is sparse_union.*, which Parquet cannot hold"):
        columns(source(tmp_path / "union.arrow"))


def test_two_columns_of_one_name_are_refused(tmp_path: Path):
    twice = pa.Table.from_arrays([pa.array(["u"])] * 3, names=["url", "caption", "url"])
    write(tmp_path / "list.arrow", twice, stream=False)
    with pytest.raises(SourceError, match=r"list\.arrow: two columns are named 'url'"):
        columns(source(tmp_path / "list.arrow"))


@pytest.mark.parametrize("stream", [False, True])
def test_a_file_that_ends_early_is_named(tmp_path: Path, table: pa.Table, stream):
    write(tmp_path / "list.arrow", table, stream=stream)
    data = (tmp_path / "list.arrow").read_bytes()
    (tmp_path / "list.arrow").write_bytes(data[: len(data) // 2])
    with pytest.raises(SourceError, match=r"list\.arrow cannot be read: ") as error:
        run_plan(tmp_path / "run", source(tmp_path / "list.arrow", url="URL", caption="TEXT"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"url,caption\nhttp://a,b\n" * 10, b"FEA1" + bytes(100)])
def test_what_is_no_arrow_is_named(tmp_path: Path, content):
    (tmp_path / "list.arrow").write_bytes(content)
    with pytest.raises(SourceError, match=r"list\.arrow cannot be read: ") as error:
        columns(source(tmp_path / "list.arrow"))
    assert "\n" not in str(error.value)


def test_offsets_that_point_nowhere_are_found(tmp_path: Path):
    write(tmp_path / "list.arrow", pa.table({"url": ["a", "b"], "caption": ["xx", "yyyy"]}), stream=True)
    data = (tmp_path / "list.arrow").read_bytes()
    offsets = b"\0\0\0\0\2\0\0\0\6\0\0\0"
    assert offsets in data
    (tmp_path / "list.arrow").write_bytes(data.replace(offsets, offsets[:8] + b"\xff\xff\xff\x7f"))
    with pytest.raises(SourceError, match=r"list\.arrow cannot be read: .* offsets"):
        run_plan(tmp_path / "run", source(tmp_path / "list.arrow"))


def test_a_compressed_one_is_refused_with_what_to_use(tmp_path: Path):
    with pytest.raises(SourceError, match=r"a list's name ends in .*; \.csv.* may be followed by \.gz"):
        list_file("list.arrow.gz")
