"""What each pass did and how long it took, from the markers of its units."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from curate.report.survey import in_order
from curate.store import WHOLE, Folder, Inputs

_MEASURES = ("samples", "pairs", "images", "planned", "rows", "prompts")
"""Counts by which a pass's rate is told; the first one that it has."""


@dataclass(frozen=True)
class Timing:
    """The work in one folder.

    Attributes:
        name: the folder's short name.
        units: how many units were done (parts, shards, or 1).
        seconds: their seconds, summed; units that ran side by side count in full.
        wall: seconds from the first one's start to the last one's end, pauses between runs included.
        counts: the units' counts, summed.
        measure: the count that tells the rate.
        notes: (unit, note) of exceptions that the units wrote down.
    """

    name: str
    units: int
    seconds: float
    wall: float
    counts: Counter[str]
    measure: str
    notes: Sequence[tuple[int, str]]

    @property
    def done(self) -> int:
        """The count that tells the rate."""
        return self.counts[self.measure]


def timings(inputs: Inputs) -> list[Timing]:
    """Of every folder that is done, in the order of the inputs."""
    return [found for name, folder in inputs.folders.items() if (found := _timing(inputs, name, folder))]


def _timing(inputs: Inputs, name: str, folder: Folder) -> Timing | None:
    done = folder.units()
    # Shards are numbered by themselves; the other units are parts, of which a sample covers some.
    units = sorted(done if name == "pack" else done & {WHOLE, *inputs.parts})
    if WHOLE in units and any(measure in folder.marker().counts for measure in _MEASURES):
        # Its parts were written within the whole, whose marker counts them all.
        units = [WHOLE]
    if not units:
        return None
    counts: Counter[str] = Counter()
    notes: list[tuple[int, str]] = []
    seconds, starts, ends = 0.0, [], []
    for marker in in_order(folder.marker, units):
        counts.update(marker.counts)
        notes.extend((marker.unit, note) for note in marker.notes)
        seconds += marker.seconds
        starts.append(marker.finished - marker.seconds)
        ends.append(marker.finished)
    measure = next((measure for measure in _MEASURES if measure in counts), "")
    return Timing(name, len(units), seconds, max(ends) - min(starts), counts, measure, notes)
