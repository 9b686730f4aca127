"""Runs units in worker processes of this machine; needs no Ray."""

import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from time import monotonic

from curate.engine.gpus import VARIABLE, share, visible
from curate.engine.queue import Queue
from curate.errors import UsageError, counted
from curate.runs.booking import Resources, cores
from curate.runs.units import UnitRunner
from curate.runs.work import UnitResult, Work

# Spawned, not forked: torch, Arrow and img2dataset run threads in the driver and in workers, and fork copies none.
_CONTEXT = multiprocessing.get_context("spawn")


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    place: int
    """Its number among the workers of its work; the worker that replaces it gets the same."""
    unit: int | None = None
    since: float = 0.0


@dataclass
class _Pool:
    work: Work
    session: str
    gpus: Sequence[str]
    gpus_each: float
    workers: list[_Worker] = field(default_factory=list)
    queue: Queue = field(default_factory=Queue)


class LocalEngine:
    """Runs units in processes of this machine.

    A worker is one process and runs one unit at a time, so a crash is attributed to exactly one unit.
    """

    def __init__(self) -> None:
        self._pools: dict[str, _Pool] = {}
        self._gpus = visible()

    def start(self, work: Work, session: str) -> int:
        """Registers the work; its processes start with their first unit. See `curate.runs.work.Engine`."""
        work = work.placed(Resources(cores(), len(self._gpus)))
        booking = work.booking
        each = min(1, len(self._gpus)) if booking.gpus is None else booking.gpus
        # Without a list of GPUs, one of another maker may still be found by torch, which reports where there is none.
        if each > max(1, len(self._gpus)):
            found = counted(len(self._gpus), "NVIDIA GPU")
            raise UsageError(f"{booking.section}.gpus: each worker gets {each:g} GPUs, and this machine has {found}")
        self._pools[work.name] = _Pool(work, session, self._gpus, each)
        return work.slots

    def submit(self, name: str, unit: int, start: int) -> None:
        """Queues the unit; `wait` assigns queued units to workers, as all ready units are queued by then."""
        self._pools[name].queue.put(unit, start)

    def wait(self, seconds: float) -> list[tuple[str, UnitResult]]:
        """Returns the results that have arrived within `seconds`; a worker that died gives a failed result."""
        for pool in self._pools.values():
            _assign(pool)
        owners = {worker.pipe: (pool, worker) for pool in self._pools.values() for worker in pool.workers}
        results: list[tuple[str, UnitResult]] = []
        for pipe in wait(list(owners), timeout=seconds):
            assert isinstance(pipe, Connection)
            pool, worker = owners[pipe]
            try:
                result: UnitResult = pipe.recv()
            except (EOFError, ConnectionResetError):
                pool.workers.remove(worker)
                pool.queue.forget(pipe)
                worker.process.join()
                pipe.close()
                if worker.unit is None:
                    continue
                error = f"the worker process died with exit code {worker.process.exitcode}"
                result = UnitResult(worker.unit, "died", error)
            worker.unit = None
            results.append((pool.work.name, result))
        return results

    def running(self) -> list[tuple[str, int, float]]:
        """See `curate.runs.work.Engine`."""
        now = monotonic()
        busy = [(pool, worker) for pool in self._pools.values() for worker in pool.workers]
        return [(pool.work.name, worker.unit, now - worker.since) for pool, worker in busy if worker.unit is not None]

    def kill(self, name: str, unit: int) -> None:
        """Kills the worker's process; `wait` then finds its pipe closed."""
        for worker in self._pools[name].workers:
            if worker.unit == unit:
                worker.process.kill()

    def finish(self, name: str) -> None:
        """Ends the workers of a work, which are idle."""
        workers = self._pools.pop(name).workers
        for worker in workers:
            worker.pipe.close()
        for worker in workers:
            worker.process.join(timeout=10)
            if worker.process.is_alive():
                worker.process.kill()

    def close(self, within: float = 0.0) -> None:
        """Kills all workers once their units have ended or after `within` seconds; a run starts the others again."""
        deadline = monotonic() + within
        busy = [worker.pipe for pool in self._pools.values() for worker in pool.workers if worker.unit is not None]
        while busy and (left := deadline - monotonic()) > 0:
            # A worker has an answer, or has died: its unit has ended.
            ended = wait(busy, timeout=left)
            busy = [pipe for pipe in busy if pipe not in ended]
        for pool in self._pools.values():
            for worker in pool.workers:
                worker.process.kill()
                worker.process.join()
        self._pools.clear()


def _assign(pool: _Pool) -> None:
    """Gives queued units to idle workers, or to new ones up to the work's number of processes."""
    while pool.queue:
        worker = next((worker for worker in pool.workers if worker.unit is None), None)
        if worker is None:
            if len(pool.workers) == pool.work.processes:
                return
            worker = _spawn(pool)
        unit, start, following = pool.queue.take(worker.pipe)
        worker.unit, worker.since = unit, monotonic()
        worker.pipe.send((unit, start, following))


def _spawn(pool: _Pool) -> _Worker:
    ours, theirs = _CONTEXT.Pipe()
    taken = {worker.place for worker in pool.workers}
    place = next(number for number in itertools.count() if number not in taken)
    gpus = share(pool.gpus, place, pool.gpus_each)
    arguments = (theirs, pool.work, pool.session, gpus)
    process = _CONTEXT.Process(target=_serve, args=arguments, name=f"curate {pool.work.title()}", daemon=True)
    # A terminal sends Ctrl-C to all of its processes, and a service manager SIGTERM. Workers would end in the midst of
    # their units, and print tracebacks. So both are blocked while the worker is started, which inherits the mask: only
    # the driver handles them, and ends the workers. The resource tracker is started before, as its start unblocks both.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    worker = _Worker(process, ours, place)
    pool.workers.append(worker)
    return worker


def _serve(pipe: Connection, work: Work, session: str, gpus: str | None) -> None:
    """Runs in a worker process: runs units until the driver closes the pipe or dies."""
    # Before CUDA starts: it reads the variable once.
    if gpus is not None:
        os.environ[VARIABLE] = gpus
    # In a spawned process, locks that libraries create with the default context (tqdm's, img2dataset's pool of threads)
    # are named semaphores. Killing the process leaves them behind, and Python prints a warning. With the start method
    # fork, semaphores have no name. Nothing is forked: a daemon process may not have children.
    multiprocessing.set_start_method("fork", force=True)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    runner = UnitRunner(work, session)
    while True:
        try:
            unit, start, following = pipe.recv()
        except EOFError:
            return
        pipe.send(runner.run(unit, start, following))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
