"""Keeps one of each set of duplicates, greedily by rank, so that every dropped pair duplicates a kept one.

A node is a digest (`sha256`); its rank is that of its best pair. In rank order, a pair is dropped when a kept pair has
the same digest or a near one. So a node keeps its best pair unless a kept node near it ranks before it, and all its
other pairs are dropped. Two kept nodes are never near, and every dropped pair has a kept duplicate that ranks before
it. Where it has several, it names the most similar one by the first step that drops it, and among equally similar ones
the best.

Where all captions of an image stay, a pair is dropped when a kept pair has a near digest, or the same digest and the
same caption. So the nodes that keep pairs are the same ones, and each of them keeps the best pair of every caption.

Consecutive steps are decided as one, over the pairs that any of them counts as duplicates; each dropped pair is then
assigned to the first step by which it duplicates a kept pair. Decided one after the other, steps would make chains: a
pair would be dropped as an exact copy of a pair that the next step drops as a near copy.
"""

# ruff: noqa: S608 - statements are put together from our own words

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.select.near_nodes import Crowd, Edges, Floats, Mask, Ranks, Reach, find
from curate.select.survivors import Survivors

_FEW = 10_000
"""Edges that are followed one by one, where rounds over all of them decide few."""

_CHOSEN = 1 << 22
"""Kept nodes near dropped pairs that are held at a time."""

_MASKED = 1 << 26
"""Pairs of dense nodes whose nearness is held at a time."""


def drop(rows: Survivors, reaches: Sequence[Reach], value: str, digest: str, caption: str | None = None) -> None:
    """Adds to `dropped` the rows of `alive` that duplicate another one.

    Args:
        rows: the survivors of the funnel.
        reaches: one for each step that is decided here, in their order.
        value: the column of `alive` whose higher value ranks first; null ranks last, ties by pair_id.
        digest: the column of `alive` that holds sha256.
        caption: the column of `alive` that tells captions apart, where all captions of a kept image stay; None where
            only its best pair stays.
    """
    # Digests are compared once, as text; all that follows is numbers.
    rows.do(
        f"""CREATE OR REPLACE TABLE digests AS SELECT sha256, row_number() OVER () - 1 AS code
        FROM (SELECT DISTINCT {digest} AS sha256 FROM alive WHERE {digest} IS NOT NULL)"""
    )
    of_caption, joined = "", f"alive JOIN digests ON alive.{digest} = digests.sha256"
    if caption is not None:
        rows.do(
            f"""CREATE OR REPLACE TABLE captions AS SELECT digest, caption, row_number() OVER () - 1 AS same
            FROM (SELECT DISTINCT code AS digest, {caption} AS caption FROM {joined})"""
        )
        of_caption = ", same"
        joined += f" JOIN captions ON digest = code AND captions.caption IS NOT DISTINCT FROM alive.{caption}"
    pairs = _Pairs.of(
        rows.con.sql(
            f"""SELECT id, high, low, code{of_caption} FROM {joined} ORDER BY {value} DESC NULLS LAST, high, low"""
        ).to_arrow_table()
    )
    lost = np.zeros(len(pairs.ids) + 1, np.bool_)
    if any(reach.near for reach in reaches):
        rows.con.register("arrived", pa.table({"code": np.arange(len(pairs.first)), "rank": pairs.first}))
        rows.do("CREATE OR REPLACE TABLE nodes AS SELECT sha256, rank FROM digests JOIN arrived USING (code)")
        rows.con.unregister("arrived")
        edges, crowds = find(rows, reaches)
        lost = losers(len(lost), edges, crowds)
        of_lost = np.flatnonzero(lost[pairs.nodes])
        for some, step, other, similarity in nearest(
            pairs.nodes[of_lost], of_lost + 1, kept_around(lost, edges, crowds)
        ):
            pairs.drop(rows, of_lost[some], step, other, similarity)
    # Equal digests are duplicates for every step.
    ranks = np.arange(1, len(pairs.ids) + 1)
    again = np.flatnonzero((ranks > pairs.stays) & ~lost[pairs.nodes])
    step = np.full(len(again), min(reach.step for reach in reaches))
    pairs.drop(rows, again, step, pairs.stays[again], np.ones(len(again)))


