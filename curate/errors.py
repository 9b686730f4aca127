"""The errors that Curate raises on purpose, as a tree, their exit codes, and small helpers for their texts.

    CurateError
    ├── UsageError            the command, recipe or input is wrong, nothing was written: exit 2
    │   ├── RecipeError       a key, a value or a step of the recipe
    │   ├── SourceError       a url list that cannot be read, is empty or lacks a column
    │   ├── ModelError        an unknown model, or weights that do not fit it
    │   ├── IdentityError     the output holds a run of other sources, columns, seed or part size
    │   └── StoreError        a location that cannot be read or written with these credentials
    ├── RunIncomplete         the run was stopped by a limit, or ended with parts set aside: exit 1
    │   └── NothingKept       every pair was dropped: exit 3
    ├── InUse                 another driver works on the output: exit 4
    ├── StorageFault          a disk or a store failed for longer than `storage.patience`: exit 4
    ├── ClusterFault          the Ray cluster, its head or its nodes for a pass went away: exit 4
    ├── BrokenResult          a file in a run folder does not match its marker: exit 5
    │   └── Damaged           a committed file that the next `curate run` writes again
    └── DeviceLost            a GPU that this process cannot use any more

A bad *row* is never an exception: it is a status in the row's own table. Exceptions are caught at two
boundaries only: a part (`curate.runs.units.UnitRunner`) and the command line (`curate.commands.main`). Inside a part, a
fault of a disk or a store (`curate.runs.surroundings`) is waited for, a `UsageError` stops the run, a `DeviceLost` ends
the worker; any other exception counts as a failed start.
"""

import difflib
from collections.abc import Iterable
from enum import IntEnum
from typing import ClassVar

from curate.credentials import redacted


class Exit(IntEnum):
    """The exit codes of every command (docs/exit-codes.md). An error of Curate itself, with a traceback, is 1."""

    DONE = 0
    INCOMPLETE = 1
    WRONG = 2
    NOTHING_KEPT = 3
    STORAGE = 4
    AT_FAULT = 5
    INTERRUPTED = 130
    TERMINATED = 143


class CurateError(Exception):
    """Base of every error that this package raises on purpose; its text is one line for the user."""

    exit_code: ClassVar[Exit] = Exit.INCOMPLETE


class UsageError(CurateError):
    """The command, the recipe or its input is wrong; the text names what to change."""

    exit_code = Exit.WRONG


class RecipeError(UsageError):
    """A recipe that is not valid: unknown key, bad value, step that does not parse."""


class SourceError(UsageError):
    """A url list that cannot be read, is empty, or lacks a named column."""


class ModelError(UsageError):
    """A model that open_clip does not know, or weights that do not fit it."""


class IdentityError(UsageError):
    """The output folder already holds a run of other sources, columns, seed or part size."""


class StoreError(UsageError):
    """A location that cannot be read or written with the given address and credentials."""


class RunIncomplete(CurateError):
    """The run ended with parts set aside, or was stopped by its own limits."""


class InUse(CurateError):
    """Another driver works on the output, or has taken this one's place."""

    exit_code = Exit.STORAGE


class NothingKept(RunIncomplete):
    """The run is done, and every pair was dropped, so there is no result."""

    exit_code = Exit.NOTHING_KEPT


class StorageFault(CurateError):
    """A disk or a store could not be used (full, read-only, away); nothing is wrong with the recipe or the data."""

    exit_code = Exit.STORAGE


class ClusterFault(CurateError):
    """The Ray cluster failed or went away; nothing is wrong with the recipe or the data."""

    exit_code = Exit.STORAGE


class BrokenResult(CurateError):
    """A committed file is missing or differs from its marker."""

    exit_code = Exit.AT_FAULT


class Damaged(BrokenResult):
    """A committed file is missing, or its bytes changed after they were written.

    Attributes:
        folder: the path of the pass's folder in the run.
        units: the units whose files they are.
        derived: the name, in the run, of a file that is only made of others and may be deleted; else empty.
    """

    def __init__(self, text: str, folder: str, units: Iterable[int], derived: str = "") -> None:
        super().__init__(text)
        self.folder, self.units, self.derived = folder, tuple(units), derived


class DeviceLost(CurateError):
    """The GPU failed; every further call of this process on it would fail too, so the process has to end."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns a hint for a misspelt word: `; did you mean 'x'?`, or the known words where none is similar."""
    names = sorted(set(known))
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    if len(names) > 20:
        names = [*names[:20], "…"]
    return f"; known: {', '.join(names)}" if names else ""


def counted(number: int, one: str, many: str = "") -> str:
    """Returns a number with its noun: `1 part`, `2,000 parts`; `many` is the plural where adding an s is wrong."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def short(number: float) -> str:
    """Returns a score or a threshold as text with at most four decimals; from 1,000 on, without decimals."""
    return f"{number:.4f}".rstrip("0").rstrip(".") if abs(number) < 1000 else f"{number:,.0f}"


def one_line(error: BaseException) -> str:
    """Returns the text of a library's error as one short line."""
    return shortened(str(error)) or type(error).__name__


def shortened(text: str) -> str:
    """Returns a library's text as one line of at most 300 characters, without credentials of URLs in it."""
    line = " ".join(redacted(text).split())
    return line if len(line) <= 300 else line[:297] + "…"
