"""Every list format and compression, against the readers of other libraries."""

import csv
import gzip
import io
import json
import tempfile
from collections import Counter
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.plan_run import columns, rows_of, run_plan, source
from hypothesis import given
from hypothesis import strategies as st

from curate import schema
from curate.errors import SourceError
from curate.plan.cells import NO_TEXT
from curate.plan.formats import delimited
from curate.plan.formats.contract import Dialect
from curate.plan.formats.registry import list_file
from curate.plan.rows import NO_CAPTION

ROWS = pd.DataFrame(
    {
        "url": [f"https://example.com/{number}.jpg" for number in range(40)],
        "caption": ['a "quoted", cat', "ein Hund – süß", "", "line\u2028break", "日本 🐈"] * 8,
        "width": list(range(40)),
        "similarity": [number / 7 for number in range(40)],
        "name": [f"{number:03d}" for number in range(40)],
    }
)


def packed(data: bytes, compression: str) -> bytes:
    if compression == ".gz":
        return gzip.compress(data[:100]) + gzip.compress(data[100:])
    return bytes(pa.compress(data, codec="zstd", asbytes=True)) if compression == ".zst" else data


def written(kind: str) -> bytes:
    """The rows as pandas, csv and json write them."""
    text = io.StringIO()
    if kind == "csv":
        ROWS.to_csv(text, index=False)
    elif kind == "tsv":
        text.write("\t".join(ROWS.columns) + "\n")
        text.writelines("\t".join(map(str, row)) + "\n" for row in ROWS.itertuples(index=False))
    else:
        ROWS.to_json(text, orient="records", lines=True)
    return text.getvalue().encode()


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_text_lists_come_back_as_pandas_wrote_them(tmp_path: Path, kind, compression):
    path = tmp_path / f"list.{kind}{compression}"
    path.write_bytes(packed(written(kind), compression))
    table = rows_of(run_plan(tmp_path / "run", source(path), part_size=7)[0])
    passed = ROWS.rename(columns={name: f"source_{name}" for name in ("width", "similarity", "name")})
    pd.testing.assert_frame_equal(table.select(list(passed.columns)).to_pandas(), passed)
    assert table["source_row"].to_pylist() == list(range(40))
    assert table.schema == columns(source(path))


def test_parquet_comes_back_with_its_types(tmp_path: Path):
    table = pa.table(
        {
            "URL": pa.array(ROWS["url"]).dictionary_encode(),
            "TEXT": pa.array([None, *ROWS["caption"][1:]], pa.large_string()),
            "boxes": [[[0.5, float(number)]] for number in range(40)],
            "taken": pa.array(range(40), pa.timestamp("ms", tz="UTC")),
            "small": pa.array([None, *range(39)], pa.uint8()),
            "half": pa.array(ROWS["similarity"], pa.float32()).cast(pa.float16()),
            "nothing": pa.nulls(40),
        }
    )
    pq.write_table(table, tmp_path / "list.parquet", row_group_size=9)
    of = source(tmp_path / "list.parquet", url="URL", caption="TEXT")
    planned = rows_of(run_plan(tmp_path / "run", of, part_size=7)[0])
    assert planned["url"].to_pylist() == table["URL"].to_pylist()
    assert planned["caption"].to_pylist() == ["", *table["TEXT"].to_pylist()[1:]]
    for name in ("boxes", "taken", "small", "half"):
        assert planned[f"source_{name}"].type == table[name].type
        assert planned[f"source_{name}"].to_pylist() == table[name].to_pylist()
    assert planned["source_nothing"].null_count == 40
    assert planned.schema == columns(of)


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
def test_txt_is_one_url_each_line(tmp_path: Path, compression):
    (tmp_path / f"urls.txt{compression}").write_bytes(
        packed(b"http://a\r\n\nhttp://b\n" * 20 + b"http://c", compression)
    )
    table = rows_of(run_plan(tmp_path / "run", source(tmp_path / f"urls.txt{compression}", url="other"))[0])
    assert table["url"].to_pylist() == ["http://a", "http://b"] * 20 + ["http://c"]
    assert set(table["caption"].to_pylist()) == {""}
    assert table["repeated"].to_pylist() == [False] * 2 + [True] * 38 + [False]


