"""Finds the largest groups of duplicates in finished decisions: a kept pair, and the pairs dropped in favour of it.

Every dropped duplicate names the kept pair that it duplicates, so a group is what names one pair. Groups are counted in
a database that spills to the local disk; only those that are shown become objects, with a few members each.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate.duplicates import COMPARED
from curate.errors import BrokenResult
from curate.report.survey import Place
from curate.schema import ID
from curate.scratch import scratch
from curate.side_by_side import side_by_side
from curate.store import Folder

_MEMORY = "1GB"

_COLUMNS = ["pair_id", "kept", "reason", "duplicate_of", "duplicate_similarity"]


@dataclass(frozen=True)
class Size:
    """A group's kept pair, by its id, and the number of its members."""

    kept: bytes
    members: int


@dataclass(frozen=True)
class Ranking:
    """The largest groups of some steps.

    Attributes:
        groups: the number of all groups.
        members: the number of members in all groups.
        largest: the first groups, the largest first; of equal ones the one with the lower id.
    """

    groups: int
    members: int
    largest: Sequence[Size]


@dataclass(frozen=True)
class Member:
    """A pair that was dropped as a duplicate.

    Attributes:
        place: its row.
        pair: its pair_id.
        step: the step that dropped it.
        similarity: to the kept pair; None where its step gives none.
    """

    place: Place
    pair: bytes
    step: str
    similarity: float | None


@dataclass
class Caught:
    """The members of a group that one step dropped: their number, and the least alike ones, least alike first."""

    members: int = 0
    least_alike: list[Member] = field(default_factory=list)


@dataclass
class Group:
    """A kept pair, and by step the pairs that were dropped as its duplicates."""

    kept: bytes
    place: Place
    caught: dict[str, Caught] = field(default_factory=dict)

    @property
    def members(self) -> int:
        """The number of pairs that were dropped in favour of the kept one."""
        return sum(caught.members for caught in self.caught.values())


