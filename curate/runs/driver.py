"""Runs works to completion: submits ready units to an engine, counts their starts, sets failing units aside.

Several works run at once: a unit of a chained work starts as soon as the works before it have done the same unit. The
module does not name any pass.

Every start is recorded in `attempts/` before the work begins. A start fails when it raises an exception, or when its
worker dies while the driver is alive. After two failed starts a unit is set aside, in `failed/`, and not started again.
A start that ended together with its driver or its machine does not count as failed, so a run may be killed and may lose
its nodes; after nine such starts a part is set aside, too, a whole never. A start that met a fault of a disk or a store
does not count: `curate.runs.patience` waits for its end.
"""

import math
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from curate import errors
from curate.credentials import redacted
from curate.errors import Damaged, RunIncomplete, UsageError, counted
from curate.runs.healing import is_set_aside
from curate.runs.heartbeat import Heartbeat
from curate.runs.passes import canonical
from curate.runs.patience import Patience
from curate.runs.sweep import sweep
from curate.runs.work import Engine, UnitResult, Watcher, Work
from curate.store import WHOLE, Json, key
from curate.summaries import Summaries

BAD_STARTS = 2
"""Failed starts after which a unit is set aside."""

INTERRUPTED_STARTS = 9
"""Starts that ended together with their driver or machine, after which a part is set aside; a whole never is."""

NOTES = 10
"""Notes that are printed for a work of a single unit. The report lists more of them, the unit's marker all."""


@dataclass
class Progress:
    """The state of one work inside `drive`.

    Attributes:
        work: the work.
        done: the units that are done.
        failed: the units that are set aside, with the last line of their errors.
        starts: by unit, its starts that did not end in success.
        summaries: of its passes, by short name.
        ready: units that can start, in order.
        blocked: by unit that cannot start yet, the number of works before this one that have not done it.
        before: the works after which its units start.
        following: the works whose units start after its own.
        slots: units that the engine takes at once; 0 before the first one.
        flying: units that the engine has.
        finished: whether no unit is left that can run.
        disturbed: whether a start of a unit was interrupted, now or in an earlier command, and may have left files.
    """

    work: Work
    done: set[int]
    failed: dict[int, str]
    starts: dict[int, list[Json]]
    summaries: dict[str, Summaries]
    ready: deque[int] = field(default_factory=deque)
    blocked: dict[int, int] = field(default_factory=dict)
    before: list["Progress"] = field(default_factory=list)
    following: list["Progress"] = field(default_factory=list)
    slots: int = 0
    flying: int = 0
    finished: bool = False
    disturbed: bool = False

    def has(self, unit: int) -> bool:
        """Whether the unit is done, or the whole where the whole is the work's only unit."""
        return unit in self.done or WHOLE in self.done

    def add(self, result: UnitResult) -> None:
        """Takes a unit that was just done, and unblocks it in the works that follow."""
        freed = [unit for unit in self._blocked_by(result.unit) if not self.has(unit)]
        self.done.add(result.unit)
        for later in self.following:
            for unit in freed:
                later.unblock(unit)
        for name, summary in self.summaries.items():
            summary.add(result.unit, result.markers.get(name))

    def unblock(self, unit: int) -> None:
        """Takes note that one more of the works before has done the unit."""
        if unit in self.blocked:
            self.blocked[unit] -= 1
            if not self.blocked[unit]:
                del self.blocked[unit]
                self.ready.append(unit)

    def _blocked_by(self, unit: int) -> Iterable[int]:
        return (unit,) if unit != WHOLE else {unit for later in self.following for unit in later.blocked}

    def is_finished(self) -> bool:
        """Whether no unit runs, can start or could start later; units after one that is set aside never start."""
        return not (self.flying or self.ready) and (not self.blocked or all(one.finished for one in self.before))


