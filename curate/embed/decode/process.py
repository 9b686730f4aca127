"""A process that prepares images for its parent process, over a socket.

Decoding and resizing release Python's global lock, but the code between them does not. Measured with 512-pixel JPEGs, a
thread holds the lock for a fifth of its time, so that no number of threads prepares more than some 1,000 images a
second (2,500 without pixel columns). A GPU takes more. Each process has a lock of its own.

The parent sends compressed bytes and receives crops. The process ends when the parent closes the socket.
"""

import contextlib
import json
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from curate.embed.decode.prepare import Prepare, Prepared
from curate.embed.pixels.basic import Measures

_LENGTH = struct.Struct("<Q")
_Bytes = npt.NDArray[np.uint8]


class Decoder:
    """Starts the process and calls it; one call at a time."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            code = f"from curate.embed.decode.process import serve; serve({theirs.fileno()})"
            # A worker may find modules where a new interpreter does not look, so its sys.path is passed on.
            env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
            # Not multiprocessing: the workers of a local run are daemon processes, which may not have children.
            self._process = subprocess.Popen([sys.executable, "-c", code], pass_fds=[theirs.fileno()], env=env)

    def __call__(self, prepare: bytes, images: Sequence[bytes]) -> list[Prepared | None]:
        """Prepares some images.

        Args:
            prepare: a pickled `Prepare`.
            images: the bytes of stored images.

        Returns:
            The result for each image, None where it cannot be decoded.

        Raises:
            RuntimeError: the process died.
        """
        try:
            _send(self._socket, None, [prepare, *images])
            (measured, values), (thumbnails, *stacks) = _receive(self._socket)
        except (EOFError, ConnectionError) as error:
            code = self._process.wait()
            raise RuntimeError(f"a process that decodes images died with exit code {code}") from error
        prepared: list[Prepared | None] = []
        decoded = 0
        for measures, of_scorers in zip(measured, values, strict=True):
            if measures is None:
                prepared.append(None)
            else:
                kept = Measures(thumbnails[decoded], *measures) if measures else None
                prepared.append(Prepared([stack[decoded] for stack in stacks], kept, of_scorers))
                decoded += 1
        return prepared

    def close(self) -> None:
        """Kills the process, also during a call: it holds no state that could be lost."""
        self._socket.close()
        self._process.kill()
        self._process.wait()


def serve(descriptor: int) -> None:
    """Runs in the process: prepares the images that it receives, until the socket is closed."""
    # The worker handles Ctrl-C; sixteen tracebacks of these processes would hide its message.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Each of these processes uses one core.
    torch.set_num_threads(1)
    # The parent may close the socket at any time, also while an answer is being sent.
    with contextlib.suppress(EOFError, ConnectionError), socket.socket(fileno=descriptor) as end:
        known, prepare = b"", None
        while True:
            _, (pickled, *images) = _receive(end)
            if prepare is None or pickled.tobytes() != known:
                known = pickled.tobytes()
                prepare = pickle.loads(known)  # noqa: S301 - made by the process that started this one
            _answer(end, prepare, images)


def _answer(end: socket.socket, prepare: Prepare, images: Sequence[_Bytes]) -> None:
    """Sends, for each image, measures ([] where not needed, null where it cannot be decoded), values and crops.

    The answer is JSON and arrays, never a pickle: an image that takes over this process, through a fault of a decoder,
    must not be able to take over the parent.
    """
    prepared = [prepare(image.tobytes()) for image in images]
    decoded = [image for image in prepared if image]
    measures = [image.measures for image in decoded if image.measures]
    thumbnails = np.stack([one.thumbnail for one in measures]) if measures else np.zeros(0, np.uint8)
    stacks = [np.stack(crops) for crops in zip(*(image.crops for image in decoded), strict=True)]
    numbers = [None if image is None else _numbers(image.measures) for image in prepared]
    values = [None if image is None else image.values for image in prepared]
    _send(end, [numbers, values], [thumbnails, *stacks])


def _numbers(measures: Measures | None) -> list[float]:
    if measures is None:
        return []
    return [measures.brightness, measures.contrast, measures.colorfulness, measures.sharpness]


def _send(end: socket.socket, value: Any, buffers: Sequence[bytes | _Bytes]) -> None:
    """Sends a JSON value and the raw bytes of some buffers."""
    shapes = [[len(buffer)] if isinstance(buffer, bytes) else buffer.shape for buffer in buffers]
    header = json.dumps([value, shapes]).encode()
    end.sendall(_LENGTH.pack(len(header)) + header)
    for buffer in buffers:
        end.sendall(buffer if isinstance(buffer, bytes) else buffer.reshape(-1).data)


def _receive(end: socket.socket) -> tuple[Any, list[_Bytes]]:
    (length,) = _LENGTH.unpack(_read(end, [_LENGTH.size]).tobytes())
    value, shapes = json.loads(_read(end, [length]).tobytes())
    return value, [_read(end, shape) for shape in shapes]


def _read(end: socket.socket, shape: Sequence[int]) -> _Bytes:
    """Receives uint8[shape]. Raises EOFError where the other end is closed."""
    array = np.empty(shape, np.uint8)
    rest = array.reshape(-1).data
    while rest:
        count = end.recv_into(rest)
        if not count:
            raise EOFError
        rest = rest[count:]
    return array
