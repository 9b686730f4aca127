"""Keeps one of each set of duplicates, greedily by rank, where a step compares captions: pairs are what is decided on.

The decision is that of `curate.select.greedy`, whose nodes are images. Here a pair is dropped when a kept pair that
ranks before it is its duplicate by any of the steps (`curate.select.relations`). So two kept pairs are never duplicates
by any step, and every dropped pair duplicates a kept pair that ranks before it. Where there are several, it names the
most similar one by the first step that drops it, and among equally similar ones the best.

Pairs are decided in the order of their rank, some at a time. Those among them that are duplicates of each other are
listed, and decided one after the other; then all later duplicates of those that are kept are marked. A step of one side
marks codes, such as the images near that of a kept pair, as everything with such a code is dropped by it. How many are
decided at a time follows from how many duplicates are among them, so of a set of 100,000 duplicates only the first few
are compared with each other. Memory: some numbers for each pair, and the near pairs.
"""

# ruff: noqa: S608 - statements are put together from our own words

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from curate.near import NearPairs
from curate.select.near_nodes import numbers_of
from curate.select.relations import Found, Ints, Listing, Mask, Related, Rows, Rule, Side
from curate.select.survivors import Survivors

_LISTED = 1 << 22
"""Pairs of rows that are looked at, at most, among those that are decided at a time."""

_FEWEST, _MOST = 1 << 10, 1 << 18
"""Rows that are decided at a time, at first and at most."""


@dataclass(frozen=True)
class Condition:
    """One kind of duplicate that a step needs.

    Attributes:
        compared: the column of `alive` that holds the digest of what is compared; null where there is nothing.
        search: the short name of the pass that has found near pairs; None: only equal digests are duplicates.
        above: the similarity at or above which near pairs are duplicates.
    """

    compared: str
    search: str | None = None
    above: float = 1.0


@dataclass(frozen=True)
class Duplicates:
    """A step: two pairs are duplicates where they are by each of its conditions."""

    step: int
    conditions: Sequence[Condition]


def drop(rows: Survivors, steps: Sequence[Duplicates], value: str) -> None:
    """Adds to `dropped` the rows of `alive` that duplicate another one.

    Args:
        rows: the survivors of the funnel.
        steps: those that are decided here, in their order.
        value: the column of `alive` whose higher value ranks first; null ranks last, ties by pair_id.
    """
    conditions = [condition for step in steps for condition in step.conditions]
    columns = list(dict.fromkeys(condition.compared for condition in conditions))
    rows.do(
        f"""CREATE OR REPLACE TABLE ranked AS SELECT id, high, low, {", ".join(columns)},
        row_number() OVER (ORDER BY {value} DESC NULLS LAST, high, low) - 1 AS rank FROM alive"""
    )
    codes = {column: _codes(rows, column) for column in columns}
    searches: dict[str, Found] = {}
    for condition in conditions:
        if condition.search is not None and condition.search not in searches:
            least = min(one.above for one in conditions if one.search == condition.search)
            name, compared = condition.search, condition.compared
            searches[name] = _found(rows, rows.near(name), compared, codes[compared].count, least)
    rules = [_rule(step, searches) for step in steps]
    of_row = {column: one.of_row for column, one in codes.items()}
    for names in _named(rules, of_row, decided(rules, of_row)):
        rows.con.register("arrived", names)
        rows.do(
            """INSERT INTO dropped SELECT pair.id, step, best.high, best.low, similarity
            FROM arrived JOIN ranked pair USING (rank) JOIN ranked best ON best.rank = kept"""
        )
        rows.con.unregister("arrived")


