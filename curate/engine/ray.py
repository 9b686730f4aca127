"""Runs units in Ray actors, on this machine or on a cluster. The only module that imports ray.

Plain actors, not Ray Data: an actor is given the number of a unit, image bytes never enter the object store, and
`curate.runs.driver.drive` alone decides what follows a failure (count it, start the unit again, set it aside). See
docs/decisions/0001-plain-actors.md.
"""

import itertools
import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import ray
import yaml
from ray import exceptions as failures
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray._private.state import state
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.experimental.internal_kv import _internal_kv_get

from curate.engine.cluster import LABEL_SHARE, Cluster, Demand, NodeType, node_types
from curate.engine.queue import Queue
from curate.errors import ClusterFault, StoreError, UsageError, shortened
from curate.runs.units import UnitRunner
from curate.runs.work import UnitResult, Work
from curate.store import Json

_ANSWERS_WITHIN = 10
"""Seconds."""

_HEAD_CHECKED_EVERY = 5
"""Seconds between two connections to the head of a cluster."""

_HEAD_AWAY_FOR = 20
"""Seconds without an answer of the head after which a run stops. Ray ends a process that has lost its head for 60 s,
with messages of its own and exit code 1."""

_LEFT_WITHIN = 15
"""Seconds from then within which a run has to leave Ray."""

_BOOTSTRAP = Path("~/ray_bootstrap_config.yaml").expanduser()
"""Where `ray up` leaves the cluster's YAML file on the head node."""

_TOLD_AFTER = 10
"""Seconds after which a line reports that a work waits for a node that the cluster does not have yet."""

_SERVED_WITHIN = 45
"""Seconds within which a cluster has to have, or to be starting, a node that can run a worker."""

_GIVES_WAY_AFTER = 10
"""Seconds without a running unit after which actors without units are ended."""

OUTCOMES: Mapping[type[failures.RayError], Literal["died", "lost"]] = {
    # The worker failed while it ran the unit: the start counts against the unit.
    failures.RayError: "died",
    failures.RayTaskError: "died",
    failures.RayActorError: "died",
    failures.ActorDiedError: "died",
    failures.WorkerCrashedError: "died",
    # Ray's memory monitor ended the worker. Other processes may have used the memory, but a unit that needs too much
    # fails in this way, too; if its starts did not count, it would be started for ever.
    failures.OutOfMemoryError: "died",
    # A node, the network or Ray itself failed: this does not depend on the unit, and the start does not count.
    failures.ActorUnavailableError: "lost",
    failures.ActorUnschedulableError: "lost",
    failures.AuthenticationError: "lost",
    failures.GetTimeoutError: "lost",
    failures.LocalRayletDiedError: "lost",
    failures.NodeDiedError: "lost",
    failures.ObjectLostError: "lost",
    failures.ObjectStoreFullError: "lost",
    failures.OutOfDiskError: "lost",
    failures.RaySystemError: "lost",
    failures.RpcError: "lost",
    failures.RuntimeEnvSetupError: "lost",
    failures.TaskCancelledError: "lost",
    failures.TaskUnschedulableError: "lost",
}
"""Whether a start that ended with this error, or with a subclass of it, counts as failed (`died`) or not (`lost`): see
`curate.runs.driver`. The nearest class in the error's hierarchy decides, so every RayError has an outcome."""

_ENDS = ("Some common causes", "Object store memory usage:")
"""Where the messages of Ray continue with text that is the same for every error, or too long for one line."""


@dataclass
class _Pool:
    work: Work
    session: str
    demand: Demand
    may_do_without_gpu: bool = False
    """A GPU is requested although nothing says that the cluster can have one."""
    actors: list[Any] = field(default_factory=list)
    idle: list[Any] = field(default_factory=list)
    queue: Queue = field(default_factory=Queue)
    names: Iterator[int] = field(default_factory=itertools.count)
    waits_since: float | None = None
    """Since when units wait while no actor of the work runs; None where they do not."""
    is_told: bool = False
    has_run: bool = False
    """A unit was given to an actor, so the cluster had a node for it."""


