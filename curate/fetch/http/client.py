"""Fetches one URL from public addresses only, with bounds on time, bytes, redirects and requests per host.

    guard = Guard(settings, Resolver())
    with guard.part():
        guard.get("https://example.org/cat.jpg").body

A part's images come from `Guard.queue`, in the order that the limits per host allow, and `Guard.fetch` fetches each.

For the first URL and for every redirect, the URL is parsed, its host is resolved, all of the host's addresses are
checked, and the connection goes to one of the checked addresses; the host's name is used for the Host header and TLS
only. One deadline covers all of this, retries included; time in the queue does not count. Settings of the environment
(proxies, netrc, cookies) are not used.
"""

import contextlib
import http.client
import random
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from time import monotonic

from curate.fetch.contract import FetchError, Received
from curate.fetch.http.addresses import Address, blocked, opened
from curate.fetch.http.connection import BLOCK, Wire, typed
from curate.fetch.http.deadline import Deadline
from curate.fetch.http.limits import Memory, Turns
from curate.fetch.http.part_deadline import Watchdog
from curate.fetch.http.request import Request
from curate.fetch.http.resolver import Resolver
from curate.fetch.http.urls import Target, join, parse
from curate.fetch.pictures.blocklist import Blocklist
from curate.fetch.polite.hosts import Hosts, Later, Stay
from curate.fetch.polite.opt_out import opted_out
from curate.fetch.polite.origin_file import MAX_BYTES as MAX_ORIGIN_FILE
from curate.fetch.polite.part_queue import PartQueue, Service
from curate.fetch.polite.retry import pause, retry_after
from curate.fetch.polite.robots import Robots
from curate.fetch.polite.tdmrep import Tdmrep
from curate.fetch.settings import Settings

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_WITH_BODY = frozenset({200, 203})
_CUT = frozenset({"dns", "timeout", "connection", "host_busy", "tls", "refused"})
"""Error classes that a request may end with when the part's deadline interrupts it; they become `deadline`."""

Read = Callable[[http.client.HTTPResponse, "_Hop"], Received]
"""Reads the response that ends a chain of redirects."""


