"""One URL to its bytes, within the rules of the open web (design.md §9).

    guard = Guard(settings, Resolver())
    guard.get("https://example.org/cat.jpg").body

Each hop, the first and every redirect, is taken apart, resolved, checked on all of its addresses and then
connected to by one of these very addresses, the name going into Host and TLS only. One deadline spans all of
it. Nothing of the environment (proxies, netrc, cookies) takes part.
"""

import http.client
import ssl

from curate.fetch.addresses import Address, blocked, opened
from curate.fetch.contract import FetchError, Received
from curate.fetch.optout import opted_out
from curate.fetch.resolver import Resolver
from curate.fetch.settings import Settings
from curate.fetch.urls import Target, join, parse
from curate.fetch.wire import BLOCK, Deadline, Wire, typed

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_WITH_BODY = frozenset({200, 203})


class Guard:
    """Fetches single URLs; safe for threads.

    Args:
        settings: deadline, caps, agent and opened addresses.
        resolver: names to addresses; its answers are checked here.
        tls: whom to trust; by default the system's authorities.
    """

    def __init__(self, settings: Settings, resolver: Resolver, tls: ssl.SSLContext | None = None) -> None:
        self._settings = settings
        self._resolver = resolver
        self._tls = tls or ssl.create_default_context()
        self._opened = opened(settings.allow)

    def get(self, url: str) -> Received:
        """Fetches a URL.

        Raises:
            FetchError: of any class but those of decoding; with the last answer's status and the last host.
        """
        deadline = Deadline(self._settings.timeout)
        hop = _Hop()
        try:
            return self._follow(parse(url), deadline, hop)
        except FetchError as error:
            error.http_status, error.host = hop.http_status, hop.host
            raise

    def _follow(self, target: Target, deadline: Deadline, hop: "_Hop") -> Received:
        asked: set[Target] = set()
        while True:
            hop.host = target.host
            asked.add(target)
            wire = Wire(target, self._checked(target, deadline), deadline, self._tls)
            try:
                response = wire.ask(self._request(target))
                hop.http_status = response.status
                if response.status not in _REDIRECTS:
                    return Received(self._body(response), response.status, target.host)
            finally:
                wire.close()
            location = response.headers.get("Location")
            if location is None:
                raise FetchError("redirect", f"{response.status} without a Location")
            target = join(target, location)
            if target in asked:
                raise FetchError("redirect", "redirected in a loop")
            if len(asked) > self._settings.max_redirects:
                raise FetchError("redirect", f"more than {self._settings.max_redirects} redirects")

    def _checked(self, target: Target, deadline: Deadline) -> tuple[Address, ...]:
        """The host's addresses; a name with one bad address among good ones is up to something."""
        addresses = self._resolver.addresses(target.host, deadline)
        for address in addresses:
            kind = blocked(address)
            if kind and (address, target.port) not in self._opened:
                raise FetchError("blocked_address", f"{address} is {kind}")
        return addresses

    def _request(self, target: Target) -> bytes:
        lines = [
            f"GET {target.path} HTTP/1.1",
            f"Host: {target.authority}",
            f"User-Agent: {self._settings.agent}",
            "Accept: image/jpeg,image/png,image/webp,image/gif,*/*;q=0.5",
            "Accept-Encoding: identity",
            "Connection: close",
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")

    def _body(self, response: http.client.HTTPResponse) -> bytes:
        """The body, once its head gives no reason to leave it."""
        _refuse_status(response.status)
        no = opted_out(response.headers, self._settings.agent_token)
        if no:
            raise FetchError("opt_out", no)
        _refuse_encoding(response)
        expected = response.length
        if expected is not None and expected > self._settings.max_bytes:
            raise FetchError("too_large", f"{expected} bytes announced")
        blocks, size = [], 0
        with typed():
            while block := response.read1(BLOCK):
                blocks.append(block)
                size += len(block)
                if size > self._settings.max_bytes:
                    raise FetchError("too_large", f"more than {self._settings.max_bytes} bytes")
        if expected is not None and size < expected:
            raise FetchError("connection", f"the body ended after {size} of {expected} bytes")
        return b"".join(blocks)


class _Hop:
    """How far a request came: what an error is told with."""

    http_status: int | None = None
    host: str | None = None


def _refuse_status(status: int) -> None:
    if status in _WITH_BODY:
        return
    kind = {4: "http_4xx", 5: "http_5xx"}.get(status // 100, "http_other")
    phrase = http.client.responses.get(status, "unknown status")
    raise FetchError(kind, f"{status} {phrase}")


def _refuse_encoding(response: http.client.HTTPResponse) -> None:
    """Refuses bodies that would have to be unpacked: a decompressor is a bomb's fuse."""
    for value in response.headers.get_all("Content-Encoding", []):
        if value.strip().lower() not in ("", "identity"):
            raise FetchError("encoding", f"Content-Encoding: {value}")
    transfer = response.headers.get("Transfer-Encoding")
    if transfer is not None and transfer.strip().lower() not in ("chunked", "identity", ""):
        raise FetchError("encoding", f"Transfer-Encoding: {transfer}")
