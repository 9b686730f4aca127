"""A connection to a checked address, with one deadline over connecting, TLS, sending and reading.

A socket's timeout applies to each operation by itself, so a server that sends one byte a second never exceeds it. Here
each operation may take the time that is left of the whole deadline, and a response has to arrive at a minimum speed.
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
"""Most bytes that are read for a response's head, read-ahead and the pages of redirects included; http.client's own
bounds (100 lines of 64 KiB) would allow 6 MB."""

MAX_ADDRESSES = 4
"""Addresses of one host that are tried; each gets an equal share of the time that is left."""

BLOCK = 64 << 10

PATIENCE = 0.5
"""Seconds that a request waits for its server before it gives its turn to another request."""

SPEED_WINDOW = 5.0
"""Seconds of waiting for a server over which a response's speed is measured."""


class Wire:
    """An open connection.

    Args:
        target: the URL; TLS verifies the certificate against its host.
        addresses: checked addresses of that host, tried in order.
        deadline: covers every operation on this connection.
        tls: the TLS context for https; it decides how certificates and names are verified.
        turn: taken once the connection is open, given back when it is closed.
        min_speed: least bytes per second once a response has begun; 0 for no limit.

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
            FetchError: no response arrived, it arrived too late, or it is not HTTP.
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
        """Closes the connection, also during a read or write."""
        self._turn.give()
        self._socket.close()

    def shut(self) -> None:
        """Ends the connection from another thread: a read in progress returns at once."""
        with contextlib.suppress(OSError):
            # Not SSLSocket.shutdown: it removes the TLS state that the reading thread is using.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class _Reader(io.RawIOBase):
    """The reading side of a socket: each read may take what is left of the deadline, and the head's size is bounded.

    The minimum speed applies to the server alone: only time spent waiting for it counts.
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
        """Returns this reader, buffered; http.client calls it as it would a socket's `makefile`."""
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
        """Reads once; while the server does not send, the turn is given to other requests."""
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
        """Turns a TimeoutError inside the block into the error of a server that is too slow, where it is that."""
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
    """Turns the errors of sockets, TLS and http.client inside the block into FetchErrors."""
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
