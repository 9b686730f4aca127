"""Messages between a worker and a decoding process: a JSON value and raw bytes.

Nothing is pickled: a picture that takes over a decoding process, through a fault of a decoder, must not be able to take
over the worker. What a decoding process sends is checked as untrusted data.
"""

import json
import socket
import struct
from collections.abc import Sequence
from typing import Any

MOST_HEADER = 16 << 20
"""The most bytes of a message's JSON."""

MOST_BYTES = 8 << 30
"""The most bytes of all buffers of a message."""

_LENGTH = struct.Struct("<Q")


class MalformedMessage(ValueError):
    """A message that is not of the expected form."""


def send(end: socket.socket, value: Any, buffers: Sequence[bytes | memoryview] = ()) -> None:
    """Sends a JSON value and some buffers of bytes."""
    header = json.dumps([value, [len(buffer) for buffer in buffers]]).encode()
    head = _LENGTH.pack(len(header)) + header
    # Small messages in one call; a large buffer is not copied.
    if sum(len(buffer) for buffer in buffers) <= 1 << 16:
        end.sendall(b"".join([head, *buffers]))
        return
    end.sendall(head)
    for buffer in buffers:
        end.sendall(buffer)


def receive(end: socket.socket) -> tuple[Any, list[bytearray]]:
    """Receives what `send` has sent.

    Raises:
        EOFError: the other end is closed.
        MalformedMessage: the message is not of the expected form or too large.
        TimeoutError: nothing came within the socket's timeout.
    """
    (length,) = _LENGTH.unpack(_read(end, _LENGTH.size))
    if length > MOST_HEADER:
        raise MalformedMessage(f"a header of {length:,} bytes")
    try:
        value, sizes = json.loads(_read(end, length))
    except (ValueError, TypeError, RecursionError) as error:
        raise MalformedMessage(f"a header that cannot be read: {error}") from error
    if not isinstance(sizes, list) or not all(type(size) is int and size >= 0 for size in sizes):
        raise MalformedMessage("buffers without sizes")
    if sum(sizes) > MOST_BYTES:
        raise MalformedMessage(f"buffers of {sum(sizes):,} bytes")
    return value, [_read(end, size) for size in sizes]


def _read(end: socket.socket, size: int) -> bytearray:
    buffer = bytearray(size)
    rest = memoryview(buffer)
    while rest:
        count = end.recv_into(rest)
        if not count:
            raise EOFError
        rest = rest[count:]
    return buffer
