"""The relations by which rows are duplicates: equal or near images, equal or near captions, or both at once.

A row has a code for each thing that is compared, such as its image and its caption: equal things have equal codes. A
*side* of a rule relates codes: equal ones, and those that are near by all of its searches. A rule relates two rows
where each of its sides relates their codes. Rows are numbered by rank.

Rows that a rule relates to a row are listed by way of the side that reaches fewest rows, and the other sides are looked
up: so neither 100,000 rows with one caption nor 100,000 rows with one image are compared with each other for a rule
that needs both to be duplicates.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from curate.near import Dense

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

Related = tuple[Ints, Ints, Floats]
"""Two related codes, or rows, each with the similarity of the two."""

CHUNK = 1 << 21
"""Pairs that are listed or compared at a time."""


@dataclass(frozen=True)
class Found:
    """The near pairs that a search has found, by code.

    Attributes:
        codes: the number of codes.
        keys: int64, ascending: `codes` × one code + the other, in both orders.
        similarities: of each of `keys`.
        dense: values whose pairs are not stored; None where there are none.
        dense_at: int64 [codes], the place of a code's value in `dense`, or -1.
    """

    codes: int
    keys: Ints
    similarities: Floats
    dense: Dense | None
    dense_at: Ints

    @classmethod
    def of(cls, codes: int, pairs: Related, dense: Dense | None = None, dense_at: Ints | None = None) -> "Found":
        """Returns the near pairs of these codes; each pair is listed once."""
        one, other, similarity = pairs
        keys = np.concatenate([one * codes + other, other * codes + one])
        order = np.argsort(keys)
        at = np.full(codes, -1, np.int64) if dense_at is None else dense_at
        return cls(codes, keys[order], np.concatenate([similarity, similarity])[order], dense, at)

    def stored(self, codes: Ints, above: float) -> Related:
        """Returns the stored near pairs of some codes: the place in `codes`, the other code, the similarity."""
        first = np.searchsorted(self.keys, codes * self.codes)
        last = np.searchsorted(self.keys, (codes + 1) * self.codes)
        at, place = expanded(first, last)
        similarity = self.similarities[place]
        near = similarity >= above
        return at[near], self.keys[place[near]] % self.codes, similarity[near]

    def among_dense(self, codes: Ints, others: Ints, above: float) -> Iterator[Related]:
        """Yields near pairs of dense codes with other dense codes, whether they are stored or not; as `stored`."""
        if self.dense is None:
            return
        at = np.flatnonzero(self.dense_at[codes] >= 0)
        others = others[self.dense_at[others] >= 0]
        each = max(1, CHUNK // max(1, len(others)))
        for start in range(0, len(at) if len(others) else 0, each):
            some = at[start : start + each]
            values = self.dense.values[self.dense_at[codes[some]]]
            of_others = self.dense.values[self.dense_at[others]]
            i, j = np.nonzero(self.dense.kind.reach(values, of_others, above))
            unlike = codes[some[i]] != others[j]
            i, j = i[unlike], j[unlike]
            yield some[i], others[j], self.dense.kind.each_similarity(values[i], of_others[j])

    def similarity(self, one: Ints, other: Ints) -> Floats:
        """Returns the similarity of pairs of different codes; NaN where they are not near."""
        keys = one * self.codes + other
        place = np.minimum(np.searchsorted(self.keys, keys), max(0, len(self.keys) - 1))
        is_stored = self.keys[place] == keys if len(self.keys) else np.zeros(len(keys), bool)
        found = np.full(len(keys), np.nan)
        found[is_stored] = self.similarities[place[is_stored]]
        if self.dense is not None:
            both = np.flatnonzero(~is_stored & (self.dense_at[one] >= 0) & (self.dense_at[other] >= 0))
            for start in range(0, len(both), CHUNK >> 6):
                some = both[start : start + (CHUNK >> 6)]
                left, right = (self.dense.values[self.dense_at[codes[some]]] for codes in (one, other))
                found[some] = self.dense.kind.each_similarity(left, right)
        return found


@dataclass(frozen=True)
class Side:
    """A relation of codes: equal ones, and those that are near by each of some searches.

    Attributes:
        compared: the name of the codes.
        searches: each with the similarity at or above which two are near; none: only equal ones are related.
    """

    compared: str
    searches: Sequence[tuple[Found, float]] = ()

    def near(self, codes: Ints, others: Ints) -> Related:
        """Returns pairs of related codes: the place in `codes`, the other code, the similarity by the first search.

        Args:
            codes: distinct.
            others: distinct codes; of the stored pairs, the other code may also be one that is not among them.
        """
        itself = np.arange(len(codes)), codes, np.ones(len(codes))
        if not self.searches:
            return itself
        (first, above), *further = self.searches
        dense = list(first.among_dense(codes, others, above))
        stored = first.stored(codes, above)
        if dense:  # a pair may be stored as well
            at, other, _ = stored
            hidden = (first.dense_at[codes[at]] >= 0) & (first.dense_at[other] >= 0)
            stored = _chosen(stored, ~hidden)
        at, other, similarity = _together([stored, *dense])
        near = np.ones(len(at), bool)
        for found, least in further:
            near &= found.similarity(codes[at], other) >= least
        return _together([itself, _chosen((at, other, similarity), near)])

    def relates(self, one: Ints, other: Ints) -> tuple[Mask, Floats]:
        """Returns which pairs of codes it relates, and their similarity by the first search."""
        related, similarity = one == other, np.ones(len(one))
        if not self.searches:
            return related, similarity
        unlike = np.flatnonzero(~related)
        near = np.ones(len(unlike), bool)
        for number, (found, above) in enumerate(self.searches):
            value = found.similarity(one[unlike], other[unlike])
            near &= value >= above
            if not number:
                similarity[unlike] = value
        related[unlike] = near
        return related, similarity


@dataclass(frozen=True)
class Rule:
    """A relation of rows.

    Attributes:
        step: the number of the step.
        sides: one at least; each is about another thing.
        similarity: the side whose similarity is that of two rows; None: it is 1.
    """

    step: int
    sides: Sequence[Side]
    similarity: int | None = None


class Rows:
    """Rows that can be found by code.

    Args:
        codes: by name, int64 [all rows].
        chosen: the rows that it holds, ascending.
    """

    def __init__(self, codes: Mapping[str, Ints], chosen: Ints) -> None:
        self.codes = codes
        self.chosen = chosen
        self._sorted: dict[str, tuple[Ints, Ints]] = {}

    def by_code(self, compared: str) -> tuple[Ints, Ints]:
        """Returns the codes of the rows in ascending order, and the rows in that order."""
        if compared not in self._sorted:
            codes = self.codes[compared][self.chosen]
            order = np.argsort(codes, kind="stable")
            self._sorted[compared] = codes[order], self.chosen[order]
        return self._sorted[compared]

    def distinct(self, compared: str) -> Ints:
        """Returns the distinct codes of the rows, ascending."""
        ordered, _ = self.by_code(compared)
        return ordered[np.diff(ordered, prepend=-1) > 0]

    def counts(self, compared: str, codes: Ints) -> Ints:
        """Returns how many rows have each of some codes."""
        ordered, _ = self.by_code(compared)
        return np.searchsorted(ordered, codes, "right") - np.searchsorted(ordered, codes, "left")

    def with_codes(self, compared: str, codes: Ints) -> tuple[Ints, Ints]:
        """Returns (place in `codes`, row) of all rows with one of some codes."""
        ordered, rows = self.by_code(compared)
        at, place = expanded(np.searchsorted(ordered, codes, "left"), np.searchsorted(ordered, codes, "right"))
        return at, rows[place]


@dataclass(frozen=True)
class Listing:
    """Lists the rows among some that a rule relates to other rows, by the side that reaches fewest.

    Args:
        rule: the rule.
        rows: the rows whose related rows are listed.
        among: those that are listed.
    """

    rule: Rule
    rows: Ints
    among: Rows

    @cached_property
    def _reached(self) -> tuple[Ints, Ints]:
        """Returns by row the side that reaches fewest rows, and their number, at most."""
        reached = np.stack([self._reach(side) for side in self.rule.sides])
        side = reached.argmin(axis=0)
        return side, np.take_along_axis(reached, side[None], 0)[0]

    @property
    def cost(self) -> int:
        """The number of pairs of rows that are looked at, at most."""
        return int(self._reached[1].sum())

    @property
    def is_alone(self) -> Mask:
        """Whether a row, which has to be among those that are listed, can be related to no other one."""
        return self._reached[1] <= 1

    def pairs(self) -> Iterator[Related]:
        """Yields (row, listed row, similarity); all pairs of a row at once. A row may be listed with itself."""
        by_side, reached = self._reached
        for number, side in enumerate(self.rule.sides):
            rows = self.rows[by_side == number]
            bounds = np.cumsum(reached[by_side == number])
            start = 0
            while start < len(rows):
                before = bounds[start - 1] if start else 0
                stop = max(start + 1, int(np.searchsorted(bounds, before + CHUNK, "right")))
                yield self._pairs(rows[start:stop], number, side)
                start = stop

    def _reach(self, side: Side) -> Ints:
        """The number of rows whose codes a side relates to those of each row, or a little more."""
        codes, of_row = np.unique(self.among.codes[side.compared][self.rows], return_inverse=True)
        reach = self.among.counts(side.compared, codes)
        if side.searches:
            found, above = side.searches[0]
            at, other, _ = found.stored(codes, above)
            counts = self.among.counts(side.compared, other)
            reach = reach + np.bincount(at, counts, len(codes)).astype(np.int64)
            if found.dense is not None:
                ordered, _ = self.among.by_code(side.compared)
                reach[found.dense_at[codes] >= 0] += np.count_nonzero(found.dense_at[ordered] >= 0)
        return reach[of_row]

    def _pairs(self, rows: Ints, number: int, side: Side) -> Related:
        codes, of_row = np.unique(self.among.codes[side.compared][rows], return_inverse=True)
        at, other, similarity = side.near(codes, self.among.distinct(side.compared))
        # By code: the listed rows; then, by row, those of its code.
        near, listed = self.among.with_codes(side.compared, other)
        order = np.argsort(at[near], kind="stable")
        ends = np.cumsum(np.bincount(at[near], minlength=len(codes)))
        row, place = expanded((ends - np.bincount(at[near], minlength=len(codes)))[of_row], ends[of_row])
        found, own = listed[order][place], similarity[near][order][place]
        of_pair = own if number == self.rule.similarity else np.ones(len(found))
        related = np.ones(len(found), bool)
        for another, further in enumerate(self.rule.sides):
            if another != number:
                of_side = self.among.codes[further.compared]
                both = np.flatnonzero(related)
                fits, value = further.relates(of_side[rows[row[both]]], of_side[found[both]])
                related[both] = fits
                if another == self.rule.similarity:
                    of_pair[both] = value
        return rows[row[related]], found[related], of_pair[related]


def expanded(first: Ints, last: Ints) -> tuple[Ints, Ints]:
    """Returns (number of the range, place) of every place in ranges [first, last)."""
    lengths = last - first
    at = np.repeat(np.arange(len(lengths)), lengths)
    return at, np.arange(len(at)) - np.repeat(np.cumsum(lengths) - lengths - first, lengths)


def _chosen(pairs: Related, chosen: Mask) -> Related:
    one, other, similarity = pairs
    return one[chosen], other[chosen], similarity[chosen]


def _together(pieces: Sequence[Related]) -> Related:
    one, other, similarity = (np.concatenate(columns) for columns in zip(*pieces, strict=True))
    return one, other, similarity