def drive(
    works: Sequence[Work],
    engine: Engine,
    watcher: Watcher,
    *,
    max_failed: float = 0.01,
    patience: float = 0.0,
    forget_failures: bool = False,
    part_seconds: float = math.inf,
    check: Callable[[str, UnitResult], None] | None = None,
) -> dict[str, dict[int, str]]:
    """Runs every unit of every work, each after the same unit of the works named in `after`.

    Args:
        works: a work may name earlier ones of this list in `after`.
        engine: runs the units.
        watcher: is notified of progress.
        max_failed: the share of a work's units that may be set aside before the run stops (three always may).
        part_seconds: seconds after which the worker of a part is killed, and the start counts as failed.
        patience: seconds for which a fault of a disk or a store is waited for.
        forget_failures: delete the records of earlier starts first, so that units set aside before start again.
        check: called with the work's name and the result of every unit; may raise to stop the run.

    Returns:
        for each work the units that are set aside, with the last line of their errors.

    Raises:
        UsageError: a unit found a fault in the recipe or an input.
        Damaged: a unit that is done lacks a file, or its bytes changed.
        RunIncomplete: too many units were set aside, or `check` raised it.
        StorageFault: a disk or a store failed for longer than `patience`.
    """
    session = secrets.token_hex(4)
    states = {work.name: _begin(work, watcher, forget_failures) for work in works}
    _chain(states)
    heartbeat = Heartbeat(engine, watcher, part_seconds)
    waiting = Patience(patience, watcher)
    flying = 0
    while True:
        for state in states.values():
            if not state.finished and state.is_finished():
                state.finished = True
                if state.disturbed:
                    _sweep(state)
                watcher.end(state.work.name)
                if state.slots:
                    engine.finish(state.work.name)
            if not waiting.pauses():
                flying += _submit(state, engine, session)
            _check_failed(state, max_failed)
        if all(state.finished for state in states.values()):
            return {name: state.failed for name, state in states.items()}
        if not flying:
            waiting.sleep()
            continue
        results = engine.wait(1.0)
        heartbeat.beat(has_results=bool(results))
        for name, ended in results:
            result = replace(ended, error=redacted(heartbeat.explained(name, ended)))
            flying -= 1
            state = states[name]
            state.flying -= 1
            waiting.note(name, result)
            _take(state, result, session)
            watcher.advance(name, result)
            # There may be thousands of parts, so their notes are listed in the report only.
            if result.unit == WHOLE:
                _tell(watcher, name, result.notes)
            if check:
                check(name, result)


def _tell(watcher: Watcher, name: str, notes: Sequence[str]) -> None:
    for note in notes[:NOTES]:
        watcher.tell(f"{name}: {note}")
    if len(notes) > NOTES:
        watcher.tell(f"{name}: {counted(len(notes) - NOTES, 'further note')} in the report")


def _begin(work: Work, watcher: Watcher, forget_failures: bool) -> Progress:
    units = set(work.units)
    done = work.done()
    failed: dict[int, str] = {}
    starts: dict[int, list[Json]] = {}
    littered = False
    for kind in ("failed", "attempts"):
        for name in work.store.names(f"{work.ledger}/{kind}"):
            stem = name.partition(".")[0]
            unit = WHOLE if stem == "all" else int(stem)
            littered |= unit in done
            if unit not in units or unit in done:
                continue
            path = f"{work.ledger}/{kind}/{name}"
            if forget_failures:
                work.store.delete(path)
                continue
            record = work.store.read_json(path)
            if unit == WHOLE and "error" in record:
                # A run cannot continue without a whole, so each command tries it again.
                work.store.delete(path)
            elif kind == "failed":
                failed[unit] = str(record["error"])
            else:
                starts.setdefault(unit, []).append(record)
    folders = [pass_.folder for pass_ in work.outputs.values()]
    is_left = not done.issuperset(units)
    begun = is_left and any(work.store.exists(f"{folder.bookkeeping}/pass.json") for folder in folders)
    disturbed = begun or littered
    # Also where all is done: a pass.json that was lost is written again.
    for pass_ in work.outputs.values():
        pass_.settle()
    total = work.total or len(units)
    summaries = {name: Summaries(pass_.folder, total, done) for name, pass_ in work.outputs.items()}
    for summary in summaries.values():
        summary.complete()
    watcher.begin(work.name, len(units), len(done), work.rows)
    return Progress(work, done, failed, starts, summaries, disturbed=disturbed)