class RayEngine:
    """Runs units in Ray actors: one actor per worker, one unit at a time in each.

    A unit is given only to an actor that is running, never to one that waits for resources. So chained works that
    together ask for more than the cluster has continue with the actors that run, instead of waiting for each other.
    Where units wait and none runs, idle actors of other works are ended, so that their resources are free.

    Actors reserve what the recipe says. A cluster may grow by it, so nothing is reduced to what the cluster has now; a
    Ray that is started here cannot grow, and reservations of CPUs are limited to its cores.

    Args:
        address: the address of a cluster; None starts Ray on this machine.
        cpus: number of CPUs of a Ray started here; by default all.
        tell: is called with a line for the user.

    Raises:
        StoreError: no cluster answers at the address.
    """

    def __init__(
        self, address: str | None = None, cpus: int | None = None, tell: Callable[[str], None] | None = None
    ) -> None:
        # Selects Ray's future behaviour now; otherwise Ray prints a warning at every start.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        # No usage statistics are sent, unless the user has set this variable.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if address:
            _check_answers(address)
        on_sigterm = signal.getsignal(signal.SIGTERM)
        # A service manager may send SIGTERM to all processes of a run. Those of a Ray started here inherit the mask, so
        # that only the driver handles the signal, and ends them.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
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
        finally:
            if threading.current_thread() is threading.main_thread():
                # Ray's own handler would end the driver in the midst of its work, with exit code -6.
                signal.signal(signal.SIGTERM, on_sigterm)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._can_grow = address is not None
        self._head = _Head(address) if address else None
        self._tell = tell or (lambda _line: None)
        self._pools: dict[str, _Pool] = {}
        self._starting: dict[Any, tuple[_Pool, Any]] = {}
        self._flying: dict[Any, tuple[_Pool, Any, int, float]] = {}
        self._stands_still_since: float | None = None

    def start(self, work: Work, session: str) -> int:
        """Registers the work; its actors start with their first unit. See `curate.runs.work.Engine`."""
        cluster = _cluster(can_grow=self._can_grow)
        demand, may_do_without_gpu = _demand(work, cluster)
        available = cluster.resources()
        work = work.placed(replace(available, gpus=max(available.gpus, 1.0)) if demand.gpus else available)
        self._pools[work.name] = _Pool(work, session, demand, may_do_without_gpu)
        if not cluster.can_grow and not cluster.can_serve(demand):
            raise self._unserved(work, demand)
        return work.slots

    def submit(self, name: str, unit: int, start: int) -> None:
        """Queues the unit; `wait` assigns queued units to actors, as all ready units are queued by then."""
        self._pools[name].queue.put(unit, start)

    def wait(self, seconds: float) -> list[tuple[str, UnitResult]]:
        """Returns the results that have arrived within `seconds`; an actor that died gives a failed result.

        Raises:
            UsageError: no node of the cluster, nor any that it starts, can give a worker what it reserves.
            ClusterFault: the connection to Ray failed, the cluster's head does not answer, or the nodes that ran a
                work's units are gone.
        """
        if self._head:
            self._head.check()
        for pool in self._pools.values():
            self._assign(pool)
        try:
            ready, _ = ray.wait([*self._flying, *self._starting], num_returns=1, timeout=seconds)
        except failures.RayError as error:
            raise ClusterFault(f"Ray failed: {_message(error)}; the same command continues from here") from error
        results = []
        for reference in ready:
            if reference in self._starting:
                pool, actor = self._starting.pop(reference)
                pool.idle.append(actor)
            else:
                pool, actor, unit, _ = self._flying.pop(reference)
                result = _result(reference, unit)
                if result.status in ("died", "lost"):
                    self._end(pool, actor)
                else:
                    pool.idle.append(actor)
                results.append((pool.work.name, result))
        self._make_room()
        for pool in self._pools.values():
            self._check_served(pool)
        return results

    def running(self) -> list[tuple[str, int, float]]:
        """See `curate.runs.work.Engine`."""
        now = time.monotonic()
        return [(pool.work.name, unit, now - since) for pool, _, unit, since in self._flying.values()]

    def kill(self, name: str, unit: int) -> None:
        """Kills the actor; `wait` then gets an error for its unit."""
        for pool, actor, of_actor, _ in list(self._flying.values()):
            if pool.work.name == name and of_actor == unit:
                ray.kill(actor)

    def finish(self, name: str) -> None:
        """Ends the actors of a work."""
        pool = self._pools.pop(name)
        for actor in list(pool.actors):
            self._end(pool, actor)

    def close(self, within: float = 0.0) -> None:
        """Ends all actors, and Ray itself where it was started here; units get `within` seconds to end."""
        if self._flying and within:
            ray.wait(list(self._flying), num_returns=len(self._flying), timeout=within)
        ray.shutdown()
        if self._head:
            self._head.close()

    def _assign(self, pool: _Pool) -> None:
        """Gives queued units to idle actors, and starts actors for the remaining units, up to `work.processes`."""
        while pool.queue and pool.idle:
            actor = pool.idle.pop()
            unit, start, following = pool.queue.take(actor)
            pool.has_run = True
            call = actor.run.options(name=pool.work.title(unit))
            self._flying[call.remote(unit, start, following)] = (pool, actor, unit, time.monotonic())
        starting = sum(owner is pool for owner, _ in self._starting.values())
        assert pool.work.processes is not None
        for _ in range(min(len(pool.queue) - starting, pool.work.processes - len(pool.actors))):
            self._add_actor(pool)

    def _add_actor(self, pool: _Pool) -> None:
        actor: Any = (
            ray.remote(UnitRunner)
            .options(
                # Unique among all runs on the cluster.
                name=f"{pool.work.title()} {pool.session}-{next(pool.names)}",
                num_cpus=pool.demand.cpus,
                num_gpus=pool.demand.gpus,
                memory=pool.demand.bytes or None,
                resources={pool.demand.label: LABEL_SHARE} if pool.demand.label else None,
                scheduling_strategy="SPREAD",
                # `drive` counts a dead actor as a failed start of its unit, so Ray must not restart it.
                max_restarts=0,
                max_task_retries=0,
            )
            .remote(pool.work, pool.session)
        )
        pool.actors.append(actor)
        self._starting[actor.__ray_ready__.remote()] = (pool, actor)

    def _end(self, pool: _Pool, actor: Any) -> None:
        """Ends an actor; its unit, if it has one, is started again by `drive`."""
        pool.actors.remove(actor)
        pool.idle = [other for other in pool.idle if other is not actor]
        pool.queue.forget(actor)
        self._starting = {reference: entry for reference, entry in self._starting.items() if entry[1] is not actor}
        ray.kill(actor)

    def _make_room(self) -> None:
        """Ends actors without units where no unit runs and others wait: they may hold what those wait for."""
        if self._flying or not any(pool.queue for pool in self._pools.values()):
            self._stands_still_since = None
            return
        now = time.monotonic()
        if self._stands_still_since is None:
            self._stands_still_since = now
        if now - self._stands_still_since > _GIVES_WAY_AFTER:
            for pool in self._pools.values():
                if not pool.queue:
                    for actor in list(pool.actors):
                        self._end(pool, actor)

    def _check_served(self, pool: _Pool) -> None:
        """Raises UsageError where units have waited long for a node that cannot come."""
        runs = len(pool.actors) > sum(owner is pool for owner, _ in self._starting.values())
        if runs or not pool.queue:
            pool.waits_since = None
            return
        now = time.monotonic()
        if pool.waits_since is None:
            pool.waits_since = now
        waited = now - pool.waits_since
        if waited < _TOLD_AFTER:
            return
        cluster = _cluster(can_grow=self._can_grow)
        if any(pool.demand.fits(node) for node in cluster.nodes):
            return
        if waited < _SERVED_WITHIN or cluster.can_serve(pool.demand) or cluster.is_growing():
            if not pool.is_told:
                self._tell(f"{pool.work.title()}: waits for a node with {pool.demand}")
                pool.is_told = True
            return
        if pool.has_run:
            raise ClusterFault(
                f"{pool.work.title()}: the nodes with {pool.demand} are gone, and the cluster has no other and starts "
                "none; once it has one, the same command continues from here"
            )
        if not pool.may_do_without_gpu:
            raise self._unserved(pool.work, pool.demand)
        self._tell(f"{pool.work.title()}: the cluster has no GPU and starts none; it computes on CPUs")
        pool.demand, pool.may_do_without_gpu, pool.waits_since = replace(pool.demand, gpus=0.0), False, None
        for actor in list(pool.actors):
            self._end(pool, actor)

    def _unserved(self, work: Work, demand: Demand) -> UsageError:
        where = "the cluster has no such node and starts none" if self._can_grow else "this machine has less"
        section = f"{work.booking.section}: " if work.booking.section else ""
        return UsageError(f"{section}a worker of {work.name} reserves {demand}, and {where}")


