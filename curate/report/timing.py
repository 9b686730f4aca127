"""Reads the work and time of each pass from the markers of its units."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from curate.store import WHOLE, Folder, Inputs
from curate.summaries import markers

_MEASURES = ("samples", "pairs", "images", "planned", "rows", "prompts")
"""Counts that may give a pass's rate; the first one that the pass has is used."""


@dataclass(frozen=True)
class Timing:
    """The work in one folder.

    Attributes:
        name: the folder's short name.
        units: how many units were done (parts, shards, or 1).
        seconds: their seconds, summed; units that ran at the same time count in full.
        wall: seconds from the start of the first unit to the end of the last one, pauses between runs included.
        counts: the units' counts, summed.
        measure: the count that gives the rate.
        notes: (unit, note) of the exceptions in the units' markers.
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
        """The value of the count that gives the rate."""
        return self.counts[self.measure]


def timings(inputs: Inputs) -> list[Timing]:
    """Returns the timing of every folder with finished units, in the order of the inputs."""
    return [timing for name, folder in inputs.folders.items() if (timing := _timing(inputs, name, folder))]


def _timing(inputs: Inputs, name: str, folder: Folder) -> Timing | None:
    done = folder.units()
    # The units of pack are shards; the other units are parts, of which a sample covers some.
    units = sorted(done if name == "pack" else done & {WHOLE, *inputs.parts})
    if WHOLE in units and any(measure in folder.marker().counts for measure in _MEASURES):
        # Parts that were written by the whole unit are included in the counts of its marker.
        units = [WHOLE]
    if not units:
        return None
    counts: Counter[str] = Counter()
    notes: list[tuple[int, str]] = []
    seconds, starts, ends = 0.0, [], []
    for _, marker in markers(folder, units):
        counts.update(marker.counts)
        notes.extend((marker.unit, note) for note in marker.notes)
        seconds += marker.seconds
        starts.append(marker.finished - marker.seconds)
        ends.append(marker.finished)
    measure = next((measure for measure in _MEASURES if measure in counts), "")
    return Timing(name, len(units), seconds, max(ends) - min(starts), counts, measure, notes)
