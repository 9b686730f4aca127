"""Reads the near pairs that a search found: their histogram, and those just below a step's threshold.

The table is streamed, as it may be very long. Near pairs name images and captions by digest; `find_kept` finds the
kept pairs.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate.columns import PairColumns
from curate.columns import read as read_columns
from curate.duplicates import Compared
from curate.near import FoundPairs, Pairs
from curate.report.histogram import Histogram
from curate.report.survey import OTHER, UNDER_THRESHOLD, Place
from curate.side_by_side import side_by_side
from curate.store import Inputs

CANDIDATES = 1000
"""Near pairs below a threshold that are looked up: the pairs of most of them may be dropped for other reasons."""


@dataclass(frozen=True)
class NearMiss:
    """Two images, or captions, just below a threshold, by digest, with `digests[0] < digests[1]`."""

    digests: tuple[str, str]
    similarity: float


@dataclass
class Near:
    """The near pairs of a search.

    Attributes:
        histogram: of their similarity; pairs at or above a threshold are in the stack UNDER_THRESHOLD, which stands
            for what a step acts on, and the others in OTHER.
        below: by threshold, the pairs closest to it from below, the closest first; at most CANDIDATES.
    """

    histogram: Histogram = field(default_factory=lambda: Histogram(3))
    below: dict[float, list[NearMiss]] = field(default_factory=dict)


def read_near(found: FoundPairs, thresholds: Collection[float], dividing: float) -> Near:
    """Reads the near pairs of a search.

    Args:
        found: what the search found; pairs of dense nodes are not stored, and so not among them.
        thresholds: of the steps that read it.
        dividing: the threshold at or above which pairs are in the stack UNDER_THRESHOLD.
    """
    near = Near()
    none: Pairs = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    closest = dict.fromkeys(thresholds, none)
    for pairs in found.pairs():
        values = pairs[2]
        near.histogram.add(values, np.where(values >= dividing, UNDER_THRESHOLD, OTHER))
        for threshold, known in closest.items():
            closest[threshold] = _closest(known, pairs, values < threshold)
    names = found.names_of([node for a, b, _ in closest.values() for side in (a, b) for node in side.tolist()])
    for threshold, pairs in closest.items():
        listed = zip(*(column.tolist() for column in pairs), strict=True)
        near.below[threshold] = [NearMiss((names[a], names[b]), similarity) for a, b, similarity in listed]
    return near


def _closest(known: Pairs, more: Pairs, below: npt.NDArray[np.bool_]) -> Pairs:
    """Returns the most similar pairs, CANDIDATES at most; equally similar ones by their nodes, as by digest."""
    a, b, similarity = (np.concatenate([one, other[below]]) for one, other in zip(known, more, strict=True))
    if len(similarity) > CANDIDATES:
        # Only the ties of the last one need an order by nodes.
        among = similarity >= np.partition(similarity, -CANDIDATES)[-CANDIDATES]
        a, b, similarity = a[among], b[among], similarity[among]
    first = np.lexsort((b, a, -similarity))[:CANDIDATES]
    return a[first], b[first], similarity[first]


def find_kept(
    inputs: Inputs, columns: PairColumns, wanted: Mapping[Compared, Collection[str]]
) -> dict[Compared, dict[str, Place]]:
    """Returns the places of kept pairs by the digest of their image or caption; of several pairs the first.

    Args:
        inputs: the folders plan, fetch and select.
        columns: the columns of a pair of the run.
        wanted: digests of each thing, as hex digits.
    """
    wanted = {compared: pa.array(sorted(digests), pa.string()) for compared, digests in wanted.items() if digests}
    places: dict[Compared, dict[str, Place]] = {compared: {} for compared in wanted}

    def read(part: int) -> tuple[int, dict[Compared, tuple[pa.Array, pa.Array]]]:
        pairs = read_columns(inputs, columns, part, ["kept", *(compared.column for compared in wanted)])
        kept = pc.indices_nonzero(pairs["kept"])
        found = {}
        for compared, digests in wanted.items():
            own = compared.digests_of(pairs[compared.column].take(kept))
            hits = pc.indices_nonzero(pc.is_in(own, value_set=digests))
            found[compared] = kept.take(hits), own.take(hits)
        return part, found

    for part, found in side_by_side(read, inputs.parts if wanted else ()):
        for compared, (rows, digests) in found.items():
            for row, digest in zip(rows.to_pylist(), digests.to_pylist(), strict=True):
                places[compared].setdefault(digest, Place(part, row))
    return places


def both_kept(
    misses: Sequence[NearMiss], places: Mapping[str, Place], most: int
) -> list[tuple[NearMiss, Place, Place]]:
    """Returns the first near misses of which both images, or captions, have a kept pair, with the places of these."""
    found = [
        (miss, places[miss.digests[0]], places[miss.digests[1]])
        for miss in misses
        if all(digest in places for digest in miss.digests)
    ]
    return found[:most]
