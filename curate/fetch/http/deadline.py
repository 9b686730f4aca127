"""The time that one image has, over everything that is done for it."""

import contextlib
import threading
from collections.abc import Iterator
from time import monotonic


class Deadline:
    """A moment by which all must be done; it moves while a request waits for this program, not for a server.

    Args:
        seconds: from now; also how long it may wait for its host in all.
        end: the part's end, which nothing moves; by `time.monotonic`.
    """

    def __init__(self, seconds: float, end: float = float("inf")) -> None:
        self.end = end
        self.at = min(monotonic() + seconds, end)
        self._patience = seconds

    def left(self) -> float:
        """Seconds left; raises TimeoutError when there are none."""
        left = self.at - monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def left_of_part(self) -> float:
        """Seconds until the part's end, as a timeout of Python's locks; 0 where it is over."""
        return min(max(0.0, self.end - monotonic()), threading.TIMEOUT_MAX)

    def patience(self) -> float:
        """Seconds for which it may still wait for its host."""
        return max(0.0, min(self._patience, self.end - monotonic()))

    @contextlib.contextmanager
    def paused(self, *, patiently: bool = False) -> Iterator[None]:
        """The time of the block does not count.

        Args:
            patiently: it is the host that is waited for, and counts against `patience`.
        """
        started = monotonic()
        try:
            yield
        finally:
            waited = monotonic() - started
            self.at = min(self.at + waited, self.end)
            if patiently:
                self._patience -= waited
