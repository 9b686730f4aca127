"""The limits that the requests of one worker share: concurrent requests (turns), and memory for bodies.

A request that waits for either waits for Curate, not for a server: its deadline is extended by the wait.
"""

import threading

from curate.fetch.http.deadline import Deadline


class Turns:
    """Bounds the number of concurrent requests.

    Args:
        count: the most requests at once.
    """

    def __init__(self, count: int) -> None:
        self._free = threading.Semaphore(count)

    def turn(self, deadline: Deadline) -> "Turn":
        """Returns a turn for a request, not taken yet."""
        return Turn(self._free, deadline)


class Turn:
    """One request's turn: given back while its server is silent, so that other requests can go on."""

    def __init__(self, free: threading.Semaphore, deadline: Deadline) -> None:
        self._free = free
        self._deadline = deadline
        self._taken = False

    def take(self) -> None:
        """Waits for a turn. Raises TimeoutError at the part's deadline."""
        if not self._free.acquire(blocking=False):
            with self._deadline.paused():
                if not self._free.acquire(timeout=self._deadline.left_of_part()):
                    raise TimeoutError
        self._taken = True

    def give(self) -> None:
        """Gives the turn back; further calls do nothing."""
        if self._taken:
            self._taken = False
            self._free.release()


class Memory:
    """Bounds the memory of all bodies to `limit` bytes, and one body beyond it.

    One body at a time may grow beyond the limit. Otherwise many half-read bodies could wait for each other for ever.

    Args:
        limit: the bound in bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._exempt: Lease | None = None
        self._changed = threading.Condition()

    def lease(self) -> "Lease":
        """Returns a new lease that holds 0 bytes."""
        return Lease(self)

    @property
    def held(self) -> int:
        """The bytes that all leases hold now."""
        return self._held

    def take(self, lease: "Lease", more: int, deadline: Deadline, turn: Turn) -> None:
        """Waits until so many more bytes fit; see `Lease.grow`."""
        waited = False
        with self._changed:
            if not self._has_room(lease, more):
                # Requests that hold memory may need the turn to come to their end.
                turn.give()
                waited = True
                with deadline.paused():
                    if not self._changed.wait_for(lambda: self._has_room(lease, more), deadline.left_of_part()):
                        raise TimeoutError
            self._held += more
            if self._held > self._limit:
                self._exempt = lease
        if waited:
            try:
                turn.take()
            except TimeoutError:
                self.give(lease, more)
                raise

    def give(self, lease: "Lease", count: int) -> None:
        """Returns bytes of a lease."""
        with self._changed:
            self._held -= count
            if self._exempt is lease:
                self._exempt = None
            self._changed.notify_all()

    def _has_room(self, lease: "Lease", more: int) -> bool:
        return self._held + more <= self._limit or self._exempt in (None, lease)


class Lease:
    """The memory that one body holds, from its first byte until it is decoded.

    Args:
        memory: the bound that it counts against.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._count = 0

    def grow(self, more: int, deadline: Deadline, turn: Turn) -> None:
        """Takes `more` bytes, waiting until they fit; without the turn. Raises TimeoutError at the part's deadline."""
        self._memory.take(self, more, deadline, turn)
        self._count += more

    def release(self) -> None:
        """Returns all of its bytes; further calls do nothing."""
        count, self._count = self._count, 0
        if count:
            self._memory.give(self, count)
