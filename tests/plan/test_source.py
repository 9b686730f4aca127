"""Which files a source names, what identifies them, and what can be wrong with them."""

import os
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.plan_run import columns, rows_of, run_plan, source

from curate import schema
from curate.errors import SourceError
from curate.plan.source import listing

LIST = b"url,caption\nhttp://a,a\n"


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(LIST)


def names(*paths: Path | str) -> list[str]:
    return [Path(file["path"]).name for file in listing([str(path) for path in paths])]


def test_folders_and_globs_are_sorted_and_leave_hidden_files_out(tmp_path: Path):
    put(tmp_path, "b.csv", "a.csv.gz", ".c.csv", "_d.csv", "e.npz", "_tmp/f.csv", "deep/g.csv", ".git/h.csv", "z.CSV")
    assert names(tmp_path) == ["a.csv.gz", "b.csv", "g.csv", "z.CSV"]
    assert names(tmp_path / "*.csv") == ["b.csv"]
    assert names(tmp_path / "b.csv", tmp_path / "*.csv*") == ["b.csv", "a.csv.gz"]
    assert names(tmp_path / "**" / "*.csv") == ["b.csv", "g.csv"]


def test_relative_paths_stay_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    put(tmp_path, "lists/a.csv")
    monkeypatch.chdir(tmp_path)
    assert [file["path"] for file in listing(["lists"])] == ["lists/a.csv"]
    assert [file["path"] for file in listing(["lists/*.csv"])] == ["lists/a.csv"]


def test_a_name_with_brackets_is_a_file_before_it_is_a_glob(tmp_path: Path):
    put(tmp_path, "a[1].csv", "a1.csv")
    assert names(tmp_path / "a[1].csv") == ["a[1].csv"]


def test_identity_is_the_content_and_not_the_time(tmp_path: Path):
    put(tmp_path, "a.csv")
    first = listing([str(tmp_path)])
    os.utime(tmp_path / "a.csv", (0, 0))
    assert listing([str(tmp_path)]) == first
    (tmp_path / "a.csv").write_bytes(LIST.replace(b"a,a", b"b,b"))
    assert listing([str(tmp_path)]) != first
    assert first[0]["size"] == len(LIST)


def test_lists_lie_in_any_file_system(tmp_path: Path):
    memory = fsspec.filesystem("memory")
    memory.pipe({"/lists/a.csv": LIST, "/lists/b.csv": LIST.replace(b"http://a", b"http://b")})
    try:
        assert [file["path"] for file in listing(["memory://lists/*.csv"])] == [
            "memory:///lists/a.csv",
            "memory:///lists/b.csv",
        ]
        table = rows_of(run_plan(tmp_path / "run", source(paths=["memory://lists"]))[0])
        assert table["url"].to_pylist() == ["http://a", "http://b"]
    finally:
        memory.rm("/lists", recursive=True)


def test_lists_on_s3_are_known_by_the_etags_of_the_store(tmp_path: Path, s3: str):
    put(tmp_path / "s3" / "bucket" / "lists", "a.csv", "deep/b.csv", "_c.csv")
    found = listing(["s3://bucket/lists"], s3)
    assert [file["path"] for file in found] == ["s3://bucket/lists/a.csv", "s3://bucket/lists/deep/b.csv"]
    assert all(file["etag"] and not file["etag"].startswith("blake2b:") for file in found)
    assert columns(source("s3://bucket/lists/*.csv"), s3) == schema.PLAN
    folder, _ = run_plan(tmp_path / "run", source("s3://bucket/lists"), endpoint=s3)
    assert rows_of(folder)["repeated"].to_pylist() == [False, True]
    with pytest.raises(SourceError, match="no file matches"):
        listing(["s3://bucket/lists/x*.csv"], s3)