class _Head:
    """The head of a cluster: whether it still answers. A thread asks it until `close`.

    Where the machine of the head vanishes, a call of Ray may return only when Ray ends the process. Then the thread
    ends it before, with the line and the exit code of the fault.

    Args:
        address: as given by the user. The address of a Ray client is another one than that of the cluster's own server,
            which may not be reachable from here.
    """

    def __init__(self, address: str) -> None:
        self._place = _place(address) or _place(ray.get_runtime_context().gcs_address)
        self._fault: ClusterFault | None = None
        self._closed = threading.Event()
        if self._place is not None:
            threading.Thread(target=self._watch, args=self._place, daemon=True).start()

    def check(self) -> None:
        """Raises ClusterFault where the head has not answered for `_HEAD_AWAY_FOR` seconds."""
        if self._fault is not None:
            raise self._fault

    def close(self) -> None:
        """Ends the thread; call it when Ray has been left."""
        self._closed.set()

    def _watch(self, host: str, port: int) -> None:
        silent_since: float | None = None
        while self._fault is None:
            if self._closed.wait(_HEAD_CHECKED_EVERY):
                return
            begun = time.monotonic()
            try:
                socket.create_connection((host, port), _HEAD_CHECKED_EVERY).close()
            except OSError as error:
                silent_since = silent_since or begun
                away = time.monotonic() - silent_since
                if away > _HEAD_AWAY_FOR:
                    self._fault = ClusterFault(
                        f"the head of the Ray cluster at {host}:{port} has not answered for {away:.0f} s "
                        f"({error.strerror or error}); once it is back, the same command continues from here"
                    )
            else:
                silent_since = None
        if not self._closed.wait(_LEFT_WITHIN):
            os.write(2, f"curate: {self._fault}\n".encode())
            os._exit(self._fault.exit_code)


