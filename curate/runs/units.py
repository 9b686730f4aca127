"""Runs one unit in a worker process: the boundary at which exceptions become results."""

import contextlib
import importlib
import os
import platform
import time
import traceback
from dataclasses import asdict
from typing import cast

from curate.credentials import redacted
from curate.errors import Damaged, DeviceLost, UsageError
from curate.runs.passes import canonical
from curate.runs.surroundings import fault, io_errors
from curate.runs.work import AheadWorker, UnitResult, Work, Worker
from curate.store import Json, key


class UnitRunner:
    """Runs units of a work in a worker process; the work's worker is opened at the first unit and kept."""

    def __init__(self, work: Work, session: str) -> None:
        self.work = work
        self.session = session
        self.worker: Worker | None = None

    def run(self, unit: int, start: int, following: int | None = None) -> UnitResult:
        """Runs one unit and returns its result; every exception except DeviceLost becomes a result here, and only here.

        Args:
            unit: the unit.
            start: the number of this start of the unit, from 1.
            following: the unit that will probably come next, for a worker that reads ahead.

        Raises:
            DeviceLost: this process can no longer use its GPU; its engine treats the worker as dead.
        """
        work = self.work
        record = f"{work.ledger}/attempts/{key(unit)}.{start}.json"
        begun = {"session": self.session, "host": platform.node(), "pid": os.getpid(), "started": time.time()}
        try:
            outputs = {
                name: pass_.folder.outputs(unit)
                for name, pass_ in work.outputs.items()
                if not pass_.folder.is_done(unit)
            }
            if not outputs:
                return UnitResult(unit, "done")
            work.store.put(record, canonical(begun).encode())
            if self.worker is None:
                self.worker = open_worker(work)
            if work.reads_ahead:
                cast("AheadWorker", self.worker)(unit, work.inputs, outputs, following)
            else:
                self.worker(unit, work.inputs, outputs)
            counts: dict[str, int] = {}
            markers = {}
            for name, output in outputs.items():
                markers[name] = asdict(output.commit())
                counts |= output.counts
            notes = list(dict.fromkeys(note for output in outputs.values() for note in output.notes))
            work.store.delete(record)
        except DeviceLost:
            # A worker without its GPU would fail every part it is given, faster than other workers complete theirs.
            raise
        except Exception as error:  # noqa: BLE001 - the part is one of the two boundaries
            return self._failed(unit, error, record, begun)
        return UnitResult(unit, "done", counts=counts, notes=notes, markers=markers)

    def _failed(self, unit: int, error: Exception, record: str, begun: Json) -> UnitResult:
        """Returns the result of a start that raised an exception, after it has kept or removed the start's record."""
        if isinstance(error, Damaged):
            # The inputs are at fault, not this unit: the run does them again (`curate.runs.healing`).
            self._drop(record)
            place = (error.folder, error.units, error.derived)
            return UnitResult(unit, "stop", redacted(str(error)), damaged=place)
        found = fault(error)
        if found is None and not isinstance(error, UsageError):
            first_line = str(error).strip().partition("\n")[0]
            outcome = {
                "error": redacted(f"{type(error).__name__}: {first_line}"),
                "traceback": redacted(traceback.format_exc()),
            }
            try:
                self.work.store.put(record, canonical({**begun, **outcome}).encode())
            except io_errors() as unrecorded:
                found = fault(unrecorded)
            if found is None:
                return UnitResult(unit, "failed", outcome["error"], outcome["traceback"])
        self._drop(record)
        if found:
            return UnitResult(unit, "held", found.text)
        return UnitResult(unit, "stop", redacted(str(error)), error_type=type(error).__name__)

    def _drop(self, record: str) -> None:
        """Deletes the record of a start; one that stays, as the store is away, counts as one interrupted start."""
        with contextlib.suppress(*io_errors()):
            self.work.store.delete(record)


def open_worker(work: Work) -> Worker:
    """Imports and calls a work's opener; returns the worker."""
    module, _, function = work.opener.partition(":")
    opened: Worker = getattr(importlib.import_module(module), function)(work.settings)
    return opened