def csv(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "a.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing.csv", "does not exist"),
        ("*.tsv", "no file matches"),
        (
            "notes.md",
            r"a list's name ends in .*\.csv, .*\.parquet, .*; \.csv, \.jsonl, .* may be followed by \.gz or \.zst",
        ),
        ("a.parqet", r"did you mean '\.parquet'"),
        ("a.parquet.gz", r"a list's name ends in .*; \.csv.* may be followed by \.gz"),
        ("empty", "holds no list"),
        ("mixed", r"several formats \(csv, txt\)"),
    ],
)
def test_paths_that_name_no_list(tmp_path: Path, path, message):
    put(tmp_path, "notes.md", "a.parqet", "a.parquet.gz", "mixed/a.csv", "mixed/README.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=message) as error:
        listing([str(tmp_path / path)])
    assert str(error.value).startswith(str(tmp_path))
    assert "\n" not in str(error.value)


def test_an_unknown_protocol_is_one_line():
    with pytest.raises(SourceError, match=r"nosuch://x/a\.csv cannot be read"):
        listing(["nosuch://x/a.csv"])


@pytest.mark.parametrize(
    ("text", "more", "message"),
    [
        ("URL,TEXT\na,b\n", {}, r"no column 'url' \(source.url\), only URL, TEXT"),
        (
            "url,captions\na,b\n",
            {},
            r"no column 'caption' \(source.caption\).*; did you mean 'captions'",
        ),
        ("url,caption\na,b\n", {"uid": "id"}, r"no column 'id' \(source.uid\)"),
        ("url,caption\na,b\n", {"url": 0}, "numbers need header: false"),
        ("a,b\n", {"header": False}, "numbers from 0, not 'url'"),
        ("a,b\n", {"header": False, "url": 0, "caption": 2}, r"no column 2 \(source.caption\), only 0, 1"),
        (
            "a cat,https://example.com/1.jpg\na dog,https://example.com/2.jpg\n",
            {},
            r"'url' .* a cat, https://example\.com/1\.jpg; its first line looks like a row: .* \(source\.url: 1\)$",
        ),
        ("url,caption,url\na,b,c\n", {}, "two columns are named 'url'"),
        ("url,caption,n\na,b,c\n", {"keep_columns": ["nn"]}, "no list has a column 'nn'; did you mean 'n'"),
        ("url,caption,row\na,b,c\n", {}, "column 'row' would become source_row"),
        ("url,caption,n,N\na,b,c,d\n", {}, "column 'N' would become source_N, but source_n exists already"),
        ("url,caption\n", {}, "the list is empty: no rows in .*a.csv"),
        ("", {}, "the list is empty"),
    ],
)
def test_columns_that_are_not_there(tmp_path: Path, text, more, message):
    with pytest.raises(SourceError, match=message) as error:
        columns(source(csv(tmp_path, text), **more))
    assert "\n" not in str(error.value)


def test_types_that_disagree_name_both_files(tmp_path: Path):
    for name, values in (("a", [1]), ("b", ["x"])):
        pq.write_table(pa.table({"url": ["u"], "caption": ["c"], "n": values}), tmp_path / f"{name}.parquet")
    with pytest.raises(SourceError, match=r"column 'n' is int64 in .*a\.parquet and string in .*b\.parquet"):
        columns(source(tmp_path))
    assert columns(source(tmp_path, keep_columns=[])) == schema.PLAN


def test_a_column_that_was_passed_through_before_keeps_its_name(tmp_path: Path):
    """As the shards of a result have them."""
    path = csv(tmp_path, "url,caption,source_width,width,source_tag,source_row,source_source_width\nu,c,2,1,t,7,3\n")
    (row,) = rows_of(run_plan(tmp_path / "run", source(path))[0]).to_pylist()
    assert {name: value for name, value in row.items() if name.startswith("source_")} == {
        "source_row": 0,
        "source_width": 1,
        "source_source_width": 2,
        "source_source_source_width": 3,
        "source_tag": "t",
        "source_source_row": 7,
    }
    path = csv(tmp_path, "url,caption,source_width,source_Width,source_\nu,c,2,3,4\n")
    kept = columns(source(path)).names
    assert kept == [*schema.PLAN.names, "source_width", "source_source_Width", "source_source_"]


def test_only_named_columns_are_kept(tmp_path: Path):
    path = csv(tmp_path, "url,caption,a,b\nu,c,1,x\n")
    kept = columns(source(path, keep_columns=["b", "url"]))
    assert kept.names == [*schema.PLAN.names, "source_b", "source_url"]
    assert rows_of(run_plan(tmp_path / "run", source(path, keep_columns=["b", "url"]))[0])[
        "source_url"
    ].to_pylist() == ["u"]
