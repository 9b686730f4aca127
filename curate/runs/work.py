"""Work, one function over many units, and its contracts: `Engine` runs units, `Watcher` gets progress, `UnitResult`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from curate import summaries
from curate.runs.booking import Booking, Resources
from curate.runs.passes import Pass
from curate.store import WHOLE, Inputs, Json, Outputs, Store, key

Worker = Callable[[int, Inputs, Mapping[str, Outputs]], None]
"""A function that processes one unit and fills the given outputs; a room's opener returns it."""

AheadWorker = Callable[[int, Inputs, Mapping[str, Outputs], int | None], None]
"""A worker that reads ahead: its last argument is the unit that it will probably get next, or None. It may read the
inputs of that unit while it works on the current one, within a bound on memory. It decodes, computes and writes nothing
ahead, so that only the current unit can crash it."""


SMALL = 100_000
"""Rows of a run up to which select, report, signals and the card run in the driver's process (`Work.is_small`).

They take seconds at that size; the start of Ray alone takes as long."""


@dataclass(frozen=True)
class Work:
    """One function over many units, as an engine runs it.

    Args:
        name: its name in progress and errors.
        opener: `module:function`, called in the worker process with `settings`; returns a `Worker`.
        settings: JSON-able arguments of the opener.
        outputs: the passes that it writes, by short name.
        inputs: the folders that it may read.
        units: the units to do, in order; those that are done are skipped.
        rows: the approximate number of rows of a unit, for the progress line.
        after: names of works in the same `drive` whose same unit, or whose whole, must be done first.
        processes: the number of workers, at most; None: the engine chooses it (`Booking.default_count`).
        booking: what each worker reserves.
        label: its name in Ray's listings and in process titles; by default the name.
        reads_ahead: the worker is an `AheadWorker`.
        is_small: the driver may run it in its own process (`SMALL`).
        total: units of its passes over all runs, where a sample covers fewer; by default those of `units`.
    """

    name: str
    opener: str
    settings: Json
    outputs: Mapping[str, Pass]
    inputs: Inputs
    units: Sequence[int]
    rows: float = 0.0
    after: tuple[str, ...] = ()
    processes: int | None = 1
    booking: Booking = field(default_factory=Booking)
    label: str = ""
    reads_ahead: bool = False
    is_small: bool = False
    total: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether it is one unit, the whole."""
        return tuple(self.units) == (WHOLE,)

    @property
    def slots(self) -> int:
        """Units that an engine holds at once: one for each worker, and a next one for each that reads ahead."""
        assert self.processes is not None, "the engine chooses the number of workers by `placed`"
        return self.processes * (2 if self.reads_ahead else 1)

    def placed(self, available: Resources) -> "Work":
        """Returns the work with a number of workers: its own, or the default for what is available.

        Settings with the key `processes` get the number, too.
        """
        count = self.booking.default_count(available) if self.processes is None else self.processes
        settings = {**self.settings, "processes": count} if "processes" in self.settings else self.settings
        return replace(self, processes=count, settings=settings)

    def title(self, unit: int | None = None) -> str:
        """Returns the name for listings, such as `embed l14`, or of one of its units: `embed l14 000003`."""
        label = self.label or self.name
        return label if unit is None or unit == WHOLE else f"{label} {key(unit)}"

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
        return set.intersection(*(summaries.done(pass_.folder, self.units) for pass_ in self.outputs.values()))


@dataclass(frozen=True)
class UnitResult:
    """The result of one start of one unit.

    `died`: its worker process died, `lost`: its machine was lost, `held`: a disk or a store failed (`error` says how),
    and the start does not count.
    """

    unit: int
    status: Literal["done", "failed", "stop", "died", "lost", "held"]
    error: str = ""
    traceback: str = ""
    error_type: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()
    """The exceptions that the unit noted, as in its marker."""
    damaged: tuple[str, tuple[int, ...], str] | None = None
    """With `stop`, the folder, the units and the derived file of the `Damaged` that the unit raised."""
    markers: Mapping[str, Json] = field(default_factory=dict)
    """The markers that the unit has now, in JSON form, by the short names of the outputs that this start wrote."""


class Engine(Protocol):
    """Runs units in worker processes; a dead worker is replaced at the next submit."""

    def start(self, work: Work, session: str) -> int:
        """Prepares up to `work.processes` workers; returns how many units the engine takes at once (`work.slots`).

        Raises:
            UsageError: no machine of the engine can give a worker what it reserves.
        """

    def submit(self, name: str, unit: int, start: int) -> None:
        """Queues a unit of the named work for its next free worker."""

    def wait(self, seconds: float) -> list[tuple[str, UnitResult]]:
        """Returns the results that have arrived, with the names of their works; waits for the first one."""

    def running(self) -> list[tuple[str, int, float]]:
        """Returns for every unit that a worker runs now: its work's name, the unit, and the seconds since its start."""

    def kill(self, name: str, unit: int) -> None:
        """Kills the worker that runs a unit, which then ends as `died`; does nothing where none runs it any more."""

    def finish(self, name: str) -> None:
        """Ends the workers of the named work."""

    def close(self, within: float = 0.0) -> None:
        """Ends everything, after the units that run have ended, or after `within` seconds."""


class Watcher(Protocol):
    """Receives the progress of a run."""

    def begin(self, name: str, total: int, done: int, rows: float) -> None:
        """A work starts: units in total, units already done, rows of a unit."""

    def advance(self, name: str, result: UnitResult) -> None:
        """A start of a unit has ended."""

    def end(self, name: str) -> None:
        """A work has no units left."""

    def tell(self, line: str) -> None:
        """Shows the user one line."""
