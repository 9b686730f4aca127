"""Runs units in Ray actors, on this machine or on a cluster. The only module that imports ray.

Plain actors, not Ray Data: a unit is a number, its bytes never enter the object store, and what follows a
failure (count it, start anew, set aside) is decided in one place, `curate.run.drive`. See
docs/decisions/0001-plain-actors.md.
"""

import logging
import os
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayActorError, RayTaskError

from curate.errors import StoreError
from curate.run import UnitResult, UnitRunner, Work


@dataclass
class _Pool:
    work: Work
    session: str
    size: int
    actors: list[Any] = field(default_factory=list)
    idle: list[Any] = field(default_factory=list)


class RayEngine:
    """One actor per worker, one unit at a time in each.

    Args:
        address: a cluster's address, or None for a Ray of our own on this machine.
    """

    def __init__(self, address: str | None = None) -> None:
        # Ray's start-up lines and the workers' prints would tear the progress display.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            ray.init(
                address=address or "local",
                logging_level=logging.ERROR,
                log_to_driver=False,
                include_dashboard=None if address else False,
                namespace="curate",
            )
        except ConnectionError as error:
            raise StoreError(f"no Ray cluster answers at {address}: {error}") from error
        self._pools: dict[str, _Pool] = {}
        self._flying: dict[Any, tuple[_Pool, Any, int]] = {}

    def start(self, work: Work, session: str) -> int:
        """Remembers the work; actors start with their first unit. See `curate.run.Engine`."""
        self._pools[work.name] = _Pool(work, session, work.processes)
        return work.processes

    def submit(self, name: str, unit: int, start: int) -> None:
        """Hands the unit to an idle actor, or to a new one."""
        pool = self._pools[name]
        actor = pool.idle.pop() if pool.idle else self._actor(pool)
        self._flying[actor.run.remote(unit, start)] = (pool, actor, unit)

    def wait(self, seconds: float) -> list[tuple[str, UnitResult]]:
        """Results that have arrived; an actor that died has failed its unit."""
        ready, _ = ray.wait(list(self._flying), num_returns=1, timeout=seconds, fetch_local=True)
        results = []
        for reference in ready:
            pool, actor, unit = self._flying.pop(reference)
            try:
                result: UnitResult = ray.get(reference)
            except (RayActorError, RayTaskError, ActorUnavailableError, GetTimeoutError) as error:
                pool.actors.remove(actor)
                ray.kill(actor)
                result = UnitResult(unit, "died", f"the Ray actor died: {' '.join(str(error).split())}")
            else:
                pool.idle.append(actor)
            results.append((pool.work.name, result))
        return results

    def finish(self, name: str) -> None:
        """Lets the actors of a work go."""
        for actor in self._pools.pop(name).actors:
            ray.kill(actor)

    def close(self) -> None:
        """Ends all actors, and the local Ray where we started it."""
        ray.shutdown()

    def _actor(self, pool: _Pool) -> Any:
        work = pool.work
        resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
        # A cluster may say which nodes a work belongs on, by a custom resource such as `curate_fetch`.
        label = f"curate_{work.name}"
        actor = (
            ray.remote(UnitRunner)
            .options(
                num_cpus=work.cpus,
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
        return actor
