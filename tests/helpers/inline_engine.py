"""An engine that runs units in the test's own process, for runs whose subject is not their processes.

A worker process of its own imports torch and open_clip anew, which costs more than all that a small run computes.
What processes do (die, are replaced, read ahead) is tested on the local engine and on Ray.
"""

import contextlib
from collections import deque
from collections.abc import Iterator

import pytest

from curate.runs.booking import Resources
from curate.runs.units import UnitRunner


class InlineEngine:
    """Runs units in this process, when they are waited for."""

    def __init__(self) -> None:
        self.runners: dict[str, UnitRunner] = {}
        self.queue: deque[tuple[str, int, int]] = deque()
        self.order: list[tuple[str, int]] = []
        self.finished: list[str] = []

    def start(self, work, session):
        work = work.placed(Resources(2, 0))
        self.runners[work.name] = UnitRunner(work, session)
        return work.processes

    def submit(self, name, unit, start):
        self.queue.append((name, unit, start))

    def wait(self, seconds):
        name, unit, start = self.queue.popleft()
        self.order.append((name, unit))
        return [(name, self.runners[name].run(unit, start))]

    def running(self):
        return []

    def kill(self, name, unit):
        raise AssertionError("nothing runs between two calls")

    def finish(self, name):
        self.finished.append(name)

    def close(self, within=0.0):
        self.runners.clear()
        self.queue.clear()


@contextlib.contextmanager
def in_process() -> Iterator[None]:
    """Inside of it, `--engine local` is an `InlineEngine`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("curate.engine.local.LocalEngine", InlineEngine)
        yield
