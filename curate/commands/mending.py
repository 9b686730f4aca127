"""What to delete of a run so that the next `curate run` mends the faults that `verify` found: as little as possible.

A unit whose marker is gone is computed again. Every pass but fetch computes the same bytes again, so that nothing else
has to go. An image that is fetched again may be another one by now: then all that was computed from its part goes, too,
and every decision, because thresholds and duplicates are taken over all parts.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from curate.commands.verify import Fault, Manifest
from curate.store import WHOLE, Folder

_MEASURED = ("pixels", "embed-", "signals-")
"""The beginnings of the names of folders that hold what was measured of a part's images."""

_DECIDED = ("dedup", "select", "pack", "report")
"""Likewise of folders that depend on the images of all parts."""

ALL = None
"""In place of a unit: the whole folder."""


def to_delete(manifest: Manifest, faults: Sequence[Fault]) -> list[str]:
    """The markers and folders to delete, in the run's store, sorted; folders end with a slash.

    Args:
        manifest: of the result that was checked.
        faults: what `verify` found.
    """
    units: defaultdict[str, set[int | None]] = defaultdict(set)
    for fault in faults:
        for short, unit in fault.places:
            units[short].add(unit)
            # These write all their parts in one go, which begins where the whole has no marker.
            if short in ("plan", "select") and unit is not ALL:
                units[short].add(WHOLE)
    if fetched := fetched_again(manifest, faults):
        for short in manifest.folders:
            if short.startswith(_MEASURED):
                units[short] |= set(fetched)
            elif short.startswith(_DECIDED):
                units[short] = {ALL}
    found = (_names(manifest.folders[short], of) for short, of in units.items())
    return sorted({name for names in found for name in names})


def fetched_again(manifest: Manifest, faults: Sequence[Fault]) -> list[int]:
    """The parts whose images will be fetched again, ascending; samples are read again, and are the same."""
    if manifest.of_samples:
        return []
    places = [place for fault in faults for place in fault.places]
    return sorted({unit for short, unit in places if short == "fetch" and unit is not ALL})


def _names(folder: Folder, units: set[int | None]) -> Iterator[str]:
    if ALL not in units:
        # A marker that is missing already needs no deleting.
        yield from (folder.marker_name(unit) for unit in units if unit is not ALL and folder.is_done(unit))
        return
    yield f"{folder.path}/"
    if folder.bookkeeping != folder.path:
        yield f"{folder.bookkeeping}/"