@pytest.mark.parametrize(("line", "url", "caption"), [("{c}\t{u}\n", 1, 0), ("{u}\t{c}\n", 0, 1)])
def test_headerless_tsv_of_cc3m_and_cc12m(tmp_path: Path, line, url, caption):
    captions = ['a 5" pipe', '"open quote', "a cat, sitting", "trailing \\"]
    (tmp_path / "cc.tsv").write_text("".join(line.format(c=c, u=f"http://x/{n}") for n, c in enumerate(captions)))
    table = rows_of(run_plan(tmp_path / "run", source(tmp_path / "cc.tsv", url=url, caption=caption, header=False))[0])
    assert table["caption"].to_pylist() == captions
    assert table["url"].to_pylist() == [f"http://x/{n}" for n in range(4)]
    assert table.column_names == schema.PLAN.names


def dialect(tmp_path: Path, name: str, text: str, **more) -> tuple[list[tuple[str, str]], list[str]]:
    """A list's URLs and captions, and the notes about its rows without its path."""
    (tmp_path / name).write_text(text, newline="")
    folder, out = run_plan(tmp_path / f"run-{name}-{more}", source(tmp_path / name, **more))
    table = rows_of(folder)
    rows = list(zip(table["url"].to_pylist(), table["caption"].to_pylist(), strict=True))
    notes = [note.removeprefix(f"{tmp_path / name}: ") for note in out.notes]
    return rows, [note for note in notes if not note.startswith(NO_CAPTION)]


LAION = 'a 5" pipe\thttp://0\n"open quote\thttp://1\n"a whole one"\thttp://2\nclosing"\thttp://3\n'
"""Captions as LAION's and CC12M's tsv have them."""


def test_a_tsv_is_not_quoted_unless_the_recipe_says_so(tmp_path: Path):
    headerless = {"header": False, "caption": 0, "url": 1}
    rows, notes = dialect(tmp_path, "a.tsv", LAION, **headerless)
    captions = ['a 5" pipe', '"open quote', '"a whole one"', 'closing"']
    assert rows == [(f"http://{number}", caption) for number, caption in enumerate(captions)]
    assert notes == [f"{delimited.WRAPPED} (1)"]
    # Read as quoting, the same quotes join rows: it is told.
    rows, notes = dialect(tmp_path, "a.tsv", LAION, quoted=True, **headerless)
    assert len(rows) == 3
    assert notes == [
        f"{delimited.SPANNING} (1)",
        f"{delimited.STRAY} (1)",
    ]


def test_a_quoted_tsv_as_pandas_writes_it(tmp_path: Path):
    captions = ["tab\there", "line\nbreak", 'say "hi"', "plain"]
    urls = [f"http://{number}" for number in range(4)]
    text = pd.DataFrame({"url": urls, "caption": captions}).to_csv(sep="\t", index=False)
    rows, notes = dialect(tmp_path, "a.tsv", text, quoted=True)
    assert rows == list(zip(urls, captions, strict=True))
    assert notes == [f"{delimited.SPANNING} (1)"]
    rows, notes = dialect(tmp_path, "a.tsv", text)
    assert len(rows) == 5
    assert set(notes) == {f"{delimited.FEWER} (1)", f"{delimited.MORE} (1)", f"{delimited.WRAPPED} (1)"}


