"""The deadline of one image, over all requests, redirects and retries that are made for it."""

import contextlib
import threading
from collections.abc import Iterator
from time import monotonic


class Deadline:
    """The time by which a request has to finish; it is extended while the request waits for Curate, not for a server.

    Args:
        seconds: from now; also the longest time, in all, that the request may wait for a slot of its host.
        end: the part's deadline, which is never extended; on the clock of `time.monotonic`.
    """

    def __init__(self, seconds: float, end: float = float("inf")) -> None:
        self.end = end
        self.at = min(monotonic() + seconds, end)
        self._patience = seconds
        self._stopped: float | None = None

    def stop(self) -> None:
        """Stops the deadline while the request is in the queue; `resume` sets it to the seconds that were left."""
        self._stopped = max(0.0, self.at - monotonic())

    def resume(self) -> None:
        """Continues after `stop`; without one, does nothing."""
        if self._stopped is not None:
            self.at, self._stopped = min(monotonic() + self._stopped, self.end), None

    def left(self) -> float:
        """Returns the seconds left. Raises TimeoutError when there are none."""
        left = self.at - monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def left_of_part(self) -> float:
        """Returns the seconds until the part's deadline, as a timeout for Python's locks; 0 where it has passed."""
        return min(max(0.0, self.end - monotonic()), threading.TIMEOUT_MAX)

    def patience(self) -> float:
        """Returns the seconds for which the request may still wait for a slot of its host."""
        return max(0.0, min(self._patience, self.end - monotonic()))

    @contextlib.contextmanager
    def paused(self, *, patiently: bool = False) -> Iterator[None]:
        """Extends the deadline by the time that the block takes.

        Args:
            patiently: the block waits for a slot of the host, so its time counts against `patience`.
        """
        started = monotonic()
        try:
            yield
        finally:
            waited = monotonic() - started
            self.at = min(self.at + waited, self.end)
            if patiently:
                self._patience -= waited
