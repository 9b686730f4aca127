"""A part's end: whatever a server does, it cannot hold a worker for longer."""

import threading
from time import monotonic
from typing import Protocol

GRACE = 1.0
"""Seconds after the end at which connections that are open still are shut: requests keep to the end themselves."""


class Open(Protocol):
    """A connection."""

    def shut(self) -> None:
        """Ends it at once, from another thread."""


class Watchdog:
    """Shuts a part's connections when its time is up.

    Args:
        seconds: from now; None for no end.
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
        """Remembers a connection until it is forgotten."""
        with self._lock:
            self._open.add(connection)

    def forget(self, connection: Open) -> None:
        """The connection is closed."""
        with self._lock:
            self._open.discard(connection)

    def cancel(self) -> None:
        """The part is done."""
        if self._timer:
            self._timer.cancel()

    def _shut_all(self) -> None:
        with self._lock:
            for connection in self._open:
                connection.shut()