@dataclass(frozen=True)
class _Pairs:
    """The pairs that are decided, in the order of their rank, which counts from 1.

    Args:
        ids: their rows in the funnel.
        names: the two numbers of each pair id.
        nodes: the rank of the best pair with the same digest.
        stays: the rank of the pair that stays of those that are the same: with an equal digest, and an equal caption
            where all captions stay.
        first: by the code of a digest, the rank of its best pair.
    """

    ids: Ranks
    names: tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]
    nodes: Ranks
    stays: Ranks
    first: Ranks

    @classmethod
    def of(cls, ranked: pa.Table) -> "_Pairs":
        """Returns the pairs of a table of id, high, low, code and, where captions are told apart, same."""
        ids, high, low, code = (ranked[name].to_numpy() for name in ("id", "high", "low", "code"))
        first = _first(code)
        nodes = first[code]
        if "same" not in ranked.column_names:
            return cls(ids, (high, low), nodes, nodes, first)
        same = ranked["same"].to_numpy()
        return cls(ids, (high, low), nodes, _first(same)[same], first)

    def drop(self, rows: Survivors, places: Ranks, step: Ranks, other: Ranks, similarity: Floats) -> None:
        """Adds pairs to `dropped`, each with the rank of the kept pair that it duplicates."""
        high, low = (number[other - 1] for number in self.names)
        columns = {"id": self.ids[places], "step": step, "high": high, "low": low, "similarity": similarity}
        rows.con.register("arrived", pa.table(columns))
        rows.do("INSERT INTO dropped SELECT id, step, high, low, similarity FROM arrived")
        rows.con.unregister("arrived")


def _first(code: Ranks) -> Ranks:
    """Returns by code the rank of its first pair; codes are those of pairs in the order of their rank."""
    first = np.zeros(int(code.max(initial=-1)) + 1, np.int64)
    first[code[::-1]] = np.arange(len(code), 0, -1)
    return first


def losers(count: int, edges: Edges, crowds: Sequence[Crowd]) -> Mask:
    """Returns which nodes have a kept node near them that ranks before them, bool [count].

    Args:
        count: more than any rank.
        edges: stored near pairs.
        crowds: dense nodes, whose pairs are compared here.
    """
    return _in_rounds(count, edges) if not crowds else _one_by_one(count, edges, crowds)


def _in_rounds(count: int, edges: Edges) -> Mask:
    """Decides, over and over, all nodes without an undecided near node before them."""
    lost = np.zeros(count, np.bool_)
    earlier, later = edges.earlier, edges.later
    while len(earlier) > _FEW:
        waits = np.zeros(count, np.bool_)
        waits[later] = True
        lost[later[~waits[earlier]]] = True
        # What remains are the edges of undecided nodes: an edge from or to a node that lost says nothing more.
        remain = ~(lost[earlier] | lost[later])
        if np.count_nonzero(remain) > 0.9 * len(remain):
            # A long chain would take a round for each of its nodes.
            earlier, later = earlier[remain], later[remain]
            break
        earlier, later = earlier[remain], later[remain]
    order = np.argsort(later, kind="stable")
    # By the later node: whether the earlier one is kept is then known.
    for one, other in zip(earlier[order].tolist(), later[order].tolist(), strict=True):
        if not lost[one]:
            lost[other] = True
    return lost


def _one_by_one(count: int, edges: Edges, crowds: Sequence[Crowd]) -> Mask:
    """Goes through the nodes by rank; a kept one drops its stored neighbours and the dense nodes near it."""
    lost = np.zeros(count, np.bool_)
    order = np.argsort(edges.earlier, kind="stable")
    earlier, later = edges.earlier[order], edges.later[order]
    nodes = np.unique(np.concatenate([earlier, *(crowd.nodes for crowd in crowds)]))
    starts, stops = (np.searchsorted(earlier, nodes, side=side).tolist() for side in ("left", "right"))
    waiting = [_Waiting(crowd, lost) for crowd in crowds]
    for node, start, stop in zip(nodes.tolist(), starts, stops, strict=True):
        if not lost[node]:
            lost[later[start:stop]] = True
            for crowd in waiting:
                crowd.keep(node)
    return lost


