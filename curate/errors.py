"""What can go wrong, as a tree.

    CurateError
    ├── UsageError            the command, recipe or input is wrong: exit 2, nothing was written
    │   ├── RecipeError       a key, a value or a step of the recipe
    │   ├── SourceError       a url list that cannot be read, is empty or lacks a column
    │   ├── ModelError        an unknown model, or weights that do not fit it
    │   ├── IdentityError     the output holds a run of other sources, columns, seed or part size
    │   └── StoreError        a place that cannot be read or written with these credentials
    ├── RunIncomplete         the run stopped or ended with parts set aside: exit 1
    ├── BrokenResult          what lies in a run folder is not what its markers say
    └── DeviceLost            a GPU that this process cannot use any more

A bad *row* is never an exception: it is a status in the row's own table. Exceptions are caught at two
boundaries only: a part (`curate.runs.units.UnitRunner`) and the command line (`curate.commands.main`). A `UsageError`
raised inside a part stops the run, a `DeviceLost` ends the worker; every other exception sets that part back.
"""

import difflib
from collections.abc import Iterable


class CurateError(Exception):
    """Base of every error that this package raises on purpose; its text is one line for the user."""


class UsageError(CurateError):
    """The command, the recipe or its input is wrong; the text names what to change."""


class RecipeError(UsageError):
    """A recipe that does not hold: unknown key, bad value, step that does not parse."""


class SourceError(UsageError):
    """A url list that cannot be read, is empty, or lacks a named column."""


class ModelError(UsageError):
    """A model that open_clip does not know, or weights that do not fit it."""


class IdentityError(UsageError):
    """The output folder already holds a run with another identity."""


class StoreError(UsageError):
    """A location that cannot be read or written as it stands."""


class RunIncomplete(CurateError):
    """The run ended with parts set aside, or was stopped by its own limits."""


class BrokenResult(CurateError):
    """A committed file is missing or differs from its marker."""


class DeviceLost(CurateError):
    """A GPU failed under this process, and every further call would fail like that one: the process has to end."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for a misspelt word: `; did you mean 'x'?`, or the known words where none is near."""
    names = sorted(set(known))
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    if len(names) > 20:
        names = [*names[:20], "…"]
    return f"; known: {', '.join(names)}" if names else ""


def counted(number: int, one: str, many: str = "") -> str:
    """How many there are, in words: `1 part`, `2,000 parts`; `many` where it takes more than an s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def short(number: float) -> str:
    """A score or a threshold in words, to four decimals at most."""
    return f"{number:.4f}".rstrip("0").rstrip(".") if abs(number) < 1000 else f"{number:,.0f}"
