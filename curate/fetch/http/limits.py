"""What the requests of one worker share: turns on the network, and memory for bodies.

Both are waited for on this program's account: a request's deadline stands still meanwhile.
"""

import threading

from curate.fetch.http.deadline import Deadline


class Turns:
    """So many requests may be under way at once.

    Args:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        self._free = threading.Semaphore(count)

    def turn(self, deadline: Deadline) -> "Turn":
        """A request's turn, not taken yet."""
        return Turn(self._free, deadline)


class Turn:
    """One request's turn: given up while a server keeps it waiting, so that others may go on."""

    def __init__(self, free: threading.Semaphore, deadline: Deadline) -> None:
        self._free = free
        self._deadline = deadline
        self._taken = False

    def take(self) -> None:
        """Waits for a turn. Raises TimeoutError at the part's end."""
        if not self._free.acquire(blocking=False):
            with self._deadline.paused():
                if not self._free.acquire(timeout=self._deadline.left_of_part()):
                    raise TimeoutError
        self._taken = True

    def give(self) -> None:
        """Gives it back; more than once does no harm."""
        if self._taken:
            self._taken = False
            self._free.release()


class Memory:
    """Bodies together hold at most `limit` bytes, and one body more.

    That one body may always grow: without it, many half-read ones could wait for each other for ever.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._exempt: Lease | None = None
        self._changed = threading.Condition()

    def lease(self) -> "Lease":
        """A body's share, of nothing yet."""
        return Lease(self)

    @property
    def held(self) -> int:
        """Bytes that are taken now."""
        return self._held

    def take(self, lease: "Lease", more: int, deadline: Deadline) -> None:
        """Waits until there is room; see `Lease.grow`."""
        with self._changed:
            if not self._has_room(lease, more):
                with deadline.paused():
                    if not self._changed.wait_for(lambda: self._has_room(lease, more), deadline.left_of_part()):
                        raise TimeoutError
            self._held += more
            if self._held > self._limit:
                self._exempt = lease

    def give(self, lease: "Lease", count: int) -> None:
        """Takes back what a lease held."""
        with self._changed:
            self._held -= count
            if self._exempt is lease:
                self._exempt = None
            self._changed.notify_all()

    def _has_room(self, lease: "Lease", more: int) -> bool:
        return self._held + more <= self._limit or self._exempt in (None, lease)


class Lease:
    """What one body holds of the memory, from its first byte until it is decoded.

    Args:
        memory: of which it is taken.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._count = 0

    def grow(self, more: int, deadline: Deadline) -> None:
        """Takes so many bytes more. Raises TimeoutError at the part's end."""
        self._memory.take(self, more, deadline)
        self._count += more

    def release(self) -> None:
        """Gives everything back; more than once does no harm."""
        count, self._count = self._count, 0
        if count:
            self._memory.give(self, count)
