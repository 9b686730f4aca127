"""Whether a run gets anywhere: it stops where hardly anything can be fetched, instead of finishing at 1 %."""

from collections import Counter, deque

from curate.errors import RunIncomplete
from curate.run import UnitResult

_ERROR = "error:"


class MinSuccess:
    """Watches the parts of one work as they end.

    Args:
        name: of the work whose parts count.
        share: of images that must have been fetched.
        window: images over which the share is taken; whole parts, the latest ones.
    """

    def __init__(self, name: str, share: float, window: int) -> None:
        self._name = name
        self._share = share
        self._window = window
        self._latest: deque[Counter[str]] = deque()

    def __call__(self, name: str, result: UnitResult) -> None:
        """Takes a unit's end.

        Raises:
            RunIncomplete: too few of the latest images were fetched; names the class that most of them met.
        """
        if name != self._name or result.status != "done":
            return
        self._latest.append(Counter(result.counts))
        total: Counter[str] = sum(self._latest, Counter())
        while total["images"] - self._latest[0]["images"] >= self._window:
            total -= self._latest.popleft()
        if total["images"] < self._window or total["success"] >= self._share * total["images"]:
            return
        errors = {name: count for name, count in total.items() if name.startswith(_ERROR)}
        worst = max(sorted(errors), key=errors.__getitem__)
        raise RunIncomplete(
            f"{self._name}: only {total['success']:,} of the last {total['images']:,} images came, fewer than "
            f"fetch.min_success ({self._share:g}) allows; {errors[worst]:,} ended as {worst.removeprefix(_ERROR)!r}. "
            "Parts that are done stay; the same command goes on"
        )
