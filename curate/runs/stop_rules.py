"""Whether a run gets anywhere: it stops where hardly anything can be fetched, and says why nothing was kept."""

from collections import Counter, deque
from collections.abc import Mapping, Sequence

import pyarrow.compute as pc

from curate.errors import RunIncomplete
from curate.runs.work import UnitResult
from curate.schema import FETCH, HEALING_CLASSES
from curate.store import Folder, Json

_ERROR = "error:"
_BUSY = "host_busy"

_HINTS: Mapping[str, str] = {
    "blocked_address": "Addresses of your own network are opened by fetch.allow, as address:port; run the recipe "
    "again with it",
}
"""What helps where most images met a class of error, other than to fetch them again as they are."""


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
        error = worst.removeprefix(_ERROR)
        raise RunIncomplete(
            f"{self._name}: only {total['success']:,} of the last {total['images']:,} images came, fewer than "
            f"fetch.min_success ({self._share:g}) allows; {errors[worst]:,} ended as {error!r}. "
            + _HINTS.get(error, "Parts that are done stay; the same command goes on")
        )


def nothing_kept(funnel: Json, fetch: Folder, parts: Sequence[int], again: str) -> str:
    """Why no pair was kept and what may help, in one line.

    Args:
        funnel: what select counted, as in `funnel.json`.
        fetch: the folder of images.
        parts: the parts that were decided on.
        again: the command that fetches lost images again; empty where they were not downloaded.
    """
    worst = str(max(funnel["steps"], key=lambda step: step["dropped"])["name"])
    said = f"no pair was kept, most were dropped as {worst!r}"
    if worst == FETCH + _BUSY:
        said += f", after {_first_refusal(fetch, parts)}"
    said += "; nothing was packed"
    error = worst.removeprefix(FETCH)
    if worst.startswith(FETCH) and error in _HINTS:
        said += f". {_HINTS[error]}"
    elif again and worst.startswith(FETCH):
        said += f". Once the cause is mended: {again}" + ("" if error in HEALING_CLASSES else f" --class {error}")
    return said


def _first_refusal(fetch: Folder, parts: Sequence[int]) -> str:
    """What the hosts that were left alone had answered before, as most images met it."""
    refusals, said = Counter[str](), Counter[str]()
    for part in parts:
        images = fetch.table("images.parquet", part, ["host", "error_class", "error"])
        busy = images.filter(pc.equal(images["error_class"], _BUSY))
        same = images.filter(pc.is_in(images["host"], value_set=busy["host"].combine_chunks()))
        refusals.update(name for name in same["error_class"].to_pylist() if name not in (None, _BUSY))
        said.update(busy["error"].to_pylist())
    if refusals:
        return repr(FETCH + refusals.most_common(1)[0][0])
    return repr(said.most_common(1)[0][0])