def _demand(work: Work, cluster: Cluster) -> tuple[Demand, bool]:
    """Returns what an actor of the work reserves, and whether it is to run without a GPU where none is found."""
    booking = work.booking
    cpus, gpus, is_tried = booking.cpus or 1.0, booking.gpus, False
    if not cluster.can_grow:
        total = cluster.resources().cpus
        # Without a number in the recipe at most a quarter of the CPUs, so that on a small machine actors of chained
        # works fit side by side; these mostly wait for each other.
        cpus = min(cpus, total if booking.cpus else total / 4)
    if gpus is None:
        has = cluster.can_have("GPU")
        # Some autoscalers do not publish their node types: whether they have a GPU shows when one is requested.
        is_tried = not has and cluster.has_unknown_node_types()
        gpus = 1.0 if has or is_tried else 0.0
    # A cluster may bind a work to some of its nodes by a custom resource such as `curate_fetch`.
    label = f"curate_{work.name.partition('-')[0]}"
    return Demand(cpus, gpus, booking.memory or 0.0, label if cluster.can_have(label) else None), is_tried


def _cluster(*, can_grow: bool) -> Cluster:
    """Returns the cluster as it is now."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    if not can_grow:
        return Cluster(nodes, can_grow=False)
    status = _internal_kv_get(DEBUG_AUTOSCALING_STATUS)
    return Cluster(nodes, list(_node_types()), json.loads(status) if status else _status_of_v2())


def _node_types() -> Iterator[NodeType]:
    """Yields the types of nodes that the cluster can start, as far as they are known here."""
    published = state.get_cluster_config()
    if published is not None:
        for group in published.node_group_configs:
            # -1 means without limit; the default number of workers then counts one such node.
            yield NodeType(dict(group.resources), 1 if group.max_count < 0 else group.max_count)
    elif _BOOTSTRAP.is_file() and _is_head():
        yield from node_types(yaml.safe_load(_BOOTSTRAP.read_text()))


def _is_head() -> bool:
    """Whether this process runs on the cluster's head node."""
    head, _, _ = ray.get_runtime_context().gcs_address.rpartition(":")
    here: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return bool(head.strip("[]") == here)


