"""The queue of a part's images: in row order, except that an image whose host has no free slot is passed over.

So a host with many images delays no other host, and its images come when its limits allow, if need be after all others.
"""

import heapq
import math
import threading
from collections.abc import Callable, Sequence
from time import monotonic

from curate.fetch.http.request import Request
from curate.fetch.polite.hosts import Hosts

Service = tuple[str, int]
"""A host with the port that is requested."""

ServiceOf = Callable[[str], Service | None]
"""Returns the host and the port of a URL, None where it is not a URL that can be requested."""


class PartQueue:
    """The images of a part that are not fetched yet; thread-safe.

    Args:
        urls: the URLs, in the order of their rows.
        hosts: the limits per host; the queue sets its `on_free`.
        service_of: parses a URL.
        end: the part's deadline on the clock; from then on requests are handed out at once, and only fail.
        clock: seconds on the clock of `hosts`.
    """

    def __init__(
        self,
        urls: Sequence[str],
        hosts: Hosts,
        service_of: ServiceOf,
        end: float = math.inf,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._urls = urls
        self._hosts = hosts
        self._end = end
        self._clock = clock
        self._rows: dict[str, list[int]] = {}
        self._ports: dict[int, int] = {}
        self._without_host: list[int] = []
        for row, url in enumerate(urls):
            service = service_of(url)
            if service is None:
                self._without_host.append(row)
            else:
                host, self._ports[row] = service
                self._rows.setdefault(host, []).append(row)
        self._resumed: dict[int, Request] = {}
        # Hosts with rows: by the time at which they will be ready, and by their first row once they are. A host is in
        # neither while all of its slots are in use. An entry counts if its time is the one in `_placed`; limits are
        # checked when it is taken out, as they may have changed.
        self._timed: list[tuple[float, str]] = []
        self._ready: list[tuple[int, float, str]] = []
        self._placed: dict[str, float] = {}
        self._passed = -1
        self._changed = threading.Condition(hosts.lock)
        self._timer = math.inf
        with hosts.lock:
            for name in self._rows:
                self._place(name)
            hosts.on_free = self._place

    def take(self) -> Request:
        """Returns the next request, with a stay at its host; waits until there is one.

        As many calls as there are rows that are neither finished nor in progress return; further ones wait for ever.
        """
        with self._changed:
            while (request := self.next()) is None:
                due = self.due()
                if due >= self._timer:
                    # Another thread wakes up by then: not all of them should, whenever a host's rest is over.
                    self._changed.wait()
                    continue
                self._timer = due
                self._changed.wait(min(max(0.0, due - self._clock()), threading.TIMEOUT_MAX))
                if self._timer == due:
                    self._timer = math.inf
            self._changed.notify()
            return request

    def next(self) -> Request | None:
        """Returns the next request, with a stay at its host, or None if no host with images has a free slot now."""
        with self._hosts.lock:
            if self._without_host:
                return self._request(self._without_host.pop(0))
            now = self._clock()
            if now >= self._end:
                return self._left_over()
            while self._timed and self._timed[0][0] <= now:
                at, name = heapq.heappop(self._timed)
                if self._placed.get(name) == at:
                    heapq.heappush(self._ready, (self._rows[name][0], at, name))
            while self._ready:
                _, at, name = heapq.heappop(self._ready)
                if self._placed.get(name) != at:
                    continue
                del self._placed[name]
                stay = self._hosts.take(name, self._ports[self._rows[name][0]])
                if stay is None:
                    self._place(name)
                    continue
                row = heapq.heappop(self._rows[name])
                self._place(name)
                self._passed = max(self._passed, row)
                request = self._request(row)
                request.stay = stay
                return request
            # All images that are left wait for their hosts.
            self._passed = len(self._urls)
            return None

    def due(self) -> float:
        """Returns the time at which `next` may return a request, if none is put back and no slot is given back."""
        with self._hosts.lock:
            return min(self._timed[0][0] if self._timed else math.inf, self._end)

    def put_back(self, request: Request, service: Service) -> None:
        """Puts back a request that has to wait for a slot of a host; it keeps the place of its row."""
        host, port = service
        with self._changed:
            self._resumed[request.row] = request
            self._ports[request.row] = port
            heapq.heappush(self._rows.setdefault(host, []), request.row)
            self._place(host)

    def _request(self, row: int) -> Request:
        return self._resumed.pop(row, None) or Request(self._urls[row], row)

    def _left_over(self) -> Request | None:
        """Returns one of the requests that are left at the part's deadline."""
        while self._rows:
            name, rows = self._rows.popitem()
            if rows:
                request = self._request(heapq.heappop(rows))
                self._rows[name] = rows
                request.passed_over = request.row < self._passed
                return request
        return None

    def _place(self, name: str) -> None:
        """Adds a host with rows to those that are ready or will be, unless it is there as early; wakes a thread."""
        if not self._rows.get(name):
            return
        at = self._hosts.ready_at(name, self._ports[self._rows[name][0]])
        if at >= self._placed.get(name, math.inf):
            return
        self._placed[name] = at
        if at <= self._clock():
            heapq.heappush(self._ready, (self._rows[name][0], at, name))
        else:
            heapq.heappush(self._timed, (at, name))
        self._changed.notify()
