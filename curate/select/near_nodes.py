"""The near nodes that steps count as duplicates, as numbers: a node is a digest, its number the rank of its best pair.

Pairs that a search stored are edges. Pairs of dense nodes (`curate.near`) are not stored: a crowd compares them when it
is asked, in float64, as the search would have.
"""

# ruff: noqa: S608 - statements are put together from our own words

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.duplicates import NearKind
from curate.near import NearPairs
from curate.select.survivors import Survivors

Ranks = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_COMPARED = 1 << 12
"""Dense nodes on a side that are compared at a time."""


@dataclass(frozen=True)
class Reach:
    """The near pairs of images that a step counts as duplicates, besides images with equal digests.

    Attributes:
        step: its number.
        near: by pass that has found near pairs, the similarity at or above which it counts. Images are near where they
            are by all of these passes, with the similarity by the first; where there is none, only equal digests count.
    """

    step: int
    near: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Edges:
    """Near nodes, each pair once for the first step of a set of passes that counts it.

    Args:
        earlier: the nodes that rank first.
        later: the others.
        similarity: by the first pass of the step.
        step: its number.
    """

    earlier: Ranks
    later: Ranks
    similarity: Floats
    step: Ranks

    @classmethod
    def together(cls, pieces: Sequence["Edges"]) -> "Edges":
        """Returns the edges of several sets."""
        none = np.empty(0, np.int64)
        every = [cls(none, none, np.empty(0), none), *pieces]
        return cls(*(np.concatenate([getattr(one, name) for one in every]) for name in cls.__dataclass_fields__))


@dataclass(frozen=True)
class Crowd:
    """Dense nodes that steps compare.

    Args:
        nodes: int64 [k], ascending.
        sets: for each pass, the kind that compares, and values [k, …].
        steps: by step, in their order, the similarity by each pass at or above which it counts.
    """

    nodes: Ranks
    sets: Sequence[tuple[NearKind, npt.NDArray[Any]]]
    steps: Mapping[int, Sequence[float]]

    def near(self, some: Ranks, others: Ranks) -> Mask:
        """Returns whether a step counts each of `some` as near each of `others`, bool [n, m]; both are places."""
        found = np.zeros((len(some), len(others)), np.bool_)
        for start in range(0, len(others), _COMPARED):
            chunk = slice(start, start + _COMPARED)
            for least in self.steps.values():
                found[:, chunk] |= self._reached(some, others[chunk], least)
        return found

    def edges(self, some: Ranks, others: Ranks) -> Iterator["Edges"]:
        """Yields the edges between `others` (as `earlier`) and `some` (as `later`), whichever rank first."""
        for top in range(0, len(some), _COMPARED):
            for start in range(0, len(others), _COMPARED):
                rows, columns = some[top : top + _COMPARED], others[start : start + _COMPARED]
                first = np.full((len(rows), len(columns)), -1, np.int64)
                for step, least in self.steps.items():
                    first[(first < 0) & self._reached(rows, columns, least)] = step
                i, j = np.nonzero(first >= 0)
                kind, values = self.sets[0]
                similarity = kind.each_similarity(values[rows[i]], values[columns[j]])
                yield Edges(self.nodes[columns[j]], self.nodes[rows[i]], similarity, first[i, j])

    def _reached(self, some: Ranks, others: Ranks, least: Sequence[float]) -> Mask:
        reached = np.ones((len(some), len(others)), np.bool_)
        for (kind, values), above in zip(self.sets, least, strict=True):
            reached &= kind.reach(values[some], values[others], above)
        return reached


def find(rows: Survivors, reaches: Sequence[Reach]) -> tuple[Edges, list[Crowd]]:
    """Returns the near nodes that any step counts as duplicates; each pass is read once.

    Args:
        rows: with the table `nodes` (sha256, rank) of those that are decided.
        reaches: the steps, in their order.
    """
    least: dict[str, float] = {}
    for reach in reaches:
        for name, above in reach.near.items():
            least[name] = min(above, least.get(name, above))
    searches = {name: _Ranked.of(rows, rows.near(name), above) for name, above in least.items()}
    pieces, crowds = [], []
    for names in dict.fromkeys(tuple(reach.near) for reach in reaches if reach.near):
        of_names = [searches[name] for name in names]
        steps = {reach.step: list(reach.near.values()) for reach in reaches if tuple(reach.near) == names}
        pieces.append(_edges(of_names, steps))
        if crowd := _crowd(of_names, steps):
            crowds.append(crowd)
    return Edges.together(pieces), crowds