class Guard:
    """Fetches single URLs; thread-safe.

    Args:
        settings: deadline, limits, user agent and allowed addresses.
        resolver: resolves names to addresses; its answers are checked here.
        tls: the TLS context; by default it trusts the system's certificate authorities.
        blocklist: digests of bodies that are refused.
    """

    def __init__(
        self,
        settings: Settings,
        resolver: Resolver,
        tls: ssl.SSLContext | None = None,
        blocklist: Blocklist | None = None,
    ) -> None:
        self._settings = settings
        self._resolver = resolver
        self._tls = tls or ssl.create_default_context()
        self._blocklist = blocklist or Blocklist()
        self._opened = opened(settings.allow)
        self._origin_files: list[Robots | Tdmrep] = []
        if settings.robots:
            self._origin_files.append(Robots(settings.agent_token, content_usage=settings.content_usage))
        if settings.tdmrep:
            self._origin_files.append(Tdmrep())
        share = 1 / settings.processes
        rate = None if settings.host_rate is None else settings.host_rate * share
        self._hosts = Hosts(settings.host_connections * share, rate, settings.host_failures, phase=self._phase())
        self._part = _Part(settings, self._hosts, None)

    @contextlib.contextmanager
    def part(self) -> Iterator[None]:
        """Runs the block as one part: with the part's deadline, and with counts and limits per host reset."""
        self._hosts = self._hosts.next_part(self._phase())
        before, self._part = self._part, _Part(self._settings, self._hosts, self._settings.part_timeout)
        try:
            yield
        finally:
            self._part.watchdog.cancel()
            self._part = before

    def queue(self, urls: Sequence[str]) -> PartQueue:
        """Returns the queue of the open part's images; call it once for a part."""
        return PartQueue(urls, self._part.hosts, _service_of, self._part.watchdog.end)

    def get(self, url: str) -> Received:
        """Fetches a URL, waiting for its hosts.

        Raises:
            FetchError: as `fetch`; class host_busy also where a host had no free slot within `timeout`.
        """
        return self._fetch(Request(url), waits=True)

    def fetch(self, request: Request) -> Received:
        """Fetches the image of a request that came from the queue.

        Raises:
            FetchError: any class but those of decoding; with the status of the last response and the last host.
            Later: the next host has no free slot. Put the request back into the queue; it goes on from there.
        """
        return self._fetch(request, waits=False)

    def _phase(self) -> float | None:
        return random.random() if self._settings.processes > 1 else None

    def _fetch(self, request: Request, *, waits: bool) -> Received:
        part = self._part
        deadline = request.deadline = request.deadline or Deadline(self._settings.timeout, part.watchdog.end)
        deadline.resume()
        try:
            if part.watchdog.over:
                if request.passed_over:
                    service = _service_of(request.url)
                    request.host = request.host or (service[0] if service else None)
                    raise FetchError("host_busy", "its host's limits left no time for it before the part's deadline")
                raise FetchError("deadline", "the part's deadline passed before the request began")
            if request.first is None:
                request.first = request.target = parse(request.url)
            return self._tried(_Hop(request, part, deadline, waits=waits))
        except Later:
            deadline.stop()
            raise
        except FetchError as error:
            if part.watchdog.over and error.error_class in _CUT and not request.passed_over:
                raise FetchError(
                    "deadline",
                    f"the part's deadline passed: {error}",
                    http_status=request.http_status,
                    host=request.host,
                ) from error
            error.http_status, error.host = request.http_status, request.host
            raise
        finally:
            request.leave()

    def _tried(self, hop: "_Hop") -> Received:
        """Follows the URL; retries errors that may be temporary, as often as `retries` and the deadline allow."""
        request = hop.request
        while True:
            try:
                return self._follow(hop, self._body, obey_origin=True)
            except FetchError as error:
                seconds = pause(error, request.tries) if request.tries <= self._settings.retries else None
                if seconds is None or monotonic() + seconds >= hop.deadline.at:
                    raise
            request.leave()
            request.target, request.http_status = request.first, None
            request.visited.clear()
            request.tries += 1
            time.sleep(seconds)

    def _follow(self, hop: "_Hop", read: Read, *, obey_origin: bool) -> Received:
        """Requests `hop.request.target`, then what it redirects to. Raises FetchError and Later."""
        request = hop.request
        while True:
            target = request.target
            assert target is not None
            request.host = target.host
            request.visited.add(target)
            addresses = self._checked(target, hop.deadline)
            for rules in self._origin_files if obey_origin else ():
                self._enter(hop)
                rules.check(target, lambda origin: self._origin_file(origin, hop), hop.deadline)
            with self._enter(hop).request(target.port), self._connected(target, addresses, hop) as wire:
                response = wire.ask(self._head(target))
                request.http_status = response.status
                if response.status not in _REDIRECTS:
                    return read(response, hop)
            location = response.headers.get("Location")
            if location is None:
                raise FetchError("redirect", f"{response.status} without a Location")
            request.target = join(target, location)
            if request.target in request.visited:
                raise FetchError("redirect", "redirected in a loop")
            if len(request.visited) > self._settings.max_redirects:
                raise FetchError("redirect", f"more than {self._settings.max_redirects} redirects")

    def _enter(self, hop: "_Hop") -> Stay:
        """Returns the request's stay at its next host: the one that it has, else a new one.

        Raises:
            FetchError: class host_busy, where the request waits.
            Later: no slot is free, where it does not.
        """
        request, hosts = hop.request, hop.part.hosts
        assert request.host is not None
        assert request.target is not None
        port = request.target.port
        if request.borrowed and request.borrowed.name == request.host:
            return request.borrowed
        if request.stay and request.stay.name == request.host and not request.stay.paused(port):
            return request.stay
        request.leave()
        if hop.waits:
            request.stay = hosts.wait(request.host, port, hop.deadline, rested=request.borrowed is None)
        else:
            request.stay = hosts.take(request.host, port)
        if request.stay is None:
            raise Later(request.host, port)
        return request.stay

    @contextlib.contextmanager
    def _connected(self, target: Target, addresses: tuple[Address, ...], hop: "_Hop") -> Iterator[Wire]:
        try:
            wire = Wire(target, addresses, hop.deadline, self._tls, hop.turn, self._settings.min_speed)
        except FetchError:
            hop.turn.give()
            raise
        hop.part.watchdog.watch(wire)
        try:
            yield wire
        finally:
            hop.part.watchdog.forget(wire)
            wire.close()

    def _origin_file(self, origin: Target, hop: "_Hop") -> str:
        """Returns an origin's robots.txt or tdmrep.json as text, '' where it has none. Raises FetchError.

        It is requested within the image's stay at the host. Where it is redirected to another host, it waits for a slot
        but not for the slot's rest: other images of the origin wait in threads for the result.
        """
        own = Request(origin.url)
        own.target, own.borrowed = origin, hop.request.stay
        try:
            received = self._follow(_Hop(own, hop.part, hop.deadline, waits=True), _origin_file_body, obey_origin=False)
        except FetchError as error:
            if error.error_class == "http_4xx" and error.http_status != http.client.TOO_MANY_REQUESTS:
                return ""
            raise
        finally:
            own.leave()
        return received.body.decode("utf-8", "replace")

    def _checked(self, target: Target, deadline: Deadline) -> tuple[Address, ...]:
        """Returns the host's addresses. Raises FetchError if any of them is blocked.

        One blocked address is enough: a public name that also resolves to a private address may be an attack.
        """
        addresses = self._resolver.addresses(target.host, deadline)
        for address in addresses:
            kind = blocked(address)
            if kind and (address, target.port) not in self._opened:
                raise FetchError("blocked_address", f"{address} is {kind}")
        return addresses

    def _head(self, target: Target) -> bytes:
        lines = [
            f"GET {target.path} HTTP/1.1",
            f"Host: {target.authority}",
            f"User-Agent: {self._settings.agent}",
            "Accept: image/jpeg,image/png,image/webp,image/gif,*/*;q=0.5",
            "Accept-Encoding: identity",
            "Connection: close",
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")

    def _body(self, response: http.client.HTTPResponse, hop: "_Hop") -> Received:
        """Reads the body, unless the head gives a reason to refuse it. Raises FetchError."""
        _refuse_status(response)
        no = opted_out(response.headers, self._settings)
        if no:
            raise FetchError("opt_out", no)
        _refuse_encoding(response)
        expected = response.length
        if expected is not None and expected > self._settings.max_bytes:
            raise FetchError("too_large", f"{expected} bytes announced")
        lease = hop.part.memory.lease()
        body = bytearray()  # not a list of blocks: a block of one byte would cost forty
        try:
            with typed():
                # Memory is leased as bytes arrive, not as they are announced: an announcement costs a server nothing.
                while block := response.read1(BLOCK):
                    body += block
                    if len(body) > self._settings.max_bytes:
                        raise FetchError("too_large", f"more than {self._settings.max_bytes} bytes")
                    lease.grow(len(block), hop.deadline, hop.turn)
            if expected is not None and len(body) < expected:
                raise FetchError("connection", f"the body ended after {len(body)} of {expected} bytes")
            assert hop.request.host is not None
            received = Received(bytes(body), response.status, hop.request.host, lease)
            if self._blocklist.names(received.body, received.sha256):
                raise FetchError("blocked_digest", "its digest is on a blocklist")
        except FetchError:
            lease.release()
            raise
        return received


class _Part:
    """The state that the requests of one part share: limits per host, turns, memory and the part's deadline."""

    def __init__(self, settings: Settings, hosts: Hosts, seconds: float | None) -> None:
        self.hosts = hosts
        self.turns = Turns(settings.threads)
        self.memory = Memory(settings.waiting_bytes)
        self.watchdog = Watchdog(seconds)


class _Hop:
    """A request in progress with its part, deadline and turn; `waits`: its thread waits for slots, without `Later`."""

    def __init__(self, request: Request, part: _Part, deadline: Deadline, *, waits: bool) -> None:
        self.request = request
        self.part = part
        self.deadline = deadline
        self.turn = part.turns.turn(deadline)
        self.waits = waits


def _service_of(url: str) -> Service | None:
    """Returns the host and the port of a URL, None where it is not valid."""
    try:
        target = parse(url)
    except FetchError:
        return None
    return target.host, target.port


def _origin_file_body(response: http.client.HTTPResponse, hop: _Hop) -> Received:
    """Returns the first MAX_ORIGIN_FILE bytes of a robots.txt or tdmrep.json. Raises FetchError."""
    _refuse_status(response)
    _refuse_encoding(response)
    body = bytearray()
    with typed():
        while len(body) < MAX_ORIGIN_FILE and (block := response.read1(BLOCK)):
            body += block
    assert hop.request.host is not None
    return Received(bytes(body), response.status, hop.request.host)


def _refuse_status(response: http.client.HTTPResponse) -> None:
    status = response.status
    if status in _WITH_BODY:
        return
    kind = {4: "http_4xx", 5: "http_5xx"}.get(status // 100, "http_other")
    phrase = http.client.responses.get(status, "unknown status")
    wanted = retry_after(response.headers.get("Retry-After"))
    raise FetchError(kind, f"{status} {phrase}", http_status=status, retry_after=wanted)


def _refuse_encoding(response: http.client.HTTPResponse) -> None:
    """Raises FetchError for compressed bodies, as a small one can decompress to any size."""
    for value in response.headers.get_all("Content-Encoding", []):
        if value.strip().lower() not in ("", "identity"):
            raise FetchError("encoding", f"Content-Encoding: {value}")
    transfer = response.headers.get("Transfer-Encoding")
    if transfer is not None and transfer.strip().lower() not in ("chunked", "identity", ""):
        raise FetchError("encoding", f"Transfer-Encoding: {transfer}")
