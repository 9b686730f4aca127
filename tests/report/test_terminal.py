import io
import re

from helpers.report_run import STEPS, evaluation, make_run
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from curate.report.terminal import print_funnel


def printed(funnel, verdicts=None, **how):
    sink = io.StringIO()
    print_funnel(Console(file=sink, **how), funnel, verdicts)
    return sink.getvalue()


def test_plain_lines_hold_every_step_with_its_numbers(tmp_path):
    made = make_run(tmp_path, parts=1)
    lines = printed(made.funnel, force_terminal=False, width=40).splitlines()
    assert "\x1b" not in "".join(lines)
    for step, line in zip(made.funnel["steps"], lines[1:], strict=False):
        assert line.split()[:3] == [step["name"], str(step["seen"]), str(step["dropped"])]
    assert any(re.match(r"kept +60 +15 +25.0 %", line) for line in lines)
    assert lines[-1] == "15 of 60 pairs kept"
    # The columns stand one under the other whatever the window's width.
    ends = {re.match(r"\S+ +[\d,]+ +[\d,]+ +[\d.]+ %", line).end() for line in lines[1:-2]}
    assert len(ends) == 1


def test_the_demo_has_its_verdicts_in_both_forms(tmp_path):
    made = make_run(tmp_path, parts=1)
    verdicts = evaluation(made.funnel)
    for how in ({"force_terminal": True, "width": 120, "color_system": None}, {"force_terminal": False}):
        text = printed(made.funnel, verdicts, **how)
        assert "right" in text
        assert re.search(r"mismatched +30 +5 +16.7 % +4 +1 +0 +keeps the top 50 % of all fetched", text)
        assert re.search(r"kept +60 +15 +25.0 % +13 +2 +0", text)
        assert "right, wrong: compared with the demo's ground truth; either: the truth allows both\n" in text
        assert "of the pairs to drop were dropped" in text
    assert "the truth" not in printed(made.funnel)


def test_a_narrow_terminal_folds_the_note_and_no_number(tmp_path):
    made = make_run(tmp_path, parts=1)
    text = printed(made.funnel, force_terminal=True, width=60, color_system=None)
    for step in STEPS:
        assert re.search(rf"{step['name']} +\d+ +\d+ +[\d.]+ %", text)
    assert max(map(len, text.splitlines())) <= 60


@given(st.text(st.sampled_from("ab[red]\x1b\x07\n\r\u202e\x9b語 /")), st.booleans())
def test_a_hostile_predicate_cannot_write_on_the_terminal(predicate, terminal):
    name = {"name": predicate, "kind": "where", "seen": 4, "dropped": 1, "says": predicate, "without": ""}
    funnel = {"planned": 4, "kept": 3, "missing_parts": [2, 3], "sample": None, "steps": [name]}
    text = printed(funnel, force_terminal=terminal, color_system=None, width=100)
    # Rich's own bold and dim are all the sequences there may be.
    text = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert not set("\x1b\x07\r\u202e\x9b") & set(text)
    assert "2 parts are missing" in text
    if "[red]" in predicate and not terminal:
        assert "[red]" in text