def test_a_csv_is_quoted_unless_the_recipe_says_so(tmp_path: Path):
    text = 'url,caption\nhttp://0,"a\r\n""b"""\nhttp://1,"c" d\nhttp://2,5" pipe\nhttp://3,"e'
    rows, notes = dialect(tmp_path, "a.csv", text)
    assert rows == [("http://0", 'a\r\n"b"'), ("http://1", "c d"), ("http://2", '5" pipe'), ("http://3", "e")]
    assert notes == [f"{delimited.SPANNING} (1)", f"{delimited.STRAY} (2)"]
    rows, notes = dialect(tmp_path, "a.csv", text.replace("\r\n", ""), quoted=False)
    assert rows == [("http://0", '"a""b"""'), ("http://1", '"c" d'), ("http://2", '5" pipe'), ("http://3", '"e')]
    assert notes == [f"{delimited.WRAPPED} (1)"]


def test_a_stray_quote_costs_the_lines_that_it_took_and_is_told(tmp_path: Path):
    lines = ["url,caption", 'http://0,"stray', *(f"http://{n},{'x' * 1000}" for n in range(1, 200))]
    rows, notes = dialect(tmp_path, "a.csv", "\n".join(lines) + "\n")
    assert rows[0] == ("", "")
    assert 60 < len(rows) < 75
    assert rows[-1][0] == "http://199"
    assert f"{delimited.ENDLESS} (1)" in notes
    rows, notes = dialect(tmp_path, "a.csv", "\n".join(lines) + "\n", quoted=False)
    assert len(rows) == 200
    assert notes == []


def test_rows_of_other_widths_are_counted(tmp_path: Path):
    rows, notes = dialect(tmp_path, "a.tsv", "url\tcaption\nhttp://0\nhttp://1\tb\tc\n\nhttp://2\td\n")
    assert rows == [("http://0", ""), ("http://1", "b"), ("http://2", "d")]
    assert notes == [f"{delimited.FEWER} (1)", f"{delimited.MORE} (1)"]


