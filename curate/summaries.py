"""Summaries of markers: one file for a thousand units, so that a finished pass costs a few requests, not one per unit.

A unit's marker remains what records that it is done. When all units of a block (0 to 999, 1000 to 1999, …) are done,
the driver writes `summaries/<block>.json` with their markers, which never change. A reader lists the summaries of a
pass, and lists or reads single markers only for units of other blocks. To delete a marker, delete the summary of its
block, too (`name`); `curate verify` names both.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from curate.checksums import json_bytes
from curate.errors import BrokenResult, Damaged
from curate.store import WHOLE, Folder, Json, Marker

BLOCK = 1000
"""Units of a summary; a listing of an object store returns as many names in one answer."""

_AT_ONCE = 16
"""Markers that are read at the same time."""


def name(folder: Folder, unit: int) -> str:
    """Returns the name, in the store, of the summary that covers a unit."""
    return f"{folder.bookkeeping}/summaries/{unit // BLOCK:06d}.json"


def done(folder: Folder, units: Iterable[int]) -> set[int]:
    """Returns which of these units are done; markers are listed only where summaries do not cover all units."""
    asked = set(units)
    blocks = _written(folder)
    covered = {unit for unit in asked if unit != WHOLE and unit // BLOCK in blocks}
    return covered if covered == asked else covered | (folder.units() & asked)


def markers(folder: Folder, units: Iterable[int]) -> Iterator[tuple[int, Marker]]:
    """Yields the markers of these units, which are done, in the order of the units' blocks.

    Raises:
        FileNotFoundError: a unit is not done.
        Damaged: a marker or a summary cannot be read.
    """
    blocks = _written(folder)
    asked: dict[int, list[int]] = {}
    for unit in units:
        asked.setdefault(unit // BLOCK, []).append(unit)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for block, of_block in sorted(asked.items()):
            if block in blocks:
                yield from _stored(folder, block, of_block)
            else:
                yield from zip(of_block, pool.map(folder.marker, of_block), strict=True)


def _stored(folder: Folder, block: int, units: Iterable[int]) -> Iterator[tuple[int, Marker]]:
    """Yields the markers of some units of a block from its summary. Raises Damaged where it cannot be read."""
    summary = name(folder, block * BLOCK)
    try:
        stored = folder.store.read_json(summary)["markers"]
        of_units = [(unit, Marker.from_json(stored[str(unit)])) for unit in units]
    except (BrokenResult, KeyError, ValueError) as error:
        where = folder.store.path(summary)
        text = str(error) if where in str(error) else f"{where}: it is not a summary of markers: {error}"
        raise Damaged(text, folder.path, units, derived=summary) from error
    yield from of_units


def _written(folder: Folder) -> set[int]:
    """The blocks that have a summary."""
    return {int(found.partition(".")[0]) for found in folder.store.names(f"{folder.bookkeeping}/summaries")}


@dataclass
class Summaries:
    """Writes the summaries of one pass while its units are done.

    Args:
        folder: the pass.
        total: the number of the pass's units, 0 to total − 1, over all runs (a sample covers fewer).
        before: units that are done already.
    """

    folder: Folder
    total: int
    before: Iterable[int]
    _done: dict[int, set[int]] = field(default_factory=dict)
    _known: dict[int, dict[int, Json]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.is_needed:
            blocks = _written(self.folder)
            for unit in self.before:
                if unit != WHOLE and unit // BLOCK not in blocks:
                    self._done.setdefault(unit // BLOCK, set()).add(unit)

    @property
    def is_needed(self) -> bool:
        """Whether the pass has more units than one listing returns."""
        return self.total > BLOCK

    def complete(self) -> None:
        """Writes the summaries of blocks whose units were all done before, as after a kill."""
        for block in sorted(self._done):
            self._write_if_complete(block)

    def add(self, unit: int, marker: Json | None) -> None:
        """Takes the marker of a unit that was just done; None where this driver was not told it.

        Writes the summary of the unit's block when all units of the block are done.
        """
        if unit == WHOLE or not self.is_needed:
            return
        block = unit // BLOCK
        self._done.setdefault(block, set()).add(unit)
        if marker is not None:
            self._known.setdefault(block, {})[unit] = marker
        self._write_if_complete(block)

    def _write_if_complete(self, block: int) -> None:
        first = block * BLOCK
        if len(self._done[block]) < min(BLOCK, self.total - first):
            return
        known: Mapping[int, Json] = self._known.pop(block, {})
        units = sorted(self._done.pop(block))
        unknown = [unit for unit in units if unit not in known]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            read = dict(zip(unknown, pool.map(self._read, unknown), strict=True))
        content = {"markers": {str(unit): known.get(unit) or read[unit] for unit in units}}
        self.folder.store.put(name(self.folder, first), json_bytes(content))

    def _read(self, unit: int) -> Json:
        return dataclasses.asdict(self.folder.marker(unit))
