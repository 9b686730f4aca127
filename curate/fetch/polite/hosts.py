"""Limits per host: concurrent requests, request rate, and no further requests after many refusals in a row.

The recipe's limits are for the whole run. Workers do not communicate, so each of them observes its share. A share of
1.6 connections is two slots: one is always in use, the other 60 % of the time. A slot with a share below one rests
after its requests for as long as makes up for them, so all workers together keep the limit on average. The first
request to each host comes at a random time within such a cycle, because all workers of a run start at the same moment.

Refusals and Retry-Afters count for the port of the host that sent them: URLs of a closed port, or of another's server
on the same host, stop no request to the host's other ports.

Nothing here waits but `Hosts.wait`: images whose host has no free slot stay in the part's queue (`part_queue.py`), and
images of other hosts are requested meanwhile.
"""

import contextlib
import heapq
import math
import threading
import zlib
from collections.abc import Callable, Iterator
from time import monotonic

from curate.errors import counted
from curate.fetch.contract import FetchError
from curate.fetch.http.deadline import Deadline

MAX_RETRY_AFTER = 120.0
"""Longest Retry-After in seconds that a part's images wait for; with a longer one they fail as `host_busy`."""

FIRST_CYCLE = 2.0
"""Seconds that a request is assumed to take, to spread the first requests of all workers; later rests are measured.
Most take less, but while a worker has many images, their connections also wait for their turns."""

_REFUSING = frozenset({"refused", "timeout", "connection", "tls"})
_REFUSING_STATUS = frozenset({401, 403, 429})
_OBEYED_STATUS = frozenset({429, 503})