@given(
    rows=st.lists(
        st.tuples(*[st.text(st.characters(codec="utf-8", exclude_characters="\0\ufeff"), max_size=6)] * 2), max_size=6
    )
)
def test_what_csv_writes_comes_back_whatever_it_holds(rows):
    """And nothing that a writer may write is counted but cells that span lines."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "a.tsv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL).writerows([("url", "caption"), *rows])
        unusual: Counter[str] = Counter()
        read = []
        list_ = list_file(str(path))
        for chunk in list_.format.chunks(list_, Dialect(quoted=True), None):
            unusual.update(chunk.unusual)
            read += zip(chunk.columns["url"], chunk.columns["caption"], strict=True)
    assert read == rows
    assert not unusual - Counter({delimited.SPANNING: len(rows)})


def test_bad_bytes_and_bad_lines_are_rows(tmp_path: Path):
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfurl,caption,n\nhttp://a,caf\xe9,1\nhttp://b\nhttp://c,x,2,3\n")
    (tmp_path / "b.jsonl").write_bytes(
        b'{"url": "http://d", "caption": "\\ud83d \\ud83d\\ude00", "n": 3}\n{"url": 5, "caption": 7, "n": "x"}\n'
        b'{"url": "http:\n[1]\n{"url": null}\n{"url": "http://e", "caption": {"a": 1}, "n": null}\n'
    )
    folder, out = run_plan(tmp_path / "run", source(tmp_path / "*.*"))
    table = rows_of(folder)
    assert table["url"].to_pylist() == ["http://a", "http://b", "http://c", "http://d", "", "", "", "", "http://e"]
    captions = ["caf\ufffd", "", "x", "\ufffd 😀", "7", "", "", "", ""]
    assert table["caption"].to_pylist() == captions
    # The csv's numbers and the jsonl's, one of which is text, have text in common.
    assert table["source_n"].to_pylist() == ["1", None, "2", "3", "x", None, None, None, None]
    assert out.notes == [
        f"{tmp_path / 'b.jsonl'}: {NO_TEXT} (1)",
        f"{tmp_path / 'b.jsonl'}: lines that are not JSON objects became empty rows (2)",
        f"{tmp_path / 'a.csv'}: {delimited.FEWER} (1)",
        f"{tmp_path / 'a.csv'}: {delimited.MORE} (1)",
        f"{tmp_path / 'a.csv'} and 1 other: {NO_CAPTION} (5)",
    ]


def test_invalid_utf8_in_parquet_is_replaced(tmp_path: Path):
    broken = pa.array([b"ok", b"caf\xe9"], pa.binary())
    text = pa.StringArray.from_buffers(2, broken.buffers()[1], broken.buffers()[2])
    pq.write_table(pa.table({"url": ["http://a", "http://b"], "caption": text, "more": text}), tmp_path / "a.parquet")
    table = rows_of(run_plan(tmp_path / "run", source(tmp_path / "a.parquet"))[0])
    assert table["caption"].to_pylist() == table["source_more"].to_pylist() == ["ok", "caf\ufffd"]


def test_numbers_in_text_are_numbers_only_where_nothing_is_lost(tmp_path: Path):
    lines = [
        "url,caption,whole,real,zeros,long,words,gaps",
        "http://a,a,1,1.5,007,1234567890123456789,x,",
        "http://b,b,-2,1e3,008,1234567890123456780,,NA",
        "http://c,c,3,nan,009,1234567890123456781,z,4",
    ]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    table = rows_of(run_plan(tmp_path / "run", source(tmp_path / "a.csv"))[0])
    assert table["source_whole"].to_pylist() == [1, -2, 3]
    assert table["source_real"].to_pylist() == [1.5, 1000.0, None]
    assert table["source_zeros"].to_pylist() == ["007", "008", "009"]
    assert table["source_long"].to_pylist()[0] == "1234567890123456789"
    assert table["source_words"].to_pylist() == ["x", None, "z"]
    assert table["source_gaps"].to_pylist() == [None, None, 4]


def test_a_late_cell_that_does_not_fit_is_null_and_noted(tmp_path: Path):
    rows = [{"url": f"http://{n}", "caption": "a", "n": n if n != 16_390 else "many"} for n in range(16_400)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (tmp_path / "b.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["url", "caption", "n"])
        writer.writeheader()
        writer.writerows(rows)
    for name in ("a.jsonl", "b.csv"):
        folder, out = run_plan(tmp_path / f"run-{name}", source(tmp_path / name), part_size=20_000)
        assert rows_of(folder)["source_n"].to_pylist() == [n if n != 16_390 else None for n in range(16_400)]
        assert out.notes == ["source_n: cells that do not parse as int64 became null (1)"]


def test_lists_of_several_formats_share_their_columns(tmp_path: Path):
    table = pa.table({"url": ["http://p"], "caption": ["p"], "n": pa.array([1], pa.int16())})
    pq.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "b.csv").write_text("url,caption,n,m\nhttp://c,c,2.5,x\n")
    (tmp_path / "c.txt").write_text("http://t\n")
    of = source(*sorted(tmp_path.glob("*.*")), keep_columns=["n", "m"], caption=None)
    table = rows_of(run_plan(tmp_path / "run", of)[0])
    assert table["url"].to_pylist() == ["http://p", "http://c", "http://t"]
    assert table["source_n"].to_pylist() == [1.0, 2.5, None]
    assert table["source_m"].to_pylist() == [None, "x", None]


@pytest.mark.parametrize("name", ["a.parquet", "a.csv.gz", "a.jsonl.zst", "a.jsonl"])
def test_a_broken_file_is_named_in_one_line(tmp_path: Path, name):
    (tmp_path / name).write_bytes(b"this is no list of any kind\n" * 10)
    with pytest.raises(SourceError, match=f"{name} cannot be read: ") as error:
        columns(source(tmp_path / name))
    assert "\n" not in str(error.value)


def test_a_file_that_ends_early_is_named(tmp_path: Path):
    noise = "".join(f"http://{n},{(n * 7919) ** 5}\n" for n in range(50_000))
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(f"url,caption\n{noise}".encode())[:-40])
    with pytest.raises(SourceError, match=r"a\.csv\.gz cannot be read: "):
        run_plan(tmp_path / "run", source(tmp_path / "a.csv.gz"))
