"""A process that prepares images for another one, over a socket.

Decoding and resizing let go of Python's lock, but what lies between them does not: measured with 512-pixel JPEGs, a
fifth of a thread's time is spent under it, so that no number of threads prepares more than some 1,000 images a second
(2,500 without pixel columns). A GPU wants more. Processes have a lock each.

Compressed bytes go one way, crops the other. The process ends when the other end of its socket does.
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
    """The process, as the one that started it sees it. One call at a time."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            code = f"from curate.embed.decode.process import serve; serve({theirs.fileno()})"
            # Where a worker finds its modules need not be where a new interpreter looks for them.
            env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
            # Not multiprocessing: workers of a local run are its daemons, and those may have no children.
            self._process = subprocess.Popen([sys.executable, "-c", code], pass_fds=[theirs.fileno()], env=env)

    def __call__(self, prepare: bytes, images: Sequence[bytes]) -> list[Prepared | None]:
        """Prepares some images.

        Args:
            prepare: a pickled `Prepare`.
            images: bytes, as stored.

        Raises:
            RuntimeError: the process died.
        """
        try:
            _send(self._socket, None, [prepare, *images])
            (measured, values), (thumbnails, *stacks) = _receive(self._socket)
        except (EOFError, ConnectionError) as error:
            code = self._process.wait()
            raise RuntimeError(f"a process that decodes images died with exit code {code}") from error
        found: list[Prepared | None] = []
        decoded = 0
        for measures, of_scorers in zip(measured, values, strict=True):
            if measures is None:
                found.append(None)
            else:
                kept = Measures(thumbnails[decoded], *measures) if measures else None
                found.append(Prepared([stack[decoded] for stack in stacks], kept, of_scorers))
                decoded += 1
        return found

    def close(self) -> None:
        """Ends the process, whatever it is at: it has nothing to lose."""
        self._socket.close()
        self._process.kill()
        self._process.wait()


def serve(descriptor: int) -> None:
    """What the process does: prepares what comes until nothing does."""
    # A Ctrl-C is for the worker to heed; sixteen tracebacks would hide what it says.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Each of these processes has one core.
    torch.set_num_threads(1)
    # The other end may go at any moment, with an answer on its way.
    with contextlib.suppress(EOFError, ConnectionError), socket.socket(fileno=descriptor) as end:
        known, prepare = b"", None
        while True:
            _, (asked, *images) = _receive(end)
            if prepare is None or asked.tobytes() != known:
                known = asked.tobytes()
                prepare = pickle.loads(known)  # noqa: S301 - made by the process that started this one
            _answer(end, prepare, images)


def _answer(end: socket.socket, prepare: Prepare, images: Sequence[_Bytes]) -> None:
    """Sends each image's measures (none: []; null: it cannot be decoded) and scorers' values, thumbnails, and crops.

    No pickle goes this way: an image that took this process over must not take over the other one.
    """
    found = [prepare(image.tobytes()) for image in images]
    decoded = [image for image in found if image]
    measures = [image.measures for image in decoded if image.measures]
    thumbnails = np.stack([one.thumbnail for one in measures]) if measures else np.zeros(0, np.uint8)
    stacks = [np.stack(crops) for crops in zip(*(image.crops for image in decoded), strict=True)]
    numbers = [None if image is None else _numbers(image.measures) for image in found]
    values = [None if image is None else image.values for image in found]
    _send(end, [numbers, values], [thumbnails, *stacks])


def _numbers(measures: Measures | None) -> list[float]:
    if measures is None:
        return []
    return [measures.brightness, measures.contrast, measures.colorfulness, measures.sharpness]


def _send(end: socket.socket, said: Any, buffers: Sequence[bytes | _Bytes]) -> None:
    """Sends something that JSON can say, and buffers: each as it lies in memory."""
    shapes = [[len(buffer)] if isinstance(buffer, bytes) else buffer.shape for buffer in buffers]
    header = json.dumps([said, shapes]).encode()
    end.sendall(_LENGTH.pack(len(header)) + header)
    for buffer in buffers:
        end.sendall(buffer if isinstance(buffer, bytes) else buffer.reshape(-1).data)


def _receive(end: socket.socket) -> tuple[Any, list[_Bytes]]:
    (length,) = _LENGTH.unpack(_read(end, [_LENGTH.size]).tobytes())
    said, shapes = json.loads(_read(end, [length]).tobytes())
    return said, [_read(end, shape) for shape in shapes]


def _read(end: socket.socket, shape: Sequence[int]) -> _Bytes:
    """Raises EOFError where the other end is gone."""
    found = np.empty(shape, np.uint8)
    rest = found.reshape(-1).data
    while rest:
        count = end.recv_into(rest)
        if not count:
            raise EOFError
        rest = rest[count:]
    return found
