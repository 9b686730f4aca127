"""Watches over units that run for long: says which one is the oldest, and ends workers that take too long."""

from time import monotonic

from curate.runs.work import Engine, UnitResult, Watcher
from curate.store import WHOLE, key

QUIET = 60.0
"""Seconds without a result after which a line names the oldest unit; the wait for the next line is twice as long."""

_EVERY = 1.0
"""Seconds between two looks at the engine's units."""


class Heartbeat:
    """Looks at an engine's running units, as the driver waits for results.

    Args:
        engine: runs the units.
        watcher: gets a line on units that run for long.
        part_seconds: seconds after which a part's worker is killed, and the start counts as failed; the whole of a pass
            has no such limit, as it grows with the run.
    """

    def __init__(self, engine: Engine, watcher: Watcher, part_seconds: float) -> None:
        self._engine = engine
        self._watcher = watcher
        self._part_seconds = part_seconds
        self._looked = self._last = monotonic()
        self._quiet = QUIET
        self._killed: set[tuple[str, int]] = set()

    def beat(self, *, has_results: bool) -> None:
        """Is called each time that the driver has waited for results."""
        now = monotonic()
        if has_results:
            self._last, self._quiet = now, QUIET
        if now - self._looked < min(_EVERY, self._part_seconds):
            return
        self._looked = now
        running = self._engine.running()
        for name, unit, seconds in running:
            if unit != WHOLE and seconds > self._part_seconds and (name, unit) not in self._killed:
                self._killed.add((name, unit))
                self._engine.kill(name, unit)
        if now - self._last > self._quiet and running:
            self._quiet *= 2
            name, unit, seconds = max(running, key=lambda one: one[2])
            of = name if unit == WHOLE else f"{name}: {key(unit)}"
            self._watcher.tell(f"{of} has run for {_span(seconds)}, the longest of {len(running)} running now")

    def explained(self, name: str, result: UnitResult) -> str:
        """Returns the error of a unit whose worker died, in the case of a worker that this object had killed."""
        if (name, result.unit) not in self._killed:
            return result.error
        self._killed.remove((name, result.unit))
        if result.status != "died":
            return result.error
        return f"its worker was killed after limits.part_seconds ({self._part_seconds:g} s)"


def _span(seconds: float) -> str:
    return (
        f"{seconds / 3600:.1f} h"
        if seconds >= 3600
        else f"{seconds / 60:.0f} min"
        if seconds >= 60
        else f"{seconds:.0f} s"
    )
