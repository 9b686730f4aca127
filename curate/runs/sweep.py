"""Deletes what interrupted starts left in a pass's folder: files that no marker names, half-written files, records.

A start that is killed leaves the files that it had written, and its record in `attempts/`. Once its unit is done, the
marker names other files, so no reader ever opens those. A late twin of the worker that still writes loses nothing
either: its commit finds the marker of the first one. So files of done units are deleted whatever their age; other
half-written files (of pass.json, of summaries) when they are older than `AGE`. Files of units that are not done stay.
"""

import re
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor

from curate.runs.one_driver import FOLDER as DRIVERS
from curate.runs.retry_rounds import FOLDER as ROUNDS
from curate.store import HALF_FILE, WHOLE, Folder, Store, unit_of
from curate.summaries import markers

AGE = 60.0
"""Seconds without a change after which a half-written file of no known unit was left by a process that ended; they are
small and are written within milliseconds."""

_AT_ONCE = 16
"""Files that are deleted at the same time."""

_OF_ATTEMPT = re.compile(r"(?P<stem>[^/]+)\.(?P<attempt>[0-9a-f]{8})\.[^/]+")
"""The name of a file that carries the attempt that wrote it: `000012.<attempt>.parquet`, `index.<attempt>.html`."""


def sweep(folder: Folder, done: Collection[int], *, complete: bool) -> list[str]:
    """Deletes the litter of a pass; call it when no unit of the pass runs in this command.

    Only names of the forms that `curate.store` gives are deleted, so a file that a user added to a result stays.

    Args:
        folder: the pass.
        done: the units that are done.
        complete: whether these are all units of the pass.

    Returns:
        the names of the deleted files, in the store.
    """
    store, done = folder.store, set(done)
    if WHOLE in done:
        # A pass that runs as a whole commits its parts before itself.
        done |= folder.units()
    records = list(_records(folder, done))
    ages = store.ages(folder.path)
    if folder.is_result:
        ages |= store.ages(folder.bookkeeping)
    litter = [name for name, age in ages.items() if _is_half_written(folder, name, age, done, complete=complete)]
    litter += _unnamed(folder, ages, done)
    # Last, as the records make the next command sweep where this one is killed.
    for names in (litter, records):
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(store.delete, names))
    return [*litter, *records]


def sweep_root(store: Store) -> None:
    """Deletes half-written files of a run that are in no pass's folder; only a local store has any."""
    if store.local_root is None:
        return
    for folder in ("", DRIVERS, ROUNDS):
        for name, age in store.ages(folder, deep=bool(folder)).items():
            if HALF_FILE.fullmatch(name.rpartition("/")[2]) and age > AGE:
                store.delete(name)


def _records(folder: Folder, done: Collection[int]) -> Iterator[str]:
    """The names of the records of starts, and of failures, of units that are done."""
    for kind in ("attempts", "failed"):
        for name in folder.store.names(f"{folder.bookkeeping}/{kind}"):
            if unit_of(name) in done:
                yield f"{folder.bookkeeping}/{kind}/{name}"


def _is_half_written(folder: Folder, name: str, age: float, done: Collection[int], *, complete: bool) -> bool:
    half = HALF_FILE.fullmatch(name.rpartition("/")[2])
    if half is None:
        return False
    if folder.is_result and name.startswith(f"{folder.path}/") and complete:
        return True
    return age > AGE or unit_of(half["name"]) in done


def _unnamed(folder: Folder, names: Collection[str], done: Collection[int]) -> list[str]:
    """The files of done units that carry an attempt and are in no marker."""
    if folder.is_result:
        return []
    by_unit: dict[int, dict[str, list[str]]] = {}
    for name in names:
        file = name.rpartition("/")[2]
        if found := _OF_ATTEMPT.fullmatch(file):
            unit = unit_of(found["stem"])
            # A file such as the report's page, which names no unit, is the whole's.
            attempts = by_unit.setdefault(WHOLE if unit is None else unit, {})
            attempts.setdefault(found["attempt"], []).append(name)
    # A done unit has the files of its marker, so one with the files of a single attempt has no others.
    several = [unit for unit, attempts in by_unit.items() if len(attempts) > 1 and unit in done]
    litter = []
    for unit, marker in markers(folder, several):
        named = {f"{folder.path}/{info.name}" for info in marker.files.values()}
        litter += [name for of_attempt in by_unit[unit].values() for name in of_attempt if name not in named]
    return litter
