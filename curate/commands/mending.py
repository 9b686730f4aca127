"""Names the least to delete from a run so that the next `curate run` repairs the faults that `verify` found.

A unit without a marker is computed again. Every pass but fetch computes the same bytes again, so nothing else has to be
deleted. An image that is fetched again may have changed: then everything computed from its part is deleted, too, and
all decisions, because thresholds and duplicates depend on all parts.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from curate.commands.verify import Fault, Manifest
from curate.store import WHOLE, Folder
from curate.summaries import name

_MEASURED = ("pixels", "embed-", "signals-")
"""Short names, or their beginnings, of the folders that are computed from a part's images."""

_DECIDED = ("nodes-", "dedup-", "against-", "select", "pack", "report")
"""Short names, or their beginnings, of the folders that depend on the images of all parts."""

ALL = None
"""Stands for all units of a folder."""


def to_delete(manifest: Manifest, faults: Sequence[Fault]) -> list[str]:
    """The markers and folders to delete, in the run's store, sorted; folders end with a slash.

    Args:
        manifest: of the result that was checked.
        faults: those that `verify` found.
    """
    units: defaultdict[str, set[int | None]] = defaultdict(set)
    for fault in faults:
        for short, unit in fault.places:
            units[short].add(unit)
            # One unit writes all parts of these passes; it starts again once the whole has no marker.
            if short.startswith(("plan", "nodes-", "dedup-", "set-", "against-", "select")) and unit is not ALL:
                units[short].add(WHOLE)
    if fetched := fetched_again(manifest, faults):
        for short in manifest.folders:
            if short.startswith(_MEASURED):
                units[short] |= set(fetched)
            elif short.startswith(_DECIDED):
                units[short] = {ALL}
    found = (_names(manifest.folders[short], of) for short, of in units.items())
    store = manifest.folders["plan"].store
    files = {fault.file for fault in faults if fault.file and store.exists(fault.file)}
    return sorted({name for names in found for name in names} | files)


def fetched_again(manifest: Manifest, faults: Sequence[Fault]) -> list[int]:
    """The parts whose images will be fetched again, ascending; empty for samples, which give the same images again."""
    if manifest.of_samples:
        return []
    places = [place for fault in faults for place in fault.places]
    return sorted({unit for short, unit in places if short == "fetch" and unit is not ALL})


def _names(folder: Folder, units: set[int | None]) -> Iterator[str]:
    if ALL not in units:
        for unit in units:
            if unit is ALL:
                continue
            # A missing marker need not be deleted, but the summary that still has it.
            summary = [name(folder, unit)] if unit != WHOLE else []
            yield from (found for found in (folder.marker_name(unit), *summary) if folder.store.exists(found))
        return
    yield f"{folder.path}/"
    if folder.bookkeeping != folder.path:
        yield f"{folder.bookkeeping}/"
