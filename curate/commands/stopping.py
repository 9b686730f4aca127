"""Stops a command on SIGTERM and SIGINT: parts in progress are finished or given up, and the command ends in time."""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

from curate.credentials import redacted

UNITS_END_WITHIN = 18.0
"""Seconds for the units in progress after a signal."""

ENDS_WITHIN = 25.0
"""Seconds from the first signal to the end of the process; Kubernetes kills after 30."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A signal stopped the run, and the user has been told."""


@dataclass
class Received:
    """The signal that stopped a command. Ray replaces the exception of a handler by a plain KeyboardInterrupt."""

    number: int = signal.SIGINT

    @property
    def exit_code(self) -> int:
        """The exit code that shells give a process that a signal ended: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.number


def tell(line: str) -> None:
    """Prints a line to stderr."""
    print(f"curate: {redacted(line)}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def stops_on_signals() -> Iterator[Received]:
    """Inside the block, SIGINT and SIGTERM raise KeyboardInterrupt in the main thread; yields the signal.

    A second signal raises it again, so that nothing is waited for. A thread ends the process `ENDS_WITHIN` seconds
    after the first signal in any case: a library's call may never return to Python. Outside the main thread, and for a
    signal that is ignored, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield Received()
        return
    received = Received()

    def stop(number: int, _frame: FrameType | None) -> None:
        received.number = number
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    # Python's handlers run between two instructions of the main thread; this is written at once.
    wakeup = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_end_in_time, args=(reading,), daemon=True).start()
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        # The thread's read returns nothing, and it ends.
        writing.close()


def _end_in_time(reading: socket.socket) -> None:
    """Ends the process `ENDS_WITHIN` seconds after a signal, unless the block has ended before."""
    with reading:
        while received := reading.recv(1):
            if received[0] in _SIGNALS:
                break
        else:
            return
        reading.settimeout(ENDS_WITHIN)
        try:
            while reading.recv(64):
                pass
        except TimeoutError:
            os.write(2, b"curate: stopped without waiting any longer; the same command continues from here\n")
            os._exit(128 + received[0])
