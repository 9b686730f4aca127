"""Stops a run that can fetch hardly any image, and explains a run that kept no pair."""

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
    "known_url": "Earlier results have these images; leave fetch.known_results out to fetch them again",
    "blocked_address": "To open addresses of your own network, list them in fetch.allow as address:port and run the "
    "recipe again",
}
"""By error class: the remedy where most images failed with it and fetching them again would not help."""


class MinSuccess:
    """Stops a run when too few of the latest images of a work were fetched; called with every unit's result.

    Args:
        name: the work whose parts are counted.
        share: the share of images that must have been fetched.
        window: the number of latest images over which the share is taken, in whole parts.
    """

    def __init__(self, name: str, share: float, window: int) -> None:
        self._name = name
        self._share = share
        self._window = window
        self._latest: deque[Counter[str]] = deque()

    def __call__(self, name: str, result: UnitResult) -> None:
        """Counts a unit's images.

        Raises:
            RunIncomplete: too few of the latest images were fetched; the message names the most frequent error class.
        """
        if name != self._name or result.status != "done":
            return
        counts = Counter(result.counts)
        # Images that were not requested are neither successes nor failures.
        counts["images"] -= counts.pop(f"{_ERROR}known_url", 0)
        self._latest.append(counts)
        total: Counter[str] = sum(self._latest, Counter())
        while total["images"] - self._latest[0]["images"] >= self._window:
            total -= self._latest.popleft()
        if total["images"] < self._window or total["success"] >= self._share * total["images"]:
            return
        errors = {name: count for name, count in total.items() if name.startswith(_ERROR)}
        worst = max(sorted(errors), key=errors.__getitem__)
        error = worst.removeprefix(_ERROR)
        raise RunIncomplete(
            f"{self._name}: only {total['success']:,} of the last {total['images']:,} images were fetched, fewer than "
            f"fetch.min_success ({self._share:g}) allows; {errors[worst]:,} failed as {error!r}. "
            + _HINTS.get(error, "Finished parts are kept; the same command continues from here")
        )


def nothing_kept(funnel: Json, fetch: Folder, parts: Sequence[int], again: str) -> str:
    """Returns one line with the reason why no pair was kept, and a remedy.

    Args:
        funnel: the content of `funnel.json`.
        fetch: the folder of images.
        parts: the parts that were decided on.
        again: the command that fetches lost images again; empty where they were not downloaded.
    """
    worst = str(max(funnel["steps"], key=lambda step: step["dropped"])["name"])
    message = f"no pair was kept, most were dropped as {worst!r}"
    if worst == FETCH + _BUSY:
        message += f", after {_first_refusal(fetch, parts)}"
    message += "; nothing was packed"
    error = worst.removeprefix(FETCH)
    if worst.startswith(FETCH) and error in _HINTS:
        message += f". {_HINTS[error]}"
    elif again and worst.startswith(FETCH):
        message += f". Once the cause is fixed: {again}" + ("" if error in HEALING_CLASSES else f" --class {error}")
    return message


def _first_refusal(fetch: Folder, parts: Sequence[int]) -> str:
    """The reason why hosts were skipped as `host_busy`: their most frequent other failure, else error text."""
    refusals, texts = Counter[str](), Counter[str]()
    for part in parts:
        images = fetch.table("images.parquet", part, ["host", "error_class", "error"])
        busy = images.filter(pc.equal(images["error_class"], _BUSY))
        same = images.filter(pc.is_in(images["host"], value_set=busy["host"].combine_chunks()))
        refusals.update(name for name in same["error_class"].to_pylist() if name not in (None, _BUSY))
        texts.update(busy["error"].to_pylist())
    if refusals:
        return repr(FETCH + refusals.most_common(1)[0][0])
    return repr(texts.most_common(1)[0][0])