def _sweep(state: Progress) -> None:
    for pass_ in state.work.outputs.values():
        sweep(pass_.folder, state.done, complete=state.done.issuperset(state.work.units))


def _chain(states: Mapping[str, Progress]) -> None:
    """Connects the works that follow each other, and sorts the units left into those that can start and the others."""
    for state in states.values():
        state.before = [states[name] for name in state.work.after if name in states]
        for earlier in state.before:
            earlier.following.append(state)
            _check_lost(earlier, state)
        for unit in state.work.units:
            if unit in state.done or unit in state.failed:
                continue
            waits_for = sum(not earlier.has(unit) for earlier in state.before)
            if waits_for:
                state.blocked[unit] = waits_for
            else:
                state.ready.append(unit)


def _check_lost(earlier: Progress, later: Progress) -> None:
    """Raises Damaged where units are done, but not the units that they read: the markers of these were lost."""
    if WHOLE in earlier.done or WHOLE in earlier.work.units:
        return
    lost = sorted(later.done.intersection(earlier.work.units) - earlier.done - {WHOLE})
    read = {folder.path for pass_ in later.work.outputs.values() for folder in pass_.reads}
    for pass_ in earlier.work.outputs.values() if lost else ():
        folder = pass_.folder
        if folder.path not in read:
            continue
        units = [unit for unit in lost if not folder.is_done(unit) and not is_set_aside(folder, unit)]
        if units:
            others = f", and {counted(len(units) - 1, 'other')}" if units[1:] else ""
            name = folder.store.path(folder.marker_name(units[0]))
            raise Damaged(f"{name}: is missing{others}", folder.path, units)


def _check_failed(state: Progress, max_failed: float) -> None:
    if len(state.failed) > max(3.0, max_failed * len(state.work.units)):
        unit, error = list(state.failed.items())[-1]
        raise RunIncomplete(
            f"{state.work.name}: {len(state.failed)} parts are set aside, more than limits.max_failed_parts allows; "
            f"the last is {key(unit)}: {error} (see {state.work.store.path(state.work.ledger)}/failed; "
            "--retry-parts starts them again)"
        )


def _submit(state: Progress, engine: Engine, session: str) -> int:
    """Submits ready units while the engine has free slots; returns how many."""
    submitted = 0
    while state.ready and not (state.slots and state.flying >= state.slots):
        unit = state.ready.popleft()
        starts = state.starts.get(unit, [])
        if _is_spent(unit, starts):
            _set_aside(state, unit)
            continue
        if not state.slots:
            state.slots = engine.start(state.work, session)
        engine.submit(state.work.name, unit, len(starts) + 1)
        # Until its outcome is known, the start counts as interrupted.
        state.starts.setdefault(unit, []).append({"session": session})
        state.flying += 1
        submitted += 1
    return submitted


def _take(state: Progress, result: UnitResult, session: str) -> None:
    unit = result.unit
    if result.status == "done":
        state.starts.pop(unit, None)
        state.add(result)
        return
    state.disturbed = True
    if result.damaged:
        raise Damaged(result.error, *result.damaged)
    if result.status == "stop":
        raise getattr(errors, result.error_type, UsageError)(result.error)
    if result.status == "held":
        state.starts[unit].pop()
        state.ready.append(unit)
        return
    outcome: Json = {"session": session}
    if result.status != "lost":
        outcome |= {"error": result.error, "traceback": result.traceback}
    if result.status == "died":
        path = f"{state.work.ledger}/attempts/{key(unit)}.{len(state.starts[unit])}.json"
        state.work.store.put(path, canonical(outcome).encode())
    state.starts[unit][-1] = outcome
    # The unit starts again at once: where all parts fail for one reason, the run stops before it has tried every part.
    state.ready.appendleft(unit)


def _is_spent(unit: int, starts: Sequence[Json]) -> bool:
    bad = sum("error" in start for start in starts)
    return bad >= BAD_STARTS or (unit != WHOLE and len(starts) - bad >= INTERRUPTED_STARTS)


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
