"""Counts the unusual rows of a source, by what is unusual and by file, and prints them as lines."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from curate.errors import counted


class Notes:
    """Counts by sentence, which says what is counted, and by the file or place where it was found."""

    def __init__(self) -> None:
        self._times: dict[str, Counter[str]] = {}

    def add(self, counts: Mapping[str, int], path: str = "") -> None:
        """Adds counts.

        Args:
            counts: by sentence (without its number), how often it applies.
            path: the list, tar or folder; '' where the sentence needs none.
        """
        for what, times in counts.items():
            if times:
                self._times.setdefault(what, Counter())[path] += times

    def merge(self, other: "Notes") -> None:
        """Adds all counts of other notes."""
        for what, places in other._times.items():
            self._times.setdefault(what, Counter()).update(places)

    def to_json(self) -> dict[str, list[list[Any]]]:
        """The counts as JSON holds them; the order of places, which `lines` depends on, is kept."""
        return {what: [[path, times] for path, times in places.items()] for what, places in self._times.items()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Sequence[Sequence[Any]]]) -> "Notes":
        """The notes from their stored form."""
        notes = cls()
        for what, places in stored.items():
            for path, times in places:
                notes.add({what: times}, path)
        return notes

    def lines(self) -> list[str]:
        """A line for each sentence: `<first counted path> and <number> others: <sentence> (<count>)`."""
        lines = []
        for what, places in sorted(self._times.items()):
            path = next(iter(places))
            others = f" and {counted(len(places) - 1, 'other')}" if len(places) > 1 else ""
            lines.append(f"{path}{others}{': ' * bool(path)}{what} ({places.total():,})")
        return lines
