"""The queue of units that wait for a worker, with the unit that each worker was told to read ahead."""

from collections.abc import Hashable


class Queue:
    """The queued units of one work, first in, first out, except for units that a worker reads ahead.

    With a unit, a worker is told which unit it will probably get next, so that it can read that one ahead. Another
    worker gets this unit only if no other is queued; then the bytes that were read ahead are of no use.
    """

    def __init__(self) -> None:
        self._starts: dict[int, int] = {}
        self._announced: dict[Hashable, int] = {}

    def __len__(self) -> int:
        return len(self._starts)

    def put(self, unit: int, start: int) -> None:
        """Queues a unit, with the number of its start."""
        self._starts[unit] = start

    def take(self, worker: Hashable) -> tuple[int, int, int | None]:
        """Takes a unit for an idle worker; the queue must not be empty.

        Returns:
            the unit, the number of its start, and the unit that this worker will probably get next, or None.
        """
        announced = self._announced.pop(worker, None)
        unit = announced if announced in self._starts else self._first_unannounced()
        if unit is None:
            unit = next(iter(self._starts))
        start = self._starts.pop(unit)
        following = self._first_unannounced()
        if following is not None:
            self._announced[worker] = following
        return unit, start, following

    def forget(self, worker: Hashable) -> None:
        """Removes a worker that ended; the unit that it was told to read ahead may go to any worker."""
        self._announced.pop(worker, None)

    def _first_unannounced(self) -> int | None:
        """Returns the first queued unit that no worker was told to read ahead, or None."""
        announced = set(self._announced.values())
        return next((unit for unit in self._starts if unit not in announced), None)
