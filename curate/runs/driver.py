"""Parts, passes, markers, fingerprints, resume: how work is done once and accounted for. Knows no pass by name.

A `Pass` is a folder and what its content depends on. A `Work` is what an engine runs: one function over many
units, writing one or more passes. `drive` runs several works at once, each unit of a chained one as soon as the
same unit of those before it is done; `run_unit` is the boundary inside a worker where an exception becomes a
result.

Starts are recorded before the work begins, in `attempts/`. A start whose outcome is known to be bad (an
exception, or a worker that died under a living driver) counts; the third one sets the unit aside in
`failed/`. A start that ended together with its driver or its machine says nothing about the unit, so a run may
be killed and its nodes taken away; only the tenth such start is taken for the unit's fault.
"""

import dataclasses
import hashlib
import importlib
import json
import os
import platform
import secrets
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

from curate import errors
from curate.errors import DeviceLost, IdentityError, RunIncomplete, UsageError
from curate.runs.identity import difference
from curate.store import WHOLE, Folder, Inputs, Json, Outputs, Store, key

BAD_STARTS = 2
"""Starts that may go wrong; the next one sets the unit aside."""

RECIPE = "recipe.json"
"""In the run folder: the recipe that it was last run with."""

INTERRUPTED_STARTS = 9
"""Starts that may end together with their driver or machine; the next one sets the unit aside."""

Worker = Callable[[int, Inputs, Mapping[str, Outputs]], None]
"""What a room's opener returns: does one unit, filling the outputs that it is given."""

AheadWorker = Callable[[int, Inputs, Mapping[str, Outputs], int | None], None]
"""A worker that reads ahead: it is also told which unit is probably its next, as far as that is known. It may
read that one's inputs while it works, within a bound on memory, and must not let them be the death of this one:
nothing is decoded, computed or written ahead."""


def canonical(content: Any) -> str:
    """JSON with sorted keys and no spaces: equal contents give equal text."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


@dataclass(frozen=True)
class Pass:
    """A pass's folder and what its content depends on."""

    folder: Folder
    version: int
    params: Json
    upstream: tuple[Folder, ...]

    @classmethod
    def of(cls, store: Store, name: str, version: int, params: Json, upstream: Iterable[Folder] = ()) -> "Pass":
        """A pass, its folder named by the fingerprint of all that its content depends on."""
        before = tuple(sorted(upstream, key=lambda folder: folder.path))
        depends = {"name": name, "version": version, "params": params, "upstream": [f.path for f in before]}
        digest = hashlib.blake2b(canonical(depends).encode(), digest_size=6).hexdigest()
        return cls(Folder(store, name, digest), version, params, before)

    def describe(self) -> None:
        """Writes the folder's pass.json, once."""
        content = {
            "name": self.folder.name,
            "version": self.version,
            "params": self.params,
            "upstream": [folder.path for folder in self.upstream],
        }
        name = f"{self.folder.path}/pass.json"
        if not self.folder.store.exists(name):
            self.folder.store.create(name, (json.dumps(content, sort_keys=True, indent=1) + "\n").encode())


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
        return next(iter(self.outputs.values())).folder.path

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


class UnitRunner:
    """Lives in a worker process: opens the work's worker at the first unit, keeps it for the others."""

    def __init__(self, work: Work, session: str) -> None:
        self.work = work
        self.session = session
        self.worker: Worker | None = None

    def run(self, unit: int, start: int, following: int | None = None) -> UnitResult:
        """Does one unit; every exception but one becomes a result here, and only here.

        Args:
            unit: which one.
            start: how many times it was begun, this time included.
            following: which unit will probably come next, for a worker that reads ahead.

        Raises:
            DeviceLost: this process is of no more use; its engine takes it for dead.
        """
        work = self.work
        outputs = {
            name: pass_.folder.outputs(unit) for name, pass_ in work.outputs.items() if not pass_.folder.is_done(unit)
        }
        if not outputs:
            return UnitResult(unit, "done")
        record = f"{work.ledger}/attempts/{key(unit)}.{start}.json"
        begun = {"session": self.session, "host": platform.node(), "pid": os.getpid(), "started": time.time()}
        work.store.put(record, canonical(begun).encode())
        try:
            if self.worker is None:
                self.worker = open_worker(work)
            if work.reads_ahead:
                cast("AheadWorker", self.worker)(unit, work.inputs, outputs, following)
            else:
                self.worker(unit, work.inputs, outputs)
            counts: dict[str, int] = {}
            for output in outputs.values():
                output.commit()
                counts |= output.counts
        except UsageError as error:
            work.store.delete(record)
            return UnitResult(unit, "stop", str(error), error_type=type(error).__name__)
        except DeviceLost:
            # Kept, this worker would fail every part that it is given, and sooner than the others do theirs.
            raise
        except Exception as error:  # noqa: BLE001 - the part is one of the two boundaries
            said = str(error).strip().partition("\n")[0]
            outcome = {"error": f"{type(error).__name__}: {said}", "traceback": traceback.format_exc()}
            work.store.put(record, canonical({**begun, **outcome}).encode())
            return UnitResult(unit, "failed", outcome["error"], outcome["traceback"])
        work.store.delete(record)
        return UnitResult(unit, "done", counts=counts)