def _status_of_v2() -> Json | None:
    """Returns the report of Ray's newer autoscaler in the form of the older one, or None where there is none."""
    if not is_autoscaler_v2():
        return None
    report = get_cluster_status(ray.get_runtime_context().gcs_address)
    return {
        "autoscaler_report": {
            "active_nodes": {node.ray_node_type_name: 1 for node in [*report.active_nodes, *report.idle_nodes]},
            "pending_launches": {str(n): launch.count for n, launch in enumerate(report.pending_launches)},
            "pending_nodes": [node.ray_node_type_name for node in report.pending_nodes],
            "node_availability_summary": {
                "node_availabilities": {
                    launch.ray_node_type_name: {"is_available": False} for launch in report.failed_launches
                }
            },
        }
    }


def _result(reference: Any, unit: int) -> UnitResult:
    try:
        result: UnitResult = ray.get(reference)
    except failures.RayError as error:
        return UnitResult(unit, _outcome(error), _message(error))
    return result


def _outcome(error: failures.RayError) -> Literal["died", "lost"]:
    """Returns the outcome of a start that ended with this error."""
    # Where the actor's node was removed, as spot machines are, the unit did not cause the failure.
    if isinstance(error, failures.ActorDiedError) and (error.preempted or "node has died" in str(error)):
        return "lost"
    return next(OUTCOMES[kind] for kind in type(error).__mro__ if kind in OUTCOMES)


def _message(error: failures.RayError) -> str:
    if isinstance(error, failures.RayTaskError) and error.cause:
        return shortened(f"{type(error.cause).__name__}: {error.cause}")
    text = str(error)
    for end in _ENDS:
        text = text.partition(end)[0]
    return shortened(text) or type(error).__name__


def _check_answers(address: str) -> None:
    """Raises StoreError where no server answers at the address; Ray itself would retry silently for ten minutes."""
    place = _place(address)
    if place is None:
        return
    try:
        socket.create_connection(place, _ANSWERS_WITHIN).close()
    except OSError as error:
        raise StoreError(f"no Ray cluster answers at {address}: {error.strerror or error}") from error


def _place(address: str) -> tuple[str, int] | None:
    """Returns the host and port of an address; None where it names no port, as `auto` does."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    return (host.strip("[]"), int(port)) if port.isdigit() else None
