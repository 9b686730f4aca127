"""A connection to one checked address, with one deadline over connecting, TLS, sending and reading.

A timeout of a socket is one of each operation: a server that sends a byte every second never meets it. Here
every operation is given what is left of the whole, and an answer that has begun must go on at some speed.
"""

import contextlib
import http.client
import io
import socket
import ssl
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import cast

from curate.fetch.contract import FetchError
from curate.fetch.http.addresses import Address
from curate.fetch.http.deadline import Deadline
from curate.fetch.http.limits import Turn
from curate.fetch.http.urls import Target

MAX_HEADER_BYTES = 256 << 10
"""Bytes of an answer's head, redirect pages and read-ahead included; http.client's own bounds (100 lines of
64 KiB) allow for 6 MB."""

MAX_ADDRESSES = 4
"""Addresses of one host that are tried, each with its share of the time that is left."""

BLOCK = 64 << 10

PATIENCE = 0.5
"""Seconds that a server may keep a request waiting before its turn goes to another one."""

SPEED_WINDOW = 5.0
"""Seconds of waiting for a server over which an answer's speed is measured."""


class Wire:
    """An open connection.

    Args:
        target: whose host is named in TLS.
        addresses: checked addresses of that host, tried in order.
        deadline: over everything done on this connection.
        tls: how https is spoken; certificates and names are verified as it says.
        turn: taken once the connection stands, until it is closed.
        min_speed: bytes per second of an answer that has begun; 0 for any.

    Raises:
        FetchError: no address could be connected to.
    """

    def __init__(
        self,
        target: Target,
        addresses: Sequence[Address],
        deadline: Deadline,
        tls: ssl.SSLContext,
        turn: Turn,
        min_speed: int = 0,
    ) -> None:
        self._deadline = deadline
        self._turn = turn
        self._min_speed = min_speed
        self._socket = _connected(addresses[:MAX_ADDRESSES], target.port, deadline)
        try:
            with typed():
                turn.take()
                if target.scheme == "https":
                    self._socket.settimeout(deadline.left())
                    self._socket = tls.wrap_socket(self._socket, server_hostname=target.host)
        except FetchError:
            self.close()
            raise

    def ask(self, request: bytes) -> http.client.HTTPResponse:
        """Sends a request and reads the head of the answer.

        Raises:
            FetchError: it did not come, not in time, or is not HTTP.
        """
        with typed():
            self._socket.settimeout(self._deadline.left())
            self._socket.sendall(request)
            reader = _Reader(self._socket, self._deadline, self._turn, self._min_speed)
            response = http.client.HTTPResponse(cast("socket.socket", reader), method="GET")
            response.begin()
        reader.head_left = None
        return response

    def close(self) -> None:
        """Closes it, whatever is under way."""
        self._turn.give()
        self._socket.close()

    def shut(self) -> None:
        """Ends it from another thread: what is being read ends at once."""
        with contextlib.suppress(OSError):
            # Not SSLSocket's own, which takes the TLS state away from under the reading thread.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class _Reader(io.RawIOBase):
    """A socket's incoming side: each read gets what is left of the deadline, the head has a cap.

    The speed is that of the server: only the time counts for which it is waited for.
    """

    def __init__(self, connection: socket.socket, deadline: Deadline, turn: Turn, min_speed: int) -> None:
        self._socket = connection
        self._deadline = deadline
        self._turn = turn
        self._min_speed = min_speed
        self._begun = False
        self._waited = 0.0
        self._count = 0
        self.head_left: int | None = MAX_HEADER_BYTES

    def makefile(self, mode: str) -> io.BufferedReader:
        """What http.client asks of a socket."""
        assert mode == "rb"
        return io.BufferedReader(self, BLOCK)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        started = monotonic()
        count = self._receive(buffer)
        self._note(count, monotonic() - started)
        if self.head_left is not None:
            self.head_left -= count
            if self.head_left < 0:
                raise FetchError("connection", "the answer's head does not end")
        return count

    def _receive(self, buffer: memoryview) -> int:
        """One read; the turn goes to others while the server keeps it waiting."""
        limit = self._deadline.left()
        if self._begun and self._min_speed:
            limit = min(limit, max(0.001, SPEED_WINDOW - self._waited))
        self._socket.settimeout(min(limit, PATIENCE))
        try:
            return self._socket.recv_into(buffer)
        except TimeoutError:
            if limit > PATIENCE:
                self._turn.give()
                self._socket.settimeout(limit - PATIENCE)
                with self._slow():
                    count = self._socket.recv_into(buffer)
                self._turn.take()
                return count
            with self._slow():
                raise

    @contextlib.contextmanager
    def _slow(self) -> Iterator[None]:
        """Tells a server that is too slow from a deadline that passed."""
        try:
            yield
        except TimeoutError:
            self._deadline.left()
            raise self._too_slow() from None

    def _note(self, count: int, seconds: float) -> None:
        if self._begun:
            self._waited += seconds
            self._count += count
        self._begun = True
        if self._waited >= SPEED_WINDOW:
            if count and self._count < self._min_speed * self._waited:
                raise self._too_slow()
            self._waited, self._count = 0.0, 0

    def _too_slow(self) -> FetchError:
        return FetchError("timeout", f"fewer than {self._min_speed} bytes per second")


@contextlib.contextmanager
def typed() -> Iterator[None]:
    """Turns what sockets, TLS and http.client raise into FetchErrors."""
    try:
        yield
    except TimeoutError as error:
        raise FetchError("timeout", "the deadline passed") from error
    except ConnectionRefusedError as error:
        raise FetchError("refused", "connection refused") from error
    except ssl.SSLCertVerificationError as error:
        raise FetchError("tls", error.verify_message or "the certificate is not valid") from error
    except ssl.SSLError as error:
        raise FetchError("tls", error.reason or "TLS failed") from error
    except http.client.IncompleteRead as error:
        raise FetchError("connection", "the body ended early") from error
    except http.client.HTTPException as error:
        raise FetchError("connection", f"not HTTP: {type(error).__name__} {error}") from error
    except OSError as error:
        raise FetchError("connection", error.strerror or type(error).__name__) from error


def _connected(addresses: Sequence[Address], port: int, deadline: Deadline) -> socket.socket:
    for position, address in enumerate(addresses):
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            with typed():
                connection.settimeout(deadline.left() / (len(addresses) - position))
                connection.connect((str(address), port))
        except FetchError:
            connection.close()
            if position == len(addresses) - 1:
                raise
        else:
            return connection
    raise FetchError("dns", "the name has no address")