def open_worker(work: Work) -> Worker:
    """Imports and calls a work's opener."""
    module, _, function = work.opener.partition(":")
    opened: Worker = getattr(importlib.import_module(module), function)(work.settings)
    return opened


@dataclass
class Progress:
    """The state of one work inside `drive`."""

    work: Work
    pending: deque[int]
    done: set[int]
    failed: dict[int, str]
    starts: dict[int, list[Json]]
    slots: int = 0
    flying: int = 0
    finished: bool = False


def drive(
    works: Sequence[Work],
    engine: Engine,
    watcher: Watcher,
    *,
    max_failed: float = 0.01,
    forget_failures: bool = False,
    check: Callable[[str, UnitResult], None] | None = None,
) -> dict[str, dict[int, str]]:
    """Runs every unit of every work, in chains where works say `after`.

    Args:
        works: in order; a work may come `after` earlier ones.
        engine: where.
        watcher: told of progress.
        max_failed: the share of a work's units that may be set aside before the run stops (three always may).
        forget_failures: start units anew that an earlier run set aside.
        check: is told of every unit's end, and may raise to stop the run.

    Returns:
        for each work the units that are set aside, with the last line of their errors.

    Raises:
        UsageError: a unit found the recipe or an input to be wrong.
        RunIncomplete: too many units were set aside, or `check` says so.
    """
    session = secrets.token_hex(4)
    states = {work.name: _begin(work, watcher, forget_failures) for work in works}
    flying = 0
    while True:
        for state in states.values():
            if _is_finished(state, states) and not state.finished:
                state.finished = True
                watcher.end(state.work.name)
                if state.slots:
                    engine.finish(state.work.name)
            flying += _submit(state, states, engine, session)
            _check_failed(state, max_failed)
        if all(state.finished for state in states.values()):
            return {name: state.failed for name, state in states.items()}
        if not flying:
            continue
        for name, result in engine.wait(1.0):
            flying -= 1
            state = states[name]
            state.flying -= 1
            _take(state, result, session)
            watcher.advance(name, result)
            if check:
                check(name, result)


def _begin(work: Work, watcher: Watcher, forget_failures: bool) -> Progress:
    units = set(work.units)
    done = work.done() & units
    failed: dict[int, str] = {}
    starts: dict[int, list[Json]] = {}
    for kind in ("failed", "attempts"):
        for name in work.store.names(f"{work.ledger}/{kind}"):
            stem = name.partition(".")[0]
            unit = WHOLE if stem == "all" else int(stem)
            if unit not in units or unit in done:
                continue
            path = f"{work.ledger}/{kind}/{name}"
            if forget_failures:
                work.store.delete(path)
            elif kind == "failed":
                failed[unit] = str(work.store.read_json(path)["error"])
            else:
                starts.setdefault(unit, []).append(work.store.read_json(path))
    pending = deque(unit for unit in work.units if unit not in done and unit not in failed)
    if pending:
        for pass_ in work.outputs.values():
            pass_.describe()
    watcher.begin(work.name, len(units), len(done), work.rows)
    return Progress(work, pending, done, failed, starts)


def _check_failed(state: Progress, max_failed: float) -> None:
    if len(state.failed) > max(3.0, max_failed * len(state.work.units)):
        unit, error = list(state.failed.items())[-1]
        raise RunIncomplete(
            f"{state.work.name}: {len(state.failed)} parts are set aside, more than limits.max_failed_parts allows; "
            f"the last is {key(unit)}: {error} (see {state.work.store.path(state.work.ledger)}/failed; "
            "--retry-parts begins anew with them)"
        )


