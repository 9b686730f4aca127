"""Waits for the end of a fault of the surroundings: holds units back, tells the user, and stops the run in the end."""

import time
from collections.abc import Callable
from typing import TypeVar

from curate.errors import StorageFault, StoreError
from curate.runs.surroundings import fault, io_errors
from curate.runs.work import UnitResult, Watcher
from curate.store import key

FIRST, LONGEST = 1.0, 30.0
"""Seconds between two attempts: the first pause, which then doubles, and the longest."""

_T = TypeVar("_T")


def outlast(run: Callable[[Watcher], _T], seconds: float, watcher: Watcher, *, between: Callable[[], None]) -> _T:
    """Calls `run` until it meets no fault of a disk or a store in this process; returns what it returns.

    A driver's own reads and writes meet such faults too. Like the same command, each call continues where the last one
    stopped. Once a call has done a unit, its next fault is a new one, with the whole time to wait.

    Args:
        run: runs the passes that are not done; gets the watcher to notify.
        seconds: how long the fault may last (`storage.patience`).
        watcher: is told what is waited for.
        between: ends what a call has started; called after each one that met a fault.

    Raises:
        StorageFault: the fault has lasted longer than it may.
    """
    waiting = Patience(seconds, watcher)
    while True:
        counting = _Counting(watcher)
        try:
            return run(counting)
        except io_errors(StoreError) as error:
            found = fault(error)
            if found is None:
                raise
            between()
            if counting.done:
                waiting = Patience(seconds, watcher)
            waiting.hold("driver", f"the driver cannot go on: {found.text}")
        while waiting.pauses():
            waiting.sleep()


class _Counting:
    """A watcher that counts the units that were done, and passes everything on."""

    def __init__(self, watcher: Watcher) -> None:
        self.done = 0
        self.begin, self.end, self.tell = watcher.begin, watcher.end, watcher.tell
        self._advance = watcher.advance

    def advance(self, name: str, result: UnitResult) -> None:
        """Counts the result. See `curate.runs.work.Watcher`."""
        self.done += result.status == "done"
        self._advance(name, result)


class Patience:
    """The waiting of one `drive`: no unit starts while it pauses.

    The time runs from the last unit that was done, so a run goes on while a single machine of several has a full disk.

    Args:
        seconds: how long the fault may last (`storage.patience`).
        watcher: is told what is waited for, and when it is over.
    """

    def __init__(self, seconds: float, watcher: Watcher) -> None:
        self._seconds = seconds
        self._watcher = watcher
        self._held: set[object] = set()
        self._begun = 0.0
        self._last_done = 0.0
        self._pause = FIRST
        self._until = 0.0

    def note(self, name: str, result: UnitResult) -> None:
        """Takes note of a result of the work `name`.

        Raises:
            StorageFault: the unit was held, and the fault has lasted longer than it may.
        """
        now = time.monotonic()
        if result.status == "held":
            self.hold((name, result.unit), f"{name}: {key(result.unit)} cannot go on: {result.error}")
            return
        if result.status == "done":
            self._last_done, self._until = now, 0.0
        if (name, result.unit) in self._held:
            self._held.remove((name, result.unit))
            if not self._held:
                self._pause = FIRST
                self._watcher.tell(f"{name}: {key(result.unit)} goes on after {_minutes(now - self._begun)}")

    def pauses(self) -> bool:
        """Whether units have to wait."""
        return time.monotonic() < self._until

    def sleep(self) -> None:
        """Sleeps to the end of the pause, a second at most."""
        time.sleep(max(0.0, min(1.0, self._until - time.monotonic())))

    def hold(self, held: object, what: str) -> None:
        """Pauses for something that cannot go on; `what` says what and why. Raises StorageFault as `note` does."""
        now = time.monotonic()
        if not self._held:
            self._begun = self._last_done = now
            if self._seconds:
                self._watcher.tell(f"{what}; waiting up to {_minutes(self._seconds)} for its end (storage.patience)")
        self._held.add(held)
        left = self._last_done + self._seconds - now
        if left <= 0:
            waited = f" for {_minutes(now - self._begun)}" if self._seconds else ""
            raise StorageFault(f"{what}{waited}; when the cause is gone, the same command goes on from here")
        self._until = now + min(self._pause, left)
        self._pause = min(2 * self._pause, LONGEST)


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min"
