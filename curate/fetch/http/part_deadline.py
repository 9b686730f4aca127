"""The deadline of a part: shuts its open connections when the time is up, so that no server can delay a worker."""

import threading
from time import monotonic
from typing import Protocol

GRACE = 1.0
"""Seconds after the deadline at which connections that are still open are shut; requests observe the deadline
themselves, so this is the exception."""


class Open(Protocol):
    """A connection."""

    def shut(self) -> None:
        """Ends the connection at once; called from another thread."""


class Watchdog:
    """Shuts a part's connections when its time is up.

    Args:
        seconds: from now; None for no deadline.
    """

    def __init__(self, seconds: float | None) -> None:
        self.end = float("inf") if seconds is None else monotonic() + seconds
        self._open: set[Open] = set()
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        if seconds is not None:
            self._timer = threading.Timer(min(seconds + GRACE, threading.TIMEOUT_MAX), self._shut_all)
            self._timer.daemon = True
            self._timer.start()

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return monotonic() >= self.end

    def watch(self, connection: Open) -> None:
        """Adds a connection to those that are shut at the deadline."""
        with self._lock:
            self._open.add(connection)

    def forget(self, connection: Open) -> None:
        """Removes a connection, which its request has closed."""
        with self._lock:
            self._open.discard(connection)

    def cancel(self) -> None:
        """Stops the watchdog; called when the part is done."""
        if self._timer:
            self._timer.cancel()

    def _shut_all(self) -> None:
        with self._lock:
            for connection in self._open:
                connection.shut()
