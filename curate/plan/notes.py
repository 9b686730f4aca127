"""Counts rows that are not as one expects, by what they are and where, and says so in lines."""

from collections import Counter
from collections.abc import Mapping

from curate.errors import counted


class Notes:
    """Counts by what they count, and by the file or place where it was found."""

    def __init__(self) -> None:
        self._times: dict[str, Counter[str]] = {}

    def add(self, counts: Mapping[str, int], path: str = "") -> None:
        """Adds counts.

        Args:
            counts: how often, by what: a sentence without its number.
            path: the list, tar or folder; '' where it does not matter in which.
        """
        for what, times in counts.items():
            if times:
                self._times.setdefault(what, Counter())[path] += times

    def merge(self, other: "Notes") -> None:
        """Adds all counts of other notes."""
        for what, places in other._times.items():
            self._times.setdefault(what, Counter()).update(places)

    def lines(self) -> list[str]:
        """A line for each, `<path> and <number> others: <what> (<count>)`; the path that was counted first."""
        lines = []
        for what, places in sorted(self._times.items()):
            path = next(iter(places))
            others = f" and {counted(len(places) - 1, 'other')}" if len(places) > 1 else ""
            lines.append(f"{path}{others}{': ' * bool(path)}{what} ({places.total():,})")
        return lines
