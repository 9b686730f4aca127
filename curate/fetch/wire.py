"""A connection to one checked address, with one deadline over connecting, TLS, sending and reading.

A timeout of a socket is one of each operation: a server that sends a byte every second never meets it. Here
every operation is given what is left of the whole.
"""

import contextlib
import http.client
import io
import socket
import ssl
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import cast

from curate.fetch.addresses import Address
from curate.fetch.contract import FetchError
from curate.fetch.urls import Target

MAX_HEADER_BYTES = 256 << 10
"""Bytes of an answer's head, redirect pages and read-ahead included; http.client's own bounds (100 lines of
64 KiB) allow for 6 MB."""

MAX_ADDRESSES = 4
"""Addresses of one host that are tried, each with its share of the time that is left."""

BLOCK = 64 << 10


class Deadline:
    """A moment by which all must be done.

    Args:
        seconds: from now.
    """

    def __init__(self, seconds: float) -> None:
        self.at = monotonic() + seconds

    def left(self) -> float:
        """Seconds left; raises TimeoutError when there are none."""
        left = self.at - monotonic()
        if left <= 0:
            raise TimeoutError
        return left


class Wire:
    """An open connection.

    Args:
        target: whose host is named in TLS.
        addresses: checked addresses of that host, tried in order.
        deadline: over everything done on this connection.
        tls: how https is spoken; certificates and names are verified as it says.

    Raises:
        FetchError: no address could be connected to.
    """

    def __init__(self, target: Target, addresses: Sequence[Address], deadline: Deadline, tls: ssl.SSLContext) -> None:
        self._deadline = deadline
        self._socket = _connected(addresses[:MAX_ADDRESSES], target.port, deadline)
        try:
            if target.scheme == "https":
                with typed():
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
            reader = _Reader(self._socket, self._deadline)
            response = http.client.HTTPResponse(cast("socket.socket", reader), method="GET")
            response.begin()
        reader.head_left = None
        return response

    def close(self) -> None:
        """Closes it, whatever is under way."""
        self._socket.close()


class _Reader(io.RawIOBase):
    """A socket's incoming side: each read gets what is left of the deadline, the head has a cap."""

    def __init__(self, connection: socket.socket, deadline: Deadline) -> None:
        self._socket = connection
        self._deadline = deadline
        self.head_left: int | None = MAX_HEADER_BYTES

    def makefile(self, mode: str) -> io.BufferedReader:
        """What http.client asks of a socket."""
        assert mode == "rb"
        return io.BufferedReader(self, BLOCK)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._socket.settimeout(self._deadline.left())
        count = self._socket.recv_into(buffer)
        if self.head_left is not None:
            self.head_left -= count
            if self.head_left < 0:
                raise FetchError("connection", "the answer's head does not end")
        return count


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
