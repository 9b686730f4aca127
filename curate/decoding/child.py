"""The program of a decoding process: receives pictures, applies its job to each, and sends the results.

A job is named `module:function`. The function is called with parameters (bytes) and returns a function from a picture's
bytes to a JSON value and buffers. Both are imported here: a job that imports Pillow alone starts in a tenth of a
second.
"""

import contextlib
import importlib
import os
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from curate.decoding import limits
from curate.decoding.messages import receive, send

Result = tuple[Any, Sequence[bytes | memoryview]]
Job = Callable[[bytes], Result]

READY, ANSWER, FAULT = "ready", "answer", "fault"
"""The kinds of messages: the job is imported; a picture's result; a traceback, after which the process ends."""


def serve(descriptor: int, parent: int, job: str) -> None:
    """Applies a job to the pictures that come, until the parent closes the socket or dies.

    Args:
        descriptor: the socket.
        parent: the parent's process id.
        job: `module:function`.
    """
    limits.end_with(parent)
    # The worker handles Ctrl-C; tracebacks of these processes would hide its message.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Pillow's warnings about unusual files are not printed: the result of each file is in its row.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    # Closed by the end of this process, as a traceback may still have to be sent.
    end = socket.socket(fileno=descriptor)
    # The parent may close its end at any time, also while a result is being sent.
    with contextlib.suppress(EOFError, ConnectionError):
        _report_faults(end)
        module, _, name = job.partition(":")
        opener: Callable[[bytes], Job] = getattr(importlib.import_module(module), name)
        send(end, [READY, None])
        known, work = None, None
        while True:
            _, (parameters, *pictures) = receive(end)
            if work is None or parameters != known:
                known, work = parameters, opener(bytes(parameters))
                limits.begin()
            for picture in pictures:
                value, buffers = _limited(work, picture)
                send(end, [ANSWER, value], buffers)


def _limited(work: Job, picture: bytearray) -> Result:
    limits.allow()
    try:
        return work(bytes(picture))
    except MemoryError:
        # Nothing is done in this process any more: memory that the picture left behind would be lost to the next one.
        os._exit(limits.OUT_OF_MEMORY)
    finally:
        limits.end()


def _report_faults(end: socket.socket) -> None:
    """Has the traceback of an exception that ends this process sent to the parent, not printed."""

    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            send(end, [FAULT, "".join(traceback.format_exception(kind, error, trace))])

    sys.excepthook = report
