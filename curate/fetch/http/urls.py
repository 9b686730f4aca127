"""Parses a URL once, so that the host that is checked is the host that is connected to."""

import contextlib
import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from urllib.parse import quote, urljoin, urlsplit

from curate.fetch.contract import FetchError

MAX_LENGTH = 8192
"""Most characters of a URL; servers refuse longer ones."""

_PORTS = {"http": 80, "https": 443}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_HOST = re.compile(r"([a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}")
# Characters that are sent unquoted in a request line; `%` is one, as most URLs in lists are quoted already.
_KEPT = "%/:?[]@!$&'()*+,;=-._~|"


@dataclass(frozen=True)
class Target:
    """A URL that can be requested: host in ASCII and lower case, path and query quoted, no fragment."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The whole URL as text."""
        return f"{self.scheme}://{self.authority}{self.path}"


def parse(url: str) -> Target:
    """Parses a URL.

    Spaces and characters outside ASCII are quoted as browsers do; user-info is dropped, so that passwords inside a
    list's URLs are not sent.

    Raises:
        FetchError: class bad_url.
    """
    if len(url) > MAX_LENGTH:
        raise FetchError("bad_url", f"{len(url)} characters long")
    url = url.strip(" \t\r\n\f")
    if _CONTROL.search(url):
        raise FetchError("bad_url", "control characters in the URL")
    try:
        parts = urlsplit(url)
        scheme, name, port = parts.scheme, parts.hostname, parts.port
    except ValueError as error:
        raise FetchError("bad_url", str(error)) from error
    if scheme not in _PORTS:
        raise FetchError("bad_url", f"{scheme[:20]}: is not fetched" if scheme else "no scheme")
    if not name or "\\" in parts.netloc or "%" in name or ("[" in parts.netloc) != (":" in name):
        raise FetchError("bad_url", "no host")
    if port == 0:
        raise FetchError("bad_url", "port 0")
    path = quote(parts.path, safe=_KEPT, errors="replace") or "/"
    query = f"?{quote(parts.query, safe=_KEPT, errors='replace')}" if parts.query else ""
    return Target(scheme, _host(name), port or _PORTS[scheme], path + query)


def join(base: Target, location: str) -> Target:
    """Returns the target of a redirect; `location` is the header as http.client decodes it.

    Raises:
        FetchError: class bad_url.
    """
    with contextlib.suppress(UnicodeDecodeError):
        # http.client decodes headers as latin-1, but servers send UTF-8.
        location = location.encode("latin-1").decode("utf-8")
    if len(location) > MAX_LENGTH:
        raise FetchError("bad_url", f"redirected to {len(location)} characters")
    try:
        joined = urljoin(base.url, location.strip(" \t\r\n\f"))
    except ValueError as error:
        raise FetchError("bad_url", f"redirected to something that is not a URL: {error}") from error
    try:
        return parse(joined)
    except FetchError as error:
        raise FetchError("bad_url", f"redirected to a bad URL: {error}") from error


def _host(name: str) -> str:
    """Returns a host in ASCII, without a trailing dot, which certificates and servers do not expect."""
    if ":" in name:
        try:
            return str(IPv6Address(name))
        except AddressValueError as error:
            raise FetchError("bad_url", f"no host: {error}") from error
    if len(name) > 253:
        raise FetchError("bad_url", "a host of more than 253 characters")
    if not name.isascii():
        try:
            name = name.encode("idna").decode("ascii").lower()
        except UnicodeError as error:
            raise FetchError("bad_url", f"no host: {error}") from error
    name = name.removesuffix(".")
    if not _HOST.fullmatch(name):
        raise FetchError("bad_url", f"no host: {name}")
    return name
