"""Counts over many files are one line each."""

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
