"""Chooses the dense nodes of a tile: those that are near so many others that their pairs are not stored.

A hundred thousand copies of one placeholder, each of other bytes, have 5·10⁹ near pairs. A near pair of a tile is
stored, or both of its nodes are dense there, and then the decision compares their values (`curate.near`). So any set of
nodes may be dense: the decision never depends on the choice, only its cost does.

A tile has dense nodes only where it would store more than `limit` pairs. They are chosen by the number of nodes of a
sample that they are near, as many samples as needed, each larger. The choice is the same on every machine.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.duplicates import Search

EACH = 64
"""Near pairs that are stored for each node of a tile, on average, before it has dense nodes."""

FEW = 1 << 22
"""Near pairs that every tile stores."""

SAMPLES = (4_096, 65_536)
"""Nodes of the samples; the last sample is the whole other block."""

_LEAST = 32
"""Nodes of a sample that a dense node is near, or more."""

_TRIAL, _SURELY = 256, 4
"""A tile is not searched without dense nodes where the near pairs with so many of its nodes are, in proportion, so many
times `limit`."""

Rows = npt.NDArray[np.int64]

_NONE = np.empty(0, np.int64)


@dataclass(frozen=True)
class DenseRows:
    """The rows of the dense nodes of a tile's blocks, ascending; of one block the same on both sides."""

    left: Rows = field(default_factory=lambda: _NONE)
    right: Rows = field(default_factory=lambda: _NONE)

    def pairs(self, *, is_one: bool) -> int:
        """The number of pairs that are left to the decision."""
        count = len(self.left)
        return count * (count - 1) // 2 if is_one else count * len(self.right)

    def hold(self, i: Rows, j: Rows) -> npt.NDArray[np.bool_]:
        """Returns which of the pairs (i, j) are left to the decision."""
        if not len(self.left):
            return np.zeros(len(i), np.bool_)
        held: npt.NDArray[np.bool_] = np.isin(i, self.left) & np.isin(j, self.right)
        return held


def limit(left: int, right: int, *, is_one: bool) -> int:
    """Returns the number of near pairs above which a tile of so many nodes has dense ones."""
    return max(FEW, EACH * (left if is_one else left + right))


def choices(
    search: Search, left: npt.NDArray[Any], right: npt.NDArray[Any], most: int, *, is_one: bool
) -> Iterator[tuple[DenseRows, int | None]]:
    """Yields sets of dense nodes, each leaving fewer pairs to be stored than the one before.

    With each comes the number of pairs above which the next set is needed. The last one leaves about `EACH` pairs of
    each node, and has no such number.

    Args:
        search: the search of the tile.
        left: values of the first block, in random order.
        right: values of the second block, or the same.
        most: the limit of the tile.
        is_one: whether the tile is one block.
    """
    pairs = len(left) * (len(left) - 1) // 2 if is_one else len(left) * len(right)
    if pairs <= most:
        yield DenseRows(), None
        return
    trial = right[:_TRIAL]
    if int(search.near_counts(left, trial).sum()) / (len(left) * len(trial)) * pairs <= _SURELY * most:
        yield DenseRows(), most
    for size in SAMPLES:
        if size < max(len(left), len(right)):
            yield _dense(search, left, right, size, _LEAST, is_one=is_one), most
    yield _dense(search, left, right, max(len(left), len(right)), EACH, is_one=is_one), None


def _dense(
    search: Search, left: npt.NDArray[Any], right: npt.NDArray[Any], size: int, least: int, *, is_one: bool
) -> DenseRows:
    rows = np.flatnonzero(search.near_counts(left, right[:size]) >= least)
    others = rows if is_one else np.flatnonzero(search.near_counts(right, left[:size]) >= least)
    # Without dense nodes on both sides no pair is left to the decision.
    return DenseRows(rows, others) if len(rows) and len(others) else DenseRows()
