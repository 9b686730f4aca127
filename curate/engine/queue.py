"""Units that wait for a worker, and which of them each worker was told will be its next."""

from collections.abc import Hashable


class Queue:
    """Waiting units of one work, first come, first served, but for what workers were told.

    A worker that is given a unit is told which one it will probably be given next, so that it can read that one
    ahead. Nobody else takes that unit while another one is waiting; it does no harm when somebody must.
    """

    def __init__(self) -> None:
        self._starts: dict[int, int] = {}
        self._told: dict[Hashable, int] = {}

    def __len__(self) -> int:
        return len(self._starts)

    def put(self, unit: int, start: int) -> None:
        """Lets a unit wait, with the number of its start."""
        self._starts[unit] = start

    def take(self, worker: Hashable) -> tuple[int, int, int | None]:
        """A unit for a worker that is free; there must be one.

        Returns:
            the unit, its start, and the unit that will probably be this worker's next, or None.
        """
        told = self._told.pop(worker, None)
        unit = told if told in self._starts else self._untold()
        if unit is None:
            unit = next(iter(self._starts))
        start = self._starts.pop(unit)
        following = self._untold()
        if following is not None:
            self._told[worker] = following
        return unit, start, following

    def forget(self, worker: Hashable) -> None:
        """A worker is gone: what it was told is anybody's."""
        self._told.pop(worker, None)

    def _untold(self) -> int | None:
        """The first unit that no worker was told of."""
        told = set(self._told.values())
        return next((unit for unit in self._starts if unit not in told), None)