class _Waiting:
    """The undecided nodes of a crowd. Rows of nearness are computed for some nodes ahead of time, as one product.

    Args:
        crowd: the nodes.
        lost: those that lost so far, changed here.
    """

    def __init__(self, crowd: Crowd, lost: Mask) -> None:
        self._crowd, self._lost = crowd, lost
        self._rows: dict[int, Mask] = {}
        self._others = np.empty(0, np.int64)
        self._ahead = 1

    def keep(self, node: int) -> None:
        """Drops the undecided nodes that are near a kept one, if it is of the crowd."""
        nodes = self._crowd.nodes
        place = int(np.searchsorted(nodes, node))
        if place == len(nodes) or nodes[place] != node:
            return
        if place not in self._rows:
            self._compare(place)
        self._lost[nodes[self._others[self._rows.pop(place)]]] = True

    def _compare(self, place: int) -> None:
        nodes = self._crowd.nodes
        # Rows that are left were of nodes that lost meanwhile; more are computed at once where few are.
        self._ahead = max(1, self._ahead // 2) if len(self._rows) > self._ahead // 2 else 2 * self._ahead
        undecided = place + np.flatnonzero(~self._lost[nodes[place:]])
        self._ahead = max(1, min(self._ahead, _MASKED // len(undecided)))
        some, self._others = undecided[: self._ahead], undecided
        near = self._crowd.near(some, undecided)
        # A node is near itself, and does not lose to itself, nor a node before it.
        near &= undecided[None, :] > some[:, None]
        self._rows = dict(zip(some.tolist(), near, strict=True))


def kept_around(lost: Mask, edges: Edges, crowds: Sequence[Crowd]) -> Edges:
    """Returns all edges between a node that lost (`later`) and a kept one (`earlier`), whichever ranks first."""
    pieces = []
    for kept, other in ((edges.earlier, edges.later), (edges.later, edges.earlier)):
        wanted = lost[other] & ~lost[kept]
        pieces.append(Edges(kept[wanted], other[wanted], edges.similarity[wanted], edges.step[wanted]))
    for crowd in crowds:
        is_lost = lost[crowd.nodes]
        pieces += crowd.edges(np.flatnonzero(is_lost), np.flatnonzero(~is_lost))
    return Edges.together(pieces)


def nearest(nodes: Ranks, ranks: Ranks, around: Edges) -> Iterator[tuple[Ranks, Ranks, Ranks, Floats]]:
    """Yields (place of the pair, step, kept node, similarity) of pairs with a kept node near theirs that ranks before.

    Args:
        nodes: of each pair.
        ranks: of each pair.
        around: the edges between nodes of pairs (`later`) and kept ones (`earlier`).
    """
    order = np.argsort(around.later, kind="stable")
    of_node = around.later[order]
    values, places = np.unique(around.similarity, return_inverse=True)
    kept = around.earlier[order]
    # The first step, then the most similar, then the best, as one number.
    base = int(kept.max(initial=0)) + 1
    choice = (around.step[order] * len(values) + (len(values) - 1 - places[order])) * base + kept
    starts = np.searchsorted(of_node, nodes, side="left")
    counts = np.searchsorted(of_node, nodes, side="right") - starts
    before = np.concatenate([[0], np.cumsum(counts)])
    top = 0
    while top < len(nodes):
        stop = max(top + 1, int(np.searchsorted(before, before[top] + _CHOSEN, side="right")) - 1)
        some = top + np.flatnonzero(counts[top:stop])
        if len(some):
            each, first = counts[some], before[some] - before[some[0]]
            at = np.arange(each.sum()) + np.repeat(starts[some] - first, each)
            none = np.iinfo(np.int64).max
            allowed = np.where(kept[at] < np.repeat(ranks[some], each), choice[at], none)
            best = np.minimum.reduceat(allowed, first)
            found = best < none
            some, best = some[found], best[found]
            step, place = np.divmod(best // base, len(values))
            yield some, step, best % base, values[len(values) - 1 - place]
        top = stop