class Later(Exception):
    """Raised where a request has to wait for a slot of its next host, and can be put back into the queue.

    Args:
        host: the next host.
        port: the port of it that will be requested.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.service = (host, port)


class _Slot:
    """The right to one connection to a host for a share of the time.

    Args:
        share: more than 0, at most 1.
        free_from: when it can be used next, on the clock of `Hosts`.
    """

    def __init__(self, share: float, free_from: float) -> None:
        self.share = share
        self.free_from = free_from

    def __lt__(self, other: "_Slot") -> bool:
        return self.free_from < other.free_from


class _Port:
    """The refusals of one port of a host; the lock of `Hosts` guards its fields."""

    def __init__(self, not_before: float = -math.inf) -> None:
        self.not_before = not_before
        self.refusals = 0
        self.left_alone = ""


class _Host:
    """The state of one host; the lock of `Hosts` guards its fields."""

    def __init__(self, slots: list[_Slot], next_start: float) -> None:
        self.free = slots
        heapq.heapify(self.free)
        self.next_start = next_start
        self.waiting = 0
        self.ports: dict[int, _Port] = {}

    def port(self, number: int) -> _Port:
        """Returns the state of a port, a new one before its first answer."""
        return self.ports.setdefault(number, _Port())


class Hosts:
    """The hosts of one part; thread-safe.

    Args:
        connections: this worker's share of concurrent requests to one host; may be less than one.
        rate: this worker's share of requests per second to one host; None for no limit.
        failures: refusals in a row after which no further request is sent to a host's port.
        phase: where in its cycle this worker starts, in [0, 1); None for the only worker of a run, which need not
            share the limits and starts at once.
        clock: seconds on any clock; simulations bring their own.

    Attributes:
        lock: guards the state of all hosts; re-entrant.
        on_free: called with a host's name, while `lock` is held, when one of the host's slots is given back.
    """

    def __init__(
        self,
        connections: float,
        rate: float | None,
        failures: int,
        *,
        phase: float | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        whole = int(connections)
        part = connections - whole
        # Limits are integers, so a smaller part than this is a rounding error of the division by the workers.
        self._shares = [1.0] * whole + ([part] if part > 1e-9 else [])
        self._limits = (connections, rate, failures)
        self._interval = 1 / rate if rate else 0.0
        self._failures = failures
        self._phase = phase
        self._clock = clock
        self._hosts: dict[str, _Host] = {}
        self.lock = threading.RLock()
        self.on_free: Callable[[str], None] = lambda _: None
        self._given_back = threading.Condition(self.lock)

    def next_part(self, phase: float | None) -> "Hosts":
        """Returns the hosts of the next part: rests and Retry-Afters that are not over stay, refusals are forgotten."""
        connections, rate, failures = self._limits
        following = Hosts(connections, rate, failures, phase=phase, clock=self._clock)
        now = self._clock()
        with self.lock:
            for name, host in self._hosts.items():
                ports = {number: port.not_before for number, port in host.ports.items() if port.not_before > now}
                if ports or max(host.next_start, *(slot.free_from for slot in host.free)) > now:
                    kept = following._hosts[name] = _Host(host.free, host.next_start)
                    kept.ports = {number: _Port(not_before) for number, not_before in ports.items()}
        return following

    def ready_at(self, name: str, port: int) -> float:
        """Returns the time from which `take` succeeds if no other request comes first; infinite while no slot is free.

        Where a request would fail without being sent, that is at once.
        """
        with self.lock:
            host = self._host(name)
            at_port = host.port(port)
            if self._refusal(at_port, MAX_RETRY_AFTER):
                return -math.inf
            # Each free slot that a thread in `wait` will use is not available here.
            if len(host.free) <= host.waiting:
                return math.inf
            return max(host.free[0].free_from, host.next_start, at_port.not_before)

    def take(self, name: str, port: int) -> "Stay | None":
        """Returns a stay at the host, or None if no slot is free now.

        Where a request to the port would fail without being sent, the stay has no slot.
        """
        with self.lock:
            ready_at, host, now = self.ready_at(name, port), self._host(name), self._clock()
            if ready_at > now:
                return None
            if ready_at == -math.inf:
                return Stay(self, name, host, None)
            host.next_start = max(now, host.next_start) + self._interval
            return Stay(self, name, host, heapq.heappop(host.free))

    def wait(self, name: str, port: int, deadline: Deadline, *, rested: bool = True) -> "Stay":
        """Returns a stay at the host once a slot is free; threads that wait here come before the queue.

        Args:
            name: the host.
            port: the port of the first request.
            deadline: extended by the wait; its `patience` bounds the wait.
            rested: False to use a slot before its rest and the host's interval are over. Both are then longer the
                next time, so the limits are kept on average.

        Raises:
            FetchError: class host_busy: no slot was free in time, the port's Retry-After is longer than that, or it
                has refused too often.
        """
        with deadline.paused(patiently=True), self.lock:
            host = self._host(name)
            end = self._clock() + deadline.patience()
            host.waiting += 1
            try:
                while True:
                    now = self._clock()
                    refusal = self._refusal(host.port(port), max(0.0, end - now))
                    if refusal:
                        raise FetchError("host_busy", refusal)
                    paced = max(host.free[0].free_from, host.next_start) if host.free and rested else now
                    start = max(paced, host.port(port).not_before) if host.free else math.inf
                    if start <= now:
                        break
                    if now >= end:
                        if host.free:
                            raise FetchError("host_busy", "the rate limit of the host allowed no request in time")
                        raise FetchError("host_busy", "no slot was free in time: its other requests took longer")
                    self._given_back.wait(min(start, end) - now)
                host.next_start = max(now, host.next_start) + self._interval
                return Stay(self, name, host, heapq.heappop(host.free))
            finally:
                host.waiting -= 1
                self.on_free(name)

    def _host(self, name: str) -> _Host:
        host = self._hosts.get(name)
        if host is None:
            now, phase = self._clock(), 0.0
            if self._phase is not None:
                # Differs between hosts: a worker should not begin with all of them at the same moment.
                phase = (self._phase + zlib.crc32(name.encode()) / 2**32) % 1.0
            slots = [_Slot(share, now + phase * FIRST_CYCLE * (1 / share - 1)) for share in self._shares]
            host = self._hosts[name] = _Host(slots, now + phase * self._interval)
        return host

    def _refusal(self, port: _Port, bound: float) -> str:
        """Returns why no request is sent to the port; empty where one may be sent within `bound` seconds."""
        if port.left_alone:
            return port.left_alone
        wait = port.not_before - self._clock()
        return f"its Retry-After asks for a wait of {counted(round(wait), 'second')}" if wait > bound else ""

    def _note(self, port: _Port, error: FetchError) -> None:
        status = error.http_status
        refused = error.error_class in _REFUSING or (
            status is not None and (status in _REFUSING_STATUS or status >= 500)
        )
        with self.lock:
            if error.retry_after is not None and status in _OBEYED_STATUS:
                port.not_before = max(port.not_before, self._clock() + error.retry_after)
            port.refusals = port.refusals + 1 if refused else 0
            if port.refusals >= self._failures:
                port.left_alone = f"not requested after {counted(port.refusals, 'refusal')} in a row, the last: {error}"


class Stay:
    """A slot of a host in use: for one request, or for several that follow each other, such as redirects.

    Args:
        hosts: where the slot is given back.
        name: the host's name.
        host: its state.
        slot: the slot; None where the port is not requested at all, so that `request` raises.
    """

    def __init__(self, hosts: Hosts, name: str, host: _Host, slot: _Slot | None) -> None:
        self.name = name
        self._hosts = hosts
        self._host = host
        self._slot = slot
        self._requests = 0
        self._seconds = 0.0

    def paused(self, port: int) -> bool:
        """Whether a port has sent a Retry-After since the slot was taken, and the time is not over."""
        with self._hosts.lock:
            at_port = self._host.port(port)
            wait = at_port.not_before - self._hosts._clock()
            return 0 < wait <= MAX_RETRY_AFTER and not at_port.left_alone

    @contextlib.contextmanager
    def request(self, port: int) -> Iterator[None]:
        """Runs the block as a request to a port of the host; FetchErrors of the block are counted and pass through.

        Raises:
            FetchError: class host_busy: the port's Retry-After is too long, or it has refused too often.
        """
        hosts, host = self._hosts, self._host
        with hosts.lock:
            at_port = host.port(port)
            refusal = hosts._refusal(at_port, MAX_RETRY_AFTER)
            if refusal or self._slot is None:
                raise FetchError("host_busy", refusal or "no slot of the host was free")
            # The first request is paid for by `take` and `wait`.
            host.next_start += hosts._interval if self._requests else 0.0
            self._requests += 1
        started = hosts._clock()
        try:
            yield
        except FetchError as error:
            hosts._note(at_port, error)
            raise
        else:
            at_port.refusals = 0
        finally:
            self._seconds += hosts._clock() - started

    def leave(self) -> None:
        """Gives the slot back; further calls do nothing."""
        slot, self._slot = self._slot, None
        if slot is None:
            return
        with self._hosts.lock:
            rest = self._seconds * (1 / slot.share - 1)
            slot.free_from = max(self._hosts._clock(), slot.free_from) + rest
            heapq.heappush(self._host.free, slot)
            self._hosts._given_back.notify_all()
            self._hosts.on_free(self.name)
