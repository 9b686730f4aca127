"""Runs units in Ray actors, on this machine or on a cluster. The only module that imports ray.

Plain actors, not Ray Data: an actor is given the number of a unit, image bytes never enter the object store, and
`curate.runs.driver.drive` alone decides what follows a failure (count it, start the unit again, set it aside). See
docs/decisions/0001-plain-actors.md.
"""

import logging
import os
import socket
from dataclasses import dataclass, field
from time import monotonic
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
    """Runs units in Ray actors: one actor per worker, one unit at a time in each.

    A unit is given only to an actor that is running, never to one that waits for resources. So chained works that
    together ask for more than the cluster has continue with the actors that run, instead of waiting for each other.

    Args:
        address: the address of a cluster; None starts Ray on this machine.
        cpus: number of CPUs of a Ray started here; by default all.

    Raises:
        StoreError: no cluster answers at the address.
    """

    def __init__(self, address: str | None = None, cpus: int | None = None) -> None:
        # Selects Ray's future behaviour now; otherwise Ray prints a warning at every start.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        # No usage statistics are sent, unless the user has set this variable.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if address:
            _check_answers(address)
        try:
            # Output of Ray and of the workers would break the progress display.
            ray.init(
                address=address or "local",
                num_cpus=cpus,
                logging_level=logging.ERROR,
                log_to_driver=False,
                include_dashboard=None if address else False,
                namespace="curate",
            )
        except ConnectionError as error:
            hint = "if the cluster uses a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
            raise StoreError(f"no Ray cluster answers at {address}; {hint} ({error})") from error
        self._pools: dict[str, _Pool] = {}
        self._starting: dict[Any, tuple[_Pool, Any]] = {}
        self._flying: dict[Any, tuple[_Pool, Any, int, float]] = {}

    def start(self, work: Work, session: str) -> int:
        """Registers the work; its actors start with their first unit. See `curate.runs.work.Engine`."""
        self._pools[work.name] = _Pool(work, session)
        return work.slots

    def submit(self, name: str, unit: int, start: int) -> None:
        """Queues the unit; `wait` assigns queued units to actors, as all ready units are queued by then."""
        self._pools[name].queue.put(unit, start)

    def wait(self, seconds: float) -> list[tuple[str, UnitResult]]:
        """Returns the results that have arrived within `seconds`; an actor that died gives a failed result."""
        for pool in self._pools.values():
            self._assign(pool)
        ready, _ = ray.wait([*self._flying, *self._starting], num_returns=1, timeout=seconds)
        results = []
        for reference in ready:
            if reference in self._starting:
                pool, actor = self._starting.pop(reference)
                pool.idle.append(actor)
            else:
                pool, actor, unit, _ = self._flying.pop(reference)
                result = _result(reference, unit)
                if result.status in ("died", "lost"):
                    pool.actors.remove(actor)
                    pool.queue.forget(actor)
                    ray.kill(actor)
                else:
                    pool.idle.append(actor)
                results.append((pool.work.name, result))
        return results

    def running(self) -> list[tuple[str, int, float]]:
        """See `curate.runs.work.Engine`."""
        now = monotonic()
        return [(pool.work.name, unit, now - since) for pool, _, unit, since in self._flying.values()]

    def kill(self, name: str, unit: int) -> None:
        """Kills the actor; `wait` then gets an error for its unit."""
        for pool, actor, of_actor, _ in list(self._flying.values()):
            if pool.work.name == name and of_actor == unit:
                ray.kill(actor)

    def finish(self, name: str) -> None:
        """Ends the actors of a work."""
        pool = self._pools.pop(name)
        self._starting = {reference: entry for reference, entry in self._starting.items() if entry[0] is not pool}
        for actor in pool.actors:
            ray.kill(actor)

    def close(self) -> None:
        """Ends all actors, and Ray itself where it was started here."""
        ray.shutdown()

    def _assign(self, pool: _Pool) -> None:
        """Gives queued units to idle actors, and starts actors for the remaining units, up to `work.processes`."""
        while pool.queue and pool.idle:
            actor = pool.idle.pop()
            unit, start, following = pool.queue.take(actor)
            self._flying[actor.run.remote(unit, start, following)] = (pool, actor, unit, monotonic())
        starting = sum(owner is pool for owner, _ in self._starting.values())
        for _ in range(min(len(pool.queue) - starting, pool.work.processes - len(pool.actors))):
            self._add_actor(pool)

    def _add_actor(self, pool: _Pool) -> None:
        work = pool.work
        resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
        # A cluster may bind a work to some of its nodes by a custom resource such as `curate_fetch`.
        label = f"curate_{work.name.partition('-')[0]}"
        actor: Any = (
            ray.remote(UnitRunner)
            .options(
                # At most a quarter of the CPUs, so that on a small machine actors of chained works fit side by side;
                # these mostly wait for each other.
                num_cpus=min(work.cpus, resources.get("CPU", 1) / 4),
                num_gpus=1 if work.wants_gpu and resources.get("GPU") else 0,
                resources={label: 0.001} if label in resources else None,
                scheduling_strategy="SPREAD",
                # `drive` counts a dead actor as a failed start of its unit, so Ray must not restart it.
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
        # The message ends with Ray's list of common causes, which is the same for every dead actor.
        message = " ".join(str(error).partition("Some common causes")[0].split())
        # Where its node was removed, as spot machines are, the unit did not cause the failure.
        lost = isinstance(error, ActorDiedError) and (error.preempted or "node has died" in message)
        return UnitResult(unit, "lost" if lost else "died", message)
    return result


def _check_answers(address: str) -> None:
    """Raises StoreError where no server answers at the address; Ray itself would retry silently for ten minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWERS_WITHIN).close()
    except OSError as error:
        raise StoreError(f"no Ray cluster answers at {address}: {error.strerror or error}") from error