def decided(rules: Sequence[Rule], codes: Mapping[str, Ints]) -> Mask:
    """Returns which rows are kept.

    Args:
        rules: the relations by which rows are duplicates.
        codes: by name, int64 [n]: the codes of the rows, in the order of their rank.
    """
    every = np.arange(len(next(iter(codes.values()))))
    whole = Rows(codes, every)
    may_have_duplicates = np.zeros(len(every), bool)
    for rule in rules:
        may_have_duplicates |= ~Listing(rule, every, whole).is_alone
    kept = ~may_have_duplicates
    contested = np.flatnonzero(may_have_duplicates)
    marks = _Marks(rules, codes, Rows(codes, contested))
    start, size = 0, _FEWEST
    while start < len(contested):
        open_rows = contested[start : start + size]
        open_rows = open_rows[~marks.of(open_rows)]
        among = Rows(codes, open_rows)
        listings = [Listing(rule, open_rows, among) for rule in rules]
        cost = sum(listing.cost for listing in listings) - len(rules) * len(open_rows)
        if cost > _LISTED and len(open_rows) > 1:
            size = max(1, size // 2)
            continue
        stay = _one_by_one(open_rows, listings)
        kept[stay] = True
        marks.add(stay)
        start += size
        if cost < _LISTED // 8:
            size = min(_MOST, 2 * size)
    return kept


def _one_by_one(rows: Ints, listings: Sequence[Listing]) -> Ints:
    """Returns which of some rows, none of which duplicates a row that is kept already, are kept."""
    edges = [np.empty((2, 0), np.int64)]
    for listing in listings:
        for row, other, _ in listing.pairs():
            before = other < row
            edges.append(np.stack([row[before], other[before]]))
    later, earlier = np.concatenate(edges, axis=1)
    order = np.argsort(later, kind="stable")
    lost: set[int] = set()
    for row, other in zip(later[order].tolist(), earlier[order].tolist(), strict=True):
        if other not in lost:
            lost.add(row)
    return rows[~np.isin(rows, np.fromiter(lost, np.int64, len(lost)))]


@dataclass
class _Marks:
    """The rows that duplicate a kept one, as codes where a rule has one side, else as rows.

    Args:
        rules: the relations by which rows are duplicates.
        codes: of all rows, by name.
        later: the rows that are marked.
    """

    rules: Sequence[Rule]
    codes: Mapping[str, Ints]
    later: Rows
    _of_codes: dict[str, Mask] = field(init=False)
    _of_rows: Mask = field(init=False)

    def __post_init__(self) -> None:
        alone = {rule.sides[0].compared for rule in self.rules if len(rule.sides) == 1}
        self._of_codes = {name: np.zeros(int(self.codes[name].max(initial=-1)) + 1, bool) for name in alone}
        self._of_rows = np.zeros(len(next(iter(self.codes.values()))), bool)

    def of(self, rows: Ints) -> Mask:
        """Returns which rows are marked."""
        marked = self._of_rows[rows]
        for name, of_codes in self._of_codes.items():
            marked |= of_codes[self.codes[name][rows]]
        return marked

    def add(self, kept: Ints) -> None:
        """Marks the duplicates of these rows."""
        for rule in self.rules:
            if len(rule.sides) == 1:
                (side,) = rule.sides
                own = np.unique(self.codes[side.compared][kept])
                unmarked = np.flatnonzero(~self._of_codes[side.compared])
                _, other, _ = side.near(own, unmarked)
                self._of_codes[side.compared][other] = True
            else:
                for _, other, _ in Listing(rule, kept, self.later).pairs():
                    self._of_rows[other] = True


def _named(rules: Sequence[Rule], codes: Mapping[str, Ints], kept: Mask) -> Iterator[pa.Table]:
    """Yields for each dropped row: rank, step, the rank of the kept row that it duplicates, and their similarity."""
    dropped, stay = np.flatnonzero(~kept), Rows(codes, np.flatnonzero(kept))
    for rule in rules:
        has_name = np.zeros(len(kept), bool)
        for pairs in Listing(rule, dropped, stay).pairs():
            row, best, similarity = _best(pairs)
            has_name[row] = True
            steps = np.full(len(row), rule.step, np.int32)
            yield pa.table({"rank": row, "step": steps, "kept": best, "similarity": similarity})
        dropped = dropped[~has_name[dropped]]
    assert not len(dropped), "a row is dropped as a duplicate of none"


def _best(pairs: Related) -> Related:
    """Returns for each row the most similar of those that rank before it, of equally similar ones the best."""
    row, other, similarity = pairs
    before = other < row
    row, other, similarity = row[before], other[before], similarity[before]
    order = np.lexsort((other, -similarity, row))
    row = row[order]
    first = np.diff(row, prepend=-1) > 0
    return row[first], other[order][first], similarity[order][first]


def _rule(step: Duplicates, searches: Mapping[str, Found]) -> Rule:
    by_side: dict[str, list[tuple[Found, float]]] = {}
    first = None
    for condition in step.conditions:
        side = by_side.setdefault(condition.compared, [])
        if condition.search is not None:
            side.append((searches[condition.search], condition.above))
            first = first or condition.compared
    sides = [Side(compared, near) for compared, near in by_side.items()]
    return Rule(step.step, sides, None if first is None else list(by_side).index(first))


@dataclass(frozen=True)
class _Codes:
    """The codes of a column of digests: int64 by rank, and the number of all codes; a null has one of its own."""

    of_row: Ints
    count: int


def _codes(rows: Survivors, column: str) -> _Codes:
    """Gives each distinct digest of a column of `ranked` a code, and leaves them in the table `codes_<column>`."""
    rows.do(
        f"""CREATE OR REPLACE TABLE codes_{column} AS SELECT digest, row_number() OVER () - 1 AS code
        FROM (SELECT DISTINCT {column} AS digest FROM ranked WHERE {column} IS NOT NULL)"""
    )
    count = rows.number(f"SELECT count(*) FROM codes_{column}")
    found = rows.con.execute(
        f"SELECT coalesce(code, -1) AS code FROM ranked LEFT JOIN codes_{column} ON digest = {column} ORDER BY rank"
    ).fetchnumpy()
    of_row: Ints = np.asarray(found["code"], np.int64)
    nulls = np.flatnonzero(of_row < 0)
    of_row[nulls] = count + np.arange(len(nulls))
    return _Codes(of_row, count + len(nulls))


def _found(rows: Survivors, near: NearPairs, column: str, codes: int, least: float) -> Found:
    """Returns what a search has found among the rows' codes, at or above a similarity."""
    code_of = numbers_of(rows, near, np.ones(near.count, bool), f"codes_{column}", "digest", "code")
    pieces = []
    for one, other, similarity in near.pairs():
        first, second = code_of[one], code_of[other]
        counts = (similarity >= least) & (first >= 0) & (second >= 0)
        pieces.append((first[counts], second[counts], similarity[counts]))
    empty = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    pairs = tuple(np.concatenate(column) for column in zip(empty, *pieces, strict=True))
    dense = near.dense()
    dense_at = None
    if dense is not None:
        dense_at = np.full(codes, -1, np.int64)
        present = np.flatnonzero(code_of[dense.nodes] >= 0)
        dense_at[code_of[dense.nodes[present]]] = present
    return Found.of(codes, pairs, dense, dense_at)  # type: ignore[arg-type]
