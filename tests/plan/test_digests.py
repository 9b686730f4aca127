"""Digests that a list expects: how cells are read, and what the plan holds."""

import base64
import hashlib
import json

import pyarrow as pa
import pytest
from helpers.plan_run import plan_by_units, rows_of, run_plan, source

from curate.errors import SourceError
from curate.plan.digests import in_hex

SHA = hashlib.sha256(b"x").hexdigest()
MD5 = hashlib.md5(b"x").hexdigest()


def text(digest):
    return base64.b64encode(bytes.fromhex(digest)).decode()


@pytest.mark.parametrize(
    ("kind", "cell", "digest", "unfit"),
    [
        ("sha256", SHA, SHA, 0),
        ("sha256", f"  {SHA.upper()} ", SHA, 0),
        ("sha256", f"SHA256:{SHA}", SHA, 0),
        ("sha256", text(SHA), SHA, 0),
        ("md5", MD5, MD5, 0),
        ("md5", text(MD5), MD5, 0),
        ("md5", None, None, 0),
        ("md5", "  ", None, 0),
        ("sha256", MD5, None, 1),
        ("md5", SHA, None, 1),
        ("sha256", SHA[:-1] + "g", None, 1),
        ("sha256", "not known", None, 1),
        ("sha256", "x" * 1_000_000, None, 1),
        ("sha256", "ａ" * 64, None, 1),
    ],
)
def test_a_cell(kind, cell, digest, unfit):
    found, count = in_hex(pa.array([cell], pa.string()), kind)
    assert (found.to_pylist(), count) == ([digest], unfit)


def test_the_plan_holds_what_is_expected_and_names_what_is_no_digest(tmp_path):
    (tmp_path / "a.csv").write_text(f"url,caption,hash\nhttp://a/1,x,{SHA.upper()}\nhttp://a/2,x,\nhttp://a/3,x,abc\n")
    lines = [
        {"url": f"http://a/{n}", "caption": "x", "hash": value} for n, value in ((4, text(SHA)), (5, None), (6, 7))
    ]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, lines)))
    folder, out = run_plan(tmp_path / "run", source(tmp_path / "a.csv", tmp_path / "b.jsonl", sha256="hash"))
    rows = rows_of(folder)
    assert rows["expected_sha256"].to_pylist() == [SHA, None, None, SHA, None, None]
    assert "source_hash" not in rows.column_names
    (note,) = [note for note in out.notes if "source.sha256" in note]
    assert "not a sha256 in hex or base64 expect nothing" in note
    many = plan_by_units(tmp_path / "many", source(tmp_path / "a.csv", tmp_path / "b.jsonl", sha256="hash"), 1000, 0)
    assert rows_of(many)["expected_sha256"].equals(rows["expected_sha256"])
    plain, _ = run_plan(tmp_path / "plain", source(tmp_path / "a.csv"))
    assert [name for name in rows_of(plain).column_names if name.startswith("expected")] == []


def test_a_missing_column_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("url,caption\nhttp://a/1,x\n")
    with pytest.raises(SourceError, match=r"has no column 'hash' \(source\.md5\)"):
        run_plan(tmp_path / "run", source(tmp_path / "a.csv", md5="hash"))
