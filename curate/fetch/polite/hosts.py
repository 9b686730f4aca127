"""Limits per host: concurrent requests, request rate, and no further requests after many refusals in a row.

The recipe's limits are for the whole run, and each worker observes its share. Where the share is less than one
connection, the worker pauses after each request to the host, so that on average it keeps its share.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from time import monotonic

from curate.errors import counted
from curate.fetch.contract import FetchError
from curate.fetch.http.deadline import Deadline

_REFUSING = frozenset({"refused", "timeout", "connection", "tls"})
_REFUSING_STATUS = frozenset({401, 403, 429})
_OBEYED_STATUS = frozenset({429, 503})


class _Host:
    """The state of one host; the lock of `Hosts` guards its fields."""

    def __init__(self, slots: int) -> None:
        self.slots = threading.Semaphore(slots)
        self.next_start = 0.0
        self.not_before = 0.0
        self.refusals = 0
        self.left_alone = ""


class Hosts:
    """The hosts of one part; thread-safe.

    Args:
        connections: this worker's share of concurrent requests to one host; may be less than one.
        rate: this worker's share of requests per second to one host; None for no limit.
        failures: refusals in a row after which no further request is sent to a host.
    """

    def __init__(self, connections: float, rate: float | None, failures: int) -> None:
        self._connections = connections
        self._interval = 1 / rate if rate else 0.0
        self._failures = failures
        self._lock = threading.Lock()
        self._hosts: dict[str, _Host] = {}

    @contextlib.contextmanager
    def visit(self, name: str, deadline: Deadline) -> Iterator[None]:
        """Holds one of the host's slots during the block; FetchErrors of the block are counted and pass through.

        Raises:
            FetchError: class host_busy: no slot was free within `deadline.patience()`, the host's Retry-After is
                longer than that, or the host has refused too often.
        """
        with self._lock:
            host = self._hosts.setdefault(name, _Host(max(1, int(self._connections))))
        with deadline.paused(patiently=True):
            self._check(host)
            if not host.slots.acquire(timeout=deadline.patience()):
                raise FetchError("host_busy", "no slot of the host was free in time: its other requests took longer")
        started = 0.0
        try:
            with deadline.paused(patiently=True):
                self._wait_for_start(host, deadline)
            started = monotonic()
            yield
        except FetchError as error:
            if started:
                self._note(host, error)
            raise
        else:
            host.refusals = 0
        finally:
            if started:
                self._rest(host, monotonic() - started)
            host.slots.release()

    def _check(self, host: _Host) -> None:
        if host.left_alone:
            raise FetchError("host_busy", host.left_alone)

    def _wait_for_start(self, host: _Host, deadline: Deadline) -> None:
        self._check(host)
        with self._lock:
            now = monotonic()
            start = max(now, host.next_start, host.not_before)
            asked_for = host.not_before > now + deadline.patience()
            in_time = start <= now + deadline.patience()
            if in_time:
                host.next_start = max(now, host.next_start) + self._interval
        if asked_for:
            wait = counted(round(host.not_before - now), "second")
            raise FetchError("host_busy", f"its Retry-After asks for a wait of {wait}")
        # Sleeps even where the start comes too late: failing at once would use up a part that has many images of one
        # host before the host's rate allows for any of them.
        time.sleep(min(start - now, deadline.patience()))
        if not in_time:
            raise FetchError("host_busy", "the rate limit of the host allowed no request in time")
        self._check(host)

    def _rest(self, host: _Host, seconds: float) -> None:
        if self._connections < 1:
            with self._lock:
                host.next_start = max(host.next_start, monotonic() + seconds * (1 / self._connections - 1))

    def _note(self, host: _Host, error: FetchError) -> None:
        status = error.http_status
        refused = error.error_class in _REFUSING or (
            status is not None and (status in _REFUSING_STATUS or status >= 500)
        )
        with self._lock:
            if error.retry_after is not None and status in _OBEYED_STATUS:
                host.not_before = max(host.not_before, monotonic() + error.retry_after)
            host.refusals = host.refusals + 1 if refused else 0
            if host.refusals >= self._failures:
                host.left_alone = f"not requested after {counted(host.refusals, 'refusal')} in a row, the last: {error}"
