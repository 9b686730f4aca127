"""Work: one function over many units; who runs it (`Engine`), who is told (`Watcher`), and what came of a unit."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from curate.runs.passes import Pass
from curate.store import Inputs, Json, Outputs, Store

Worker = Callable[[int, Inputs, Mapping[str, Outputs]], None]
"""What a room's opener returns: does one unit, filling the outputs that it is given."""

AheadWorker = Callable[[int, Inputs, Mapping[str, Outputs], int | None], None]
"""A worker that reads ahead: it is also told which unit is probably its next, as far as that is known. It may
read that one's inputs while it works, within a bound on memory, and must not let them be the death of this one:
nothing is decoded, computed or written ahead."""


@dataclass(frozen=True)
class Work:
    """One function over many units, as an engine runs it.

    Args:
        name: how it is called in progress and errors.
        opener: `module:function`, called in the worker process with `settings`; returns a `Worker`.
        settings: JSON-able arguments of the opener.
        outputs: the passes that it writes, by short name.
        inputs: what it may read.
        units: the units to do, in order; those that are done are skipped.
        rows: about how many rows a unit has, for the progress line.
        after: names of works in the same `drive` whose same unit, or whose whole, must be done first.
        processes: how many workers at most.
        cpus: what a worker books (Ray).
        wants_gpu: a worker takes a GPU where there are any.
        reads_ahead: the worker is an `AheadWorker`.
    """

    name: str
    opener: str
    settings: Json
    outputs: Mapping[str, Pass]
    inputs: Inputs
    units: Sequence[int]
    rows: float = 0.0
    after: tuple[str, ...] = ()
    processes: int = 1
    cpus: float = 1.0
    wants_gpu: bool = False
    reads_ahead: bool = False

    @property
    def slots(self) -> int:
        """Units in an engine's hands at once: one for each worker, and the next of each that reads ahead."""
        return self.processes * (2 if self.reads_ahead else 1)

    @property
    def store(self) -> Store:
        """The run's root."""
        return next(iter(self.outputs.values())).folder.store

    @property
    def ledger(self) -> str:
        """The folder that keeps this work's attempts and failures."""
        return next(iter(self.outputs.values())).folder.bookkeeping

    def done(self) -> set[int]:
        """The units that have a marker in every output."""
        return set.intersection(*(pass_.folder.units() for pass_ in self.outputs.values()))


@dataclass(frozen=True)
class UnitResult:
    """What became of one start of one unit: `died` with its worker, or `lost` with the machine under it."""

    unit: int
    status: Literal["done", "failed", "stop", "died", "lost"]
    error: str = ""
    traceback: str = ""
    error_type: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()
    """What the unit noted as exceptions, as it stands in its marker."""


class Engine(Protocol):
    """Where units are run. Workers are separate processes; a dead one is replaced at the next submit."""

    def start(self, work: Work, session: str) -> int:
        """Prepares up to `work.processes` workers; returns how many units it takes at once (`work.slots`)."""

    def submit(self, name: str, unit: int, start: int) -> None:
        """Takes a unit of the work of that name, for the next worker that is free."""

    def wait(self, seconds: float) -> list[tuple[str, UnitResult]]:
        """Results that have arrived, with the names of their works; waits for the first one."""

    def finish(self, name: str) -> None:
        """Ends the workers of a work."""

    def close(self) -> None:
        """Ends everything at once."""


class Watcher(Protocol):
    """Who is told of progress."""

    def begin(self, name: str, total: int, done: int, rows: float) -> None:
        """A work begins: units in all, units already done, rows of a unit."""

    def advance(self, name: str, result: UnitResult) -> None:
        """A unit came to an end."""

    def end(self, name: str) -> None:
        """A work has no units left."""

    def tell(self, line: str) -> None:
        """Something that whoever runs it should know."""
