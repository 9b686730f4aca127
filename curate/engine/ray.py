"""Runs units in Ray actors, on this machine or on a cluster. The only module that imports ray.

Plain actors, not Ray Data: a unit is a number, its bytes never enter the object store, and what follows a
failure (count it, start anew, set aside) is decided in one place, `curate.runs.driver.drive`. See
docs/decisions/0001-plain-actors.md.
"""

import logging
import os
import socket
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayActorError, RayTaskError

from curate.engine.queue import Queue
from curate.errors import StoreError
from curate.runs.units import UnitRunner
from curate.runs.work import UnitResult, Work

_ANSWERS_WITHIN = 10
"""Seconds."""


@dataclass
class _Pool:
    work: Work
    session: str
    actors: list[Any] = field(default_factory=list)
    idle: list[Any] = field(default_factory=list)
    queue: Queue = field(default_factory=Queue)


class RayEngine:
    """One actor per worker, one unit at a time in each.

    A unit is given to an actor that is up, never to one that waits for room: chained works that together want
    more than the cluster has go on with what they have, instead of waiting for each other.

    Args:
        address: a cluster's address, or None for a Ray of our own on this machine.
        cpus: CPUs of a Ray of our own; by default all.

    Raises:
        StoreError: no cluster answers at the address.
    """

    def __init__(self, address: str | None = None, cpus: int | None = None) -> None:
        # Asks Ray for its coming behaviour now; it warns on every start otherwise.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        # A batch job reports to nobody, unless its owner says so.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if address:
            _check_answers(address)
        try:
            # Ray's own lines and the workers' prints would tear the progress display.
            ray.init(
                address=address or "local",
                num_cpus=cpus,
                logging_level=logging.ERROR,
                log_to_driver=False,
                include_dashboard=None if address else False,
                namespace="curate",
            )
        except ConnectionError as error:
            hint = "where it has a token, set RAY_AUTH_MODE=token and its RAY_AUTH_TOKEN"
            raise StoreError(f"no Ray cluster answers at {address}; {hint} ({error})") from error
        self._pools: dict[str, _Pool] = {}
        self._starting: dict[Any, tuple[_Pool, Any]] = {}
        self._flying: dict[Any, tuple[_Pool, Any, int]] = {}

    def start(self, work: Work, session: str) -> int:
        """Remembers the work; actors start with their first unit. See `curate.runs.work.Engine`."""
        self._pools[work.name] = _Pool(work, session)
        return work.slots

    def submit(self, name: str, unit: int, start: int) -> None:
        """Queues the unit; actors are given theirs when results are waited for, as all that waits is known then."""
        self._pools[name].queue.put(unit, start)

    def wait(self, seconds: float) -> list[tuple[str, UnitResult]]:
        """Results that have arrived; an actor that died has failed its unit."""
        for pool in self._pools.values():
            self._assign(pool)
        ready, _ = ray.wait([*self._flying, *self._starting], num_returns=1, timeout=seconds)
        results = []
        for reference in ready:
            if reference in self._starting:
                pool, actor = self._starting.pop(reference)
                pool.idle.append(actor)
            else:
                pool, actor, unit = self._flying.pop(reference)
                result = _result(reference, unit)
                if result.status in ("died", "lost"):
                    pool.actors.remove(actor)
                    pool.queue.forget(actor)
                    ray.kill(actor)
                else:
                    pool.idle.append(actor)
                results.append((pool.work.name, result))
        return results

    def finish(self, name: str) -> None:
        """Lets the actors of a work go."""
        pool = self._pools.pop(name)
        self._starting = {reference: entry for reference, entry in self._starting.items() if entry[0] is not pool}
        for actor in pool.actors:
            ray.kill(actor)

    def close(self) -> None:
        """Ends all actors, and the local Ray where we started it."""
        ray.shutdown()

    def _assign(self, pool: _Pool) -> None:
        """Hands waiting units to idle actors, and starts actors for those that none will be free for."""
        while pool.queue and pool.idle:
            actor = pool.idle.pop()
            unit, start, following = pool.queue.take(actor)
            self._flying[actor.run.remote(unit, start, following)] = (pool, actor, unit)
        starting = sum(waited_for is pool for waited_for, _ in self._starting.values())
        for _ in range(min(len(pool.queue) - starting, pool.work.processes - len(pool.actors))):
            self._add_actor(pool)

    def _add_actor(self, pool: _Pool) -> None:
        work = pool.work
        resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
        # A cluster may say which nodes a work belongs on, by a custom resource such as `curate_fetch`.
        label = f"curate_{work.name.partition('-')[0]}"
        actor: Any = (
            ray.remote(UnitRunner)
            .options(
                # On a small machine the chained works share the CPUs; they mostly wait for each other.
                num_cpus=min(work.cpus, resources.get("CPU", 1) / 4),
                num_gpus=1 if work.wants_gpu and resources.get("GPU") else 0,
                resources={label: 0.001} if label in resources else None,
                scheduling_strategy="SPREAD",
                # A dead actor is a result, which `drive` counts; Ray must not try again behind its back.
                max_restarts=0,
                max_task_retries=0,
            )
            .remote(work, pool.session)
        )
        pool.actors.append(actor)
        self._starting[actor.__ray_ready__.remote()] = (pool, actor)


def _result(reference: Any, unit: int) -> UnitResult:
    try:
        result: UnitResult = ray.get(reference)
    except (RayActorError, RayTaskError) as error:
        # What follows is Ray's list of common causes, the same for every death.
        said = " ".join(str(error).partition("Some common causes")[0].split())
        # A node that went away, as spot machines do, says nothing about the part that it was at.
        lost = isinstance(error, ActorDiedError) and (error.preempted or "node has died" in said)
        return UnitResult(unit, "lost" if lost else "died", said)
    return result


def _check_answers(address: str) -> None:
    """Ray itself asks an address that nobody answers at for ten minutes, and says nothing meanwhile."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWERS_WITHIN).close()
    except OSError as error:
        raise StoreError(f"no Ray cluster answers at {address}: {error.strerror or error}") from error