def naming(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the steps of `funnel.json` whose dropped pairs name a kept pair."""
    return [step["name"] for step in steps if step["names_kept"]]


def farthest(words: str) -> str:
    """Returns words for how alike the kept pair and the member least like it are, from the words for the two alone."""
    equal = {compared.equal for compared in COMPARED}
    return words if not words or equal.issuperset(words.split(", ")) else f"the least similar: {words}"


def largest(select: Folder, parts: Sequence[int], rankings: Sequence[Collection[str]], limit: int) -> list[Ranking]:
    """Returns the largest groups among the pairs that some steps dropped, for each set of steps.

    Memory is bounded by the database's limit and by a few parts at a time; each part is read once.

    Args:
        select: the folder of the decisions.
        parts: the parts that were decided.
        rankings: sets of steps, by name; only pairs that one of them dropped count as members.
        limit: groups in a ranking, at most.
    """
    names = sorted({name for steps in rankings for name in steps})
    with scratch("groups") as folder:
        limits: Mapping[str, Any] = {"memory_limit": _MEMORY, "temp_directory": str(folder)}
        with duckdb.connect(":memory:", config={**limits, "preserve_insertion_order": "false"}) as con:
            con.execute("SET enable_progress_bar = false")
            con.execute("CREATE TABLE dropped (step INTEGER, high UBIGINT, low UBIGINT)")
            for rows in side_by_side(lambda part: _named(select, part, names), parts):
                con.register("arrived", rows)
                con.execute("INSERT INTO dropped SELECT step, high, low FROM arrived")
                con.unregister("arrived")
            return [_ranking(con, [names.index(name) for name in steps], limit) for steps in rankings]


def _ranking(con: duckdb.DuckDBPyConnection, steps: Sequence[int], limit: int) -> Ranking:
    con.execute(
        """CREATE OR REPLACE TEMP TABLE sizes AS
        SELECT high, low, count(*) AS members FROM dropped WHERE list_contains($steps, step) GROUP BY high, low""",
        {"steps": list(steps)},
    )
    ((groups, members),) = con.execute("SELECT count(*), coalesce(sum(members), 0) FROM sizes").fetchall()
    first = con.execute(
        "SELECT high, low, members FROM sizes ORDER BY members DESC, high, low LIMIT $limit", {"limit": limit}
    ).fetchall()
    sizes = [Size(high.to_bytes(8, "big") + low.to_bytes(8, "big"), count) for high, low, count in first]
    return Ranking(groups, int(members), sizes)


def _named(select: Folder, part: int, names: Sequence[str]) -> pa.Table:
    """A part's dropped duplicates: the number of the step in `names`, and the kept pair's id as two numbers."""
    decided = select.table("decisions.parquet", part, ["reason", "duplicate_of"])
    step = pc.index_in(decided["reason"], value_set=pa.array(names, pa.string()))
    dropped = pc.and_(pc.is_valid(step), pc.is_valid(decided["duplicate_of"]))
    ids = _ids(decided["duplicate_of"].filter(dropped))
    return pa.table({"step": step.filter(dropped), "high": ids[:, 0], "low": ids[:, 1]})


def _ids(column: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """Returns ids without nulls as numbers, uint64 [n, 2], which sort as their bytes do."""
    flat = column.combine_chunks()
    data = memoryview(flat.buffers()[1])[flat.offset * 16 : (flat.offset + len(flat)) * 16] if len(flat) else b""
    return np.frombuffer(data, ">u8").reshape(-1, 2).astype(np.uint64)


def gather(select: Folder, parts: Sequence[int], kept: Collection[bytes], few: int) -> dict[bytes, Group]:
    """Returns the groups of these kept pairs, by pair_id, from one pass over the decisions.

    Args:
        select: the folder of the decisions.
        parts: the parts that were decided.
        kept: the ids of the kept pairs.
        few: members that are named for each step, at most.

    Raises:
        BrokenResult: one of the pairs is kept in no part.
    """
    wanted = pa.array(sorted(kept), ID)
    places: dict[int, Place] = {}
    caught: dict[tuple[int, str], Caught] = {}
    for part, decided in side_by_side(lambda part: _of(select, part, wanted), parts if len(wanted) else ()):
        rows, own = decided
        for row, number in own:
            places[number] = Place(part, row)
        for number, step, count, members in _summed(rows, part, few):
            of = caught.setdefault((number, step), Caught())
            of.members += count
            of.least_alike = sorted([*of.least_alike, *members], key=_order)[:few]
    groups = {}
    for number, pair in enumerate(wanted.to_pylist()):
        if number not in places:
            raise BrokenResult(f"{select.path}: pair {pair.hex()}, named as the kept copy, is kept in no part")
        steps = {step: found for (of_number, step), found in sorted(caught.items()) if of_number == number}
        groups[pair] = Group(pair, places[number], steps)
    return groups


def members(select: Folder, parts: Sequence[int], kept: bytes) -> Iterator[list[Member]]:
    """Yields all members of a group, part by part, in the order of their rows."""
    wanted = pa.array([kept], ID)
    for part, (rows, _) in side_by_side(lambda part: _of(select, part, wanted), parts):
        yield [_member(row, part) for row in rows.to_pylist()]


def _of(select: Folder, part: int, wanted: pa.Array) -> tuple[int, tuple[pa.Table, list[tuple[int, int]]]]:
    """Returns a part's rows that name one of the wanted pairs, and (row, number) of the wanted pairs kept in it."""
    decided = select.table("decisions.parquet", part, _COLUMNS)
    numbers = pc.index_in(decided["duplicate_of"], value_set=wanted)
    at = pc.indices_nonzero(pc.is_valid(numbers))
    rows = decided.select(["pair_id", "reason", "duplicate_similarity"]).take(at)
    rows = rows.append_column("row", at).append_column("number", numbers.take(at))
    own = pc.index_in(decided["pair_id"], value_set=wanted)
    found = pc.indices_nonzero(pc.and_(pc.is_valid(own), decided["kept"]))
    return part, (rows, list(zip(found.to_pylist(), own.take(found).to_pylist(), strict=True)))


def _summed(rows: pa.Table, part: int, few: int) -> Iterator[tuple[int, str, int, list[Member]]]:
    """Yields, for each group and step among these rows: number, step, count of members, and the least alike few."""
    if not rows.num_rows:
        return
    similarity = pc.fill_null(rows["duplicate_similarity"], math.inf).to_numpy()
    steps = rows["reason"].combine_chunks().dictionary_encode()
    step = steps.indices.to_numpy().astype(np.int64)
    number = rows["number"].to_numpy().astype(np.int64)
    # By similarity and then by row, so the order is total; no similarity sorts last, as in `_order`.
    order = np.lexsort((rows["row"].to_numpy(), similarity, step, number))
    starts = np.flatnonzero(np.diff(number[order], prepend=-1) | np.diff(step[order], prepend=-1))
    for start, stop in zip(starts, [*starts[1:], len(order)], strict=True):
        shown = rows.take(pa.array(order[start : min(stop, start + few)])).to_pylist()
        first = int(order[start])
        reason = steps.dictionary[int(step[first])].as_py()
        yield int(number[first]), reason, int(stop - start), [_member(row, part) for row in shown]


def _member(row: Mapping[str, Any], part: int) -> Member:
    return Member(Place(part, row["row"]), row["pair_id"], row["reason"], row["duplicate_similarity"])


def _order(member: Member) -> tuple[float, Place]:
    """Sorts the least alike first, and those without a similarity last."""
    return (math.inf if member.similarity is None else member.similarity, member.place)
