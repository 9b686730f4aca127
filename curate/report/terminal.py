"""Prints the funnel in the terminal, at the end of a run."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from curate.errors import counted
from curate.report.text import count, percent, plain
from curate.report.verdicts import Verdicts, read_verdicts

__all__ = ["plain", "print_funnel"]

Row = tuple[str, ...]

LEGEND = "right, wrong: compared with the demo's ground truth; either: the truth allows both"

NOTE_LIMIT = 160
"""Characters of a step's note, at most, as a predicate may be a page long."""


def print_funnel(console: Console, funnel: Mapping[str, Any], evaluation: Mapping[str, Any] | None) -> None:
    """Prints what each step saw and dropped, and the totals.

    On a terminal it prints a table, elsewhere (a pipe, a log) plain lines with aligned columns, unwrapped.

    Args:
        console: the console to print on.
        funnel: the content of `funnel.json`.
        evaluation: the demo's evaluation in its JSON form, for the columns `right` and `wrong`; else None.
    """
    verdicts = read_verdicts(evaluation)
    header: Row = ("step", "seen", "dropped", "share")
    if verdicts:
        header += ("right", "wrong", "either")
    header += ("",)
    rows = [_row(step, verdicts) for step in funnel["steps"]]
    blank = ("",) * (len(header) - 4)
    planned, kept = funnel["planned"], funnel["kept"]
    dropped = planned - kept
    totals: list[Row] = [
        ("dropped", count(planned), count(dropped), percent(dropped, planned), *blank),
        ("kept", count(planned), count(kept), percent(kept, planned), *_kept(verdicts), ""),
    ]
    show = _show_table if console.is_terminal else _show_lines
    show(console, header, rows, totals)
    for line in _remarks(funnel, verdicts):
        _line(console, line)


def _row(step: Mapping[str, Any], verdicts: Verdicts | None) -> Row:
    row: Row = (plain(step["name"]), count(step["seen"]), count(step["dropped"]))
    row += (percent(step["dropped"], step["seen"]),)
    if verdicts:
        verdict = verdicts.steps.get(step["name"])
        row += (count(verdict.right), count(verdict.wrong), count(verdict.may)) if verdict else ("", "", "")
    # Reasons before the steps are explained by their names.
    what = "" if step["kind"] == "before" else plain(step["says"], NOTE_LIMIT)
    return (*row, "; ".join(note for note in (what, step["without"]) if note))


def _kept(verdicts: Verdicts | None) -> Row:
    if not verdicts:
        return ()
    return (count(verdicts.kept_right), count(verdicts.kept_wrong), count(verdicts.kept_may))


def _remarks(funnel: Mapping[str, Any], verdicts: Verdicts | None) -> list[str]:
    lines = [f"{count(funnel['kept'])} of {count(funnel['planned'])} pairs kept"]
    if sample := funnel["sample"]:
        lines.append(f"a sample: {count(sample['rows'])} of {count(sample['n_rows'])} rows were decided on")
    if missing := funnel["missing_parts"]:
        lines.append(f"{counted(len(missing), 'part is', 'parts are')} missing and not counted here")
    if verdicts:
        lines.append(LEGEND)
        went = percent(verdicts.must_drop_dropped, verdicts.must_drop)
        stayed = percent(verdicts.must_keep_kept, verdicts.must_keep)
        lines.append(f"{went} of the pairs to drop were dropped, {stayed} of the pairs to keep were kept")
    return lines


def _show_table(console: Console, header: Row, rows: list[Row], totals: list[Row]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for position, name in enumerate(header):
        last = position == len(header) - 1
        number = position > 0 and not last
        # In a narrow window the note is folded; numbers never are.
        table.add_column(
            Text(name), justify="right" if number else "left", no_wrap=not last, overflow="fold",
            style="dim" if last else "",
        )  # fmt: skip
    for row in rows:
        table.add_row(*map(Text, row))
    table.add_section()
    for row in totals:
        table.add_row(*map(Text, row), style="bold")
    console.print(table)


def _show_lines(console: Console, header: Row, rows: list[Row], totals: list[Row]) -> None:
    lines = [header, *rows, *totals]
    widths = [max(len(line[position]) for line in lines) for position in range(len(header))]
    for line in lines:
        first, *numbers = line[:-1]
        cells = [first.ljust(widths[0])]
        cells += [number.rjust(width) for number, width in zip(numbers, widths[1:-1], strict=True)]
        _line(console, "  ".join([*cells, line[-1]]).rstrip())


def _line(console: Console, line: str) -> None:
    console.print(Text(line), soft_wrap=True, highlight=False)
