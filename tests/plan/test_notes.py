"""Counts over many files are one line each."""

from pathlib import Path

import pytest

from curate.commands.main import main
from curate.plan.notes import Notes


def test_a_line_says_what_and_where_and_how_often():
    notes, more = Notes(), Notes()
    notes.add({"rows were cut": 2, "rows were filled up": 0}, "a.tsv")
    notes.add({"cells became null": 1})
    assert notes.lines() == ["cells became null (1)", "a.tsv: rows were cut (2)"]
    more.add({"rows were cut": 1_000}, "b.tsv")
    more.add({"rows were cut": 1}, "a.tsv")
    notes.merge(more)
    assert notes.lines() == ["cells became null (1)", "a.tsv and 1 other: rows were cut (1,003)"]


def test_the_terminal_tells_what_was_unusual(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "list.tsv").write_text("url\tcaption\nhttp://a\nhttp://b\ta caption\n")
    (tmp_path / "recipe.yaml").write_text(
        f"{{version: 1, source: {{paths: [{tmp_path}/list.tsv]}}, output: {tmp_path}/run}}"
    )
    assert main(["run", str(tmp_path / "recipe.yaml"), "--engine", "local", "--until", "plan"]) == 0
    told = capsys.readouterr().err.splitlines()
    line = f"plan: {tmp_path}/list.tsv: rows with fewer columns than the first were filled up with nulls (1)"
    assert line in told