def _is_finished(state: Progress, states: Mapping[str, Progress]) -> bool:
    if state.flying:
        return False
    before = [states[name] for name in state.work.after if name in states]
    if not all(earlier.finished for earlier in before):
        return not state.pending
    return not any(_is_ready(unit, before) for unit in state.pending)


def _is_ready(unit: int, before: Sequence[Progress]) -> bool:
    """A work that is done as a whole gates every unit of those after it, others the same unit."""
    return all(unit in earlier.done or WHOLE in earlier.done for earlier in before)


def _submit(state: Progress, states: Mapping[str, Progress], engine: Engine, session: str) -> int:
    """Hands out what is ready, as far as there is room; returns how many units."""
    before = [states[name] for name in state.work.after if name in states]
    submitted = 0
    for _ in range(len(state.pending)):
        if state.slots and state.flying >= state.slots:
            break
        unit = state.pending.popleft()
        if not _is_ready(unit, before):
            state.pending.append(unit)
            continue
        starts = state.starts.get(unit, [])
        if _is_spent(starts):
            _set_aside(state, unit)
            continue
        if not state.slots:
            state.slots = engine.start(state.work, session)
        engine.submit(state.work.name, unit, len(starts) + 1)
        # Until its outcome is known the start stands as an interrupted one.
        state.starts.setdefault(unit, []).append({"session": session})
        state.flying += 1
        submitted += 1
    return submitted


def _take(state: Progress, result: UnitResult, session: str) -> None:
    unit = result.unit
    if result.status == "done":
        state.done.add(unit)
        return
    if result.status == "stop":
        raise getattr(errors, result.error_type, UsageError)(result.error)
    outcome: Json = {"session": session}
    if result.status != "lost":
        outcome |= {"error": result.error, "traceback": result.traceback}
    if result.status == "died":
        path = f"{state.work.ledger}/attempts/{key(unit)}.{len(state.starts[unit])}.json"
        state.work.store.put(path, canonical(outcome).encode())
    state.starts[unit][-1] = outcome
    # At once: where every part fails for one reason, the run should find out before it has tried them all.
    state.pending.appendleft(unit)


def _is_spent(starts: Sequence[Json]) -> bool:
    bad = sum("error" in start for start in starts)
    return bad >= BAD_STARTS or len(starts) - bad >= INTERRUPTED_STARTS


def _set_aside(state: Progress, unit: int) -> None:
    starts = state.starts[unit]
    bad = [start for start in starts if "error" in start]
    if bad:
        error, text = str(bad[-1]["error"]), str(bad[-1]["traceback"])
    else:
        error, text = f"{len(starts)} starts ended together with their driver or machine", ""
    content = {"unit": unit, "starts": len(starts), "error": error, "traceback": text}
    state.work.store.put(f"{state.work.ledger}/failed/{key(unit)}.json", canonical(content).encode())
    state.failed[unit] = error


def claim(store: Store, identity: Json) -> None:
    """Makes the output folder this run's, or finds that it already is; its plan has to be done.

    `run.json` is created and never replaced: of several drivers with different sources, each of which planned in a
    folder of its own, one wins, and one that died before it got here left the folder to whoever comes next.

    Raises:
        IdentityError: the folder holds a run with another identity; names what differs.
    """
    stored = (json.dumps(identity, sort_keys=True, indent=1) + "\n").encode()
    check_identity(store, identity)
    if not store.exists("run.json") and not store.create("run.json", stored):
        check_identity(store, identity)


def check_identity(store: Store, identity: Json) -> None:
    """Raises IdentityError where the folder holds another run; writes nothing."""
    if not store.exists("run.json"):
        return
    if said := difference(store.read_json("run.json"), identity):
        raise IdentityError(f"{store.url} holds a run with {said}")


def result_files(folder: Folder, units: Iterable[int]) -> list[Json]:
    """Every file of the given units with bytes, sha256 and rows, sorted by name: the manifest's list."""
    files = [dataclasses.asdict(info) for unit in units for info in folder.marker(unit).files.values()]
    return sorted(files, key=lambda info: str(info["name"]))
