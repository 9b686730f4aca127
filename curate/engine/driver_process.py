"""Runs small works in the driver's own process, so that deciding again waits neither for Ray nor for a new process."""

from collections import deque
from collections.abc import Callable

from curate.runs.units import UnitRunner
from curate.runs.work import Engine, UnitResult, Work


class DriverProcess:
    """Runs works that are small (`Work.is_small`) in this process, all others in an engine that they start.

    Once that engine runs, small works of parts are run there, too: the driver has to be free for the workers' results.
    A unit that was started before is never run here: if that start crashed its driver, a worker process will contain
    the next crash, and the unit is set aside as any other.

    Args:
        open_engine: starts the engine for all other works; called when the first of them has a unit to run.
    """

    def __init__(self, open_engine: Callable[[], Engine]) -> None:
        self._open_engine = open_engine
        self._engine: Engine | None = None
        self._here: dict[str, tuple[Work, str, UnitRunner]] = {}
        self._there: set[str] = set()
        self._queue: deque[tuple[str, int, int]] = deque()

    def start(self, work: Work, session: str) -> int:
        """Registers the work. See `curate.runs.work.Engine`."""
        if work.is_small and (self._engine is None or work.is_whole):
            self._here[work.name] = (work, session, UnitRunner(work, session))
            return 1
        return self._start_there(work, session)

    def submit(self, name: str, unit: int, start: int) -> None:
        """Queues the unit here, or in the engine."""
        if name in self._here and start == 1:
            self._queue.append((name, unit, start))
            return
        if name not in self._there:
            work, session, _ = self._here[name]
            self._start_there(work, session)
        self._running().submit(name, unit, start)

    def wait(self, seconds: float) -> list[tuple[str, UnitResult]]:
        """Runs the next unit that is queued here, else waits for the engine's results."""
        if not self._queue:
            return self._running().wait(seconds)
        name, unit, start = self._queue.popleft()
        return [(name, self._here[name][2].run(unit, start))]

    def running(self) -> list[tuple[str, int, float]]:
        """See `curate.runs.work.Engine`: the engine's; while a unit runs here, nothing can ask."""
        return self._engine.running() if self._engine else []

    def kill(self, name: str, unit: int) -> None:
        """See `curate.runs.work.Engine`."""
        self._running().kill(name, unit)

    def finish(self, name: str) -> None:
        """Forgets the work, and ends its workers in the engine."""
        self._here.pop(name, None)
        if name in self._there:
            self._there.remove(name)
            self._running().finish(name)

    def close(self, within: float = 0.0) -> None:
        """Ends the engine once its units have ended or after `within` seconds; the next start begins with nothing."""
        if self._engine:
            self._engine.close(within)
        self._engine = None
        self._here.clear()
        self._there.clear()
        self._queue.clear()

    def _start_there(self, work: Work, session: str) -> int:
        self._there.add(work.name)
        return self._running().start(work, session)

    def _running(self) -> Engine:
        if self._engine is None:
            self._engine = self._open_engine()
        return self._engine