@dataclass(frozen=True)
class _Ranked:
    """The findings of a search, among the nodes that are decided.

    Args:
        earlier: the nodes of near pairs that rank first.
        later: the others.
        similarity: of each pair.
        kind: compares dense nodes; None where there are none.
        dense: the dense nodes, ascending.
        values: of these, [k, …].
    """

    earlier: Ranks
    later: Ranks
    similarity: Floats
    kind: NearKind | None
    dense: Ranks
    values: npt.NDArray[Any]

    @classmethod
    def of(cls, rows: Survivors, found: NearPairs, least: float) -> "_Ranked":
        """Reads the near pairs with a similarity, and the dense nodes."""
        sides, similarities = ([np.empty(0, np.int32)], [np.empty(0, np.int32)]), [np.empty(0)]
        for a, b, similarity in found.pairs():
            counts = similarity >= least
            for held, side in zip(sides, (a, b), strict=True):
                held.append(side[counts].astype(np.int32))
            similarities.append(similarity[counts])
        one, other = (np.concatenate(side) for side in sides)
        similarity = np.concatenate(similarities)
        dense = found.dense()
        named = np.zeros(found.count, np.bool_)
        named[one] = named[other] = True
        if dense:
            named[dense.nodes] = True
        rank = numbers_of(rows, found, named, "nodes", "sha256", "rank")
        first, second = rank[one], rank[other]
        decided = (first >= 0) & (second >= 0)
        first, second = first[decided], second[decided]
        pairs = (np.minimum(first, second), np.maximum(first, second), similarity[decided])
        if dense is None:
            return cls(*pairs, None, np.empty(0, np.int64), np.empty(0))
        ranks = rank[dense.nodes]
        order = np.argsort(ranks, kind="stable")[np.count_nonzero(ranks < 0) :]
        return cls(*pairs, dense.kind, ranks[order], dense.values[order])

    @cached_property
    def _by_pair(self) -> tuple[Ranks, Ranks]:
        """A number for each pair, ascending, and its place."""
        numbers = _pair_numbers(self.earlier, self.later)
        order = np.argsort(numbers, kind="stable")
        return numbers[order], order

    def stored(self, earlier: Ranks, later: Ranks) -> tuple[Mask, Ranks]:
        """Returns which pairs of nodes are stored, and the places of those that are."""
        numbers, order = self._by_pair
        wanted = _pair_numbers(earlier, later)
        at = np.searchsorted(numbers, wanted)
        is_stored = np.zeros(len(wanted), np.bool_)
        within = at < len(numbers)
        is_stored[within] = numbers[at[within]] == wanted[within]
        return is_stored, order[at[is_stored]]

    def similarities(self, earlier: Ranks, later: Ranks) -> Floats:
        """Returns the similarity of each pair of nodes; NaN where it is neither stored nor of two dense nodes."""
        similarity = np.full(len(earlier), np.nan)
        is_stored, at = self.stored(earlier, later)
        similarity[is_stored] = self.similarity[at]
        if self.kind is not None:
            both = np.flatnonzero(~is_stored & np.isin(earlier, self.dense) & np.isin(later, self.dense))
            for start in range(0, len(both), _COMPARED):
                some = both[start : start + _COMPARED]
                left, right = (self.values[np.searchsorted(self.dense, side[some])] for side in (earlier, later))
                similarity[some] = self.kind.each_similarity(left, right)
        return similarity


def numbers_of(rows: Survivors, found: NearPairs, named: Mask, table: str, digest: str, number: str) -> Ranks:
    """Returns the numbers of some nodes of a search, int64 [nodes]; -1 for others, and for those that have none.

    Args:
        rows: with the table.
        found: the search.
        named: which nodes are asked for, bool [nodes].
        table: the name of the table that has the numbers.
        digest: its column of digests, as hex digits.
        number: its column of numbers.
    """
    numbers = np.full(found.count, -1, np.int64)
    rows.do("CREATE OR REPLACE TABLE named (node BIGINT, name VARCHAR)")
    start = 0
    for names in found.names():
        here = np.flatnonzero(named[start : start + len(names)])
        rows.con.register("arrived", pa.table([here + start, names.take(pa.array(here))], ["node", "name"]))
        rows.do("INSERT INTO named SELECT node, name FROM arrived")
        rows.con.unregister("arrived")
        start += len(names)
    # At once: DuckDB would read the whole table for every block of names.
    joined = rows.con.sql(
        f"SELECT node, {number} AS number FROM named JOIN {table} ON name = {digest}"
    ).to_arrow_table()
    numbers[joined["node"].to_numpy()] = joined["number"].to_numpy()
    rows.do("DROP TABLE named")
    return numbers


def _edges(searches: Sequence[_Ranked], steps: Mapping[int, Sequence[float]]) -> Edges:
    """The pairs that are near by all of these searches, and stored by one of them at least."""
    pieces = []
    # Where a search has dense nodes, it may not store a pair that another one does.
    bases = range(len(searches)) if any(search.kind for search in searches) else range(1)
    for base in bases:
        earlier, later = searches[base].earlier, searches[base].later
        similarities = [
            search.similarity if place == base else search.similarities(earlier, later)
            for place, search in enumerate(searches)
        ]
        step = _first_step(similarities, steps)
        for before in searches[:base]:
            step[before.stored(earlier, later)[0]] = -1
        reached = step >= 0
        pieces.append(Edges(earlier[reached], later[reached], similarities[0][reached], step[reached]))
    return Edges.together(pieces)


def _crowd(searches: Sequence[_Ranked], steps: Mapping[int, Sequence[float]]) -> Crowd | None:
    """The nodes that are dense by all of these searches; None where there are none."""
    nodes = searches[0].dense
    for search in searches[1:]:
        nodes = np.intersect1d(nodes, search.dense)
    sets = [(search.kind, search.values[np.searchsorted(search.dense, nodes)]) for search in searches if search.kind]
    return Crowd(nodes, sets, steps) if len(nodes) else None


def _first_step(similarities: Sequence[Floats], steps: Mapping[int, Sequence[float]]) -> Ranks:
    """The first step that counts each pair; -1 where none does."""
    step = np.full(similarities[0].shape, -1, np.int64)
    for number, least in steps.items():
        step[(step < 0) & _reached(similarities, least)] = number
    return step


def _reached(similarities: Sequence[Floats], least: Sequence[float]) -> Mask:
    reached = np.ones(similarities[0].shape, np.bool_)
    for similarity, above in zip(similarities, least, strict=True):
        reached &= similarity >= above
    return reached


def _pair_numbers(earlier: Ranks, later: Ranks) -> Ranks:
    # Ranks are below 2^31: the plan of a run has fewer rows.
    return earlier << np.int64(32) | later
