"""The tiles of a search: each pair of blocks is one, with the blocks' near pairs and an account of all their pairs.

A tile does some rows again, without any bound, and compares what it found with that: where a product is wrong, as by a
fault of the hardware, or saturates, no bound holds.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from curate import schema
from curate.account import Account
from curate.dedup.dense import DenseRows, choices, limit
from curate.dedup.nodes import Nodes, copied
from curate.duplicates import NearKind, Search
from curate.errors import BrokenResult, counted
from curate.near import DENSE, NEAR, NEAR_GROUP
from curate.store import Outputs

ACCOUNT = "account.json"
"""The file of a tile's account."""

CHECKED = 16
"""Rows of a tile that are done again."""

Pairs = dict[tuple[int, int], float]

_Rows = npt.NDArray[np.int64]
_Found = tuple[_Rows, _Rows, npt.NDArray[np.float64]]


def put_tile(
    kind: NearKind,
    search: Search,
    tile: int,
    blocks: tuple[int, int],
    sides: tuple[Nodes, Nodes],
    out: Outputs,
    scratch: Path,
) -> None:
    """Searches a tile, and writes its near pairs, its account, and the rows of its dense nodes, where it has some.

    Args:
        kind: the kind of duplicate.
        search: its search, opened.
        tile: its number.
        blocks: their numbers; the nodes of the first are before those of the second, or the same.
        sides: their nodes.
        out: the outputs of the tile's unit.
        scratch: an empty local folder.

    Raises:
        BrokenResult: rows that were done again have other near pairs.
    """
    left, right = (side.values for side in sides)
    is_one = blocks[0] == blocks[1]
    rows, path = sample(len(left), tile, "search"), scratch / "near.parquet"
    most = limit(len(left), len(right), is_one=is_one)
    for number, (dense, stop) in enumerate(choices(search, left, right, most, is_one=is_one)):
        attempt = _Attempt(search, (left, right), dense, scratch / f"attempt-{number}", is_one=is_one, rows=rows)
        near = write(path, schema.NEAR, attempt.tables(), stop)
        if near is not None:
            break
    assert near is not None
    again, account = attempt.again, attempt.account
    check(again, compared(kind, search.floor, rows, sides, dense, is_one=is_one), f"tile {blocks[0]} × {blocks[1]}")
    out.put_file(NEAR, path, rows=near)
    if len(dense.left):
        of_blocks = [(blocks[0], dense.left), *([] if is_one else [(blocks[1], dense.right)])]
        out.put_table(DENSE, dense_table(of_blocks))
    checked = {"rows": rows.tolist(), "near": len(again)}
    same = {"blocks": blocks, "floor": search.floor, "pairs": account.pairs, "near": near, "checked": checked}
    same |= {"deferred": account.deferred, "dense": len(dense.left) if is_one else len(dense.left) + len(dense.right)}
    out.put_json(ACCOUNT, {**same, **account.to_json()}, same=same)
    out.counts.update(near=near)


@dataclass
class _Attempt:
    """A search of a tile with some dense nodes; yields tables of `schema.NEAR`.

    Attributes:
        account: of the pairs that it saw.
        again: the near pairs that it found of the rows that are done again.
    """

    search: Search
    values: tuple[npt.NDArray[Any], npt.NDArray[Any]]
    dense: DenseRows
    scratch: Path
    is_one: bool
    rows: _Rows
    account: Account = field(default_factory=Account)
    again: Pairs = field(default_factory=dict)

    def tables(self) -> Iterator[pa.Table]:
        self.account.deferred = self.dense.pairs(is_one=self.is_one)
        for i, j, similarity in self._near():
            self.again.update(of_rows(self.rows, i, j, similarity))
            yield pa.table([i.astype(np.int32), j.astype(np.int32), similarity], schema=schema.NEAR)

    def _near(self) -> Iterator[_Found]:
        left, right = self.values
        self.scratch.mkdir()
        if not len(self.dense.left):
            yield from self.search.near(left, None if self.is_one else right, self.scratch, self.account)
            return
        # All pairs but those of two dense nodes: of the others, and of each of the others with each dense one.
        rows = {"left": _others(left, self.dense.left), "left-dense": self.dense.left}
        if not self.is_one:
            rows |= {"right": _others(right, self.dense.right), "right-dense": self.dense.right}
        of_rows = {
            name: copied(left if name.startswith("left") else right, some, self.scratch / name)
            for name, some in rows.items()
        }
        searches: list[tuple[str, str | None]] = [("left", "right"), ("left", "right-dense"), ("left-dense", "right")]
        if self.is_one:
            searches = [("left", None), ("left", "left-dense")]
        for number, (one, other) in enumerate(searches):
            folder = self.scratch / f"search-{number}"
            folder.mkdir()
            others = None if other is None else of_rows[other]
            for i, j, similarity in self.search.near(of_rows[one], others, folder, self.account):
                i, j = rows[one][i], rows[other or one][j]
                if self.is_one:
                    i, j = np.minimum(i, j), np.maximum(i, j)
                yield i, j, similarity


def sample(count: int, tile: int, why: str) -> _Rows:
    """Returns the rows of a tile that are done again, ascending; for each reason `why` others."""
    seed = int.from_bytes(f"{why} {tile}".encode(), "big")
    return np.sort(np.random.default_rng(seed).choice(count, min(count, CHECKED), replace=False)).astype(np.int64)


def compared(
    kind: NearKind,
    floor: float,
    rows: _Rows,
    sides: tuple[Nodes, Nodes],
    dense: DenseRows | None = None,
    *,
    is_one: bool = False,
) -> Pairs:
    """Returns the near pairs (i, j) of some rows i that a tile stores, found without any bound.

    Args:
        kind: the kind of duplicate.
        floor: of the search.
        rows: of the first block.
        sides: the nodes of both blocks.
        dense: the dense nodes, whose pairs are not stored; None: there are none.
        is_one: whether both are one block, so that i < j.
    """
    left, right = sides
    found: Pairs = {}
    step = 1 << 16
    for start in range(0, len(right.values) if len(rows) else 0, step):
        similarity = kind.similarities(left.values[rows], right.values[start : start + step])
        at, j = np.nonzero(similarity >= floor)
        if dense is not None:
            is_stored = ~dense.hold(rows[at], j + start)
            at, j = at[is_stored], j[is_stored]
        found.update(_pairs(rows[at], j + start, similarity[at, j], is_one=is_one))
    return found


def check(searched: Pairs, again: Pairs, where: str) -> None:
    """Compares near pairs of a search with those found without any bound. Raises BrokenResult where they differ."""
    if searched != again:
        differ = set(searched.items()) ^ set(again.items())
        i, j = min(pair for pair, _ in differ)
        raise BrokenResult(
            f"{where}: {counted(len(differ), 'near pair differs', 'near pairs differ')} from a comparison without "
            f"bounds, first that of nodes {i} and {j} ({searched.get((i, j), 'not near')}, which should be "
            f"{again.get((i, j), 'not near')}): this machine, or a library on it, computes wrong products"
        )


def dense_table(of_blocks: Iterable[tuple[int, _Rows]]) -> pa.Table:
    """Returns dense nodes as a table of `schema.DENSE`; blocks have to ascend."""
    pieces = list(of_blocks)
    block = np.concatenate([np.full(len(rows), block, np.int32) for block, rows in pieces])
    return pa.table([block, np.concatenate([rows for _, rows in pieces]).astype(np.int32)], schema=schema.DENSE)


def dense_rows(table: pa.Table, blocks: tuple[int, int]) -> DenseRows:
    """Returns the dense nodes of a tile from its table."""
    block, row = table["block"].to_numpy(), table["row"].to_numpy().astype(np.int64)
    return DenseRows(row[block == blocks[0]], row[block == blocks[1]])


def _others(values: npt.NDArray[Any], dense: _Rows) -> _Rows:
    is_dense = np.zeros(len(values), np.bool_)
    is_dense[dense] = True
    return np.flatnonzero(~is_dense)


def of_rows(rows: _Rows, i: Any, j: Any, similarity: Any) -> Pairs:
    """Returns those of the pairs (i, j) whose i is one of some rows."""
    among = np.isin(i, rows)
    return _pairs(i[among], j[among], similarity[among], is_one=False)


def _pairs(i: Any, j: Any, similarity: Any, *, is_one: bool) -> Pairs:
    listed = zip(i.tolist(), j.tolist(), similarity.tolist(), strict=True)
    return {(a, b): value for a, b, value in listed if a < b or not is_one}


def write(path: Path, kind: pa.Schema, tables: Iterable[pa.Table], most: int | None = None) -> int | None:
    """Writes the pairs of a tile, and returns their number; None where they are more than `most`: the search ends.

    Args:
        path: the file.
        kind: its schema.
        tables: the pairs; however they are divided, the file is the same.
        most: a number of pairs; None: any number is written.
    """
    rows = 0
    with pq.ParquetWriter(path, kind, compression="zstd", write_page_checksum=True) as writer:
        for group in _groups(kind, tables):
            writer.write_table(group, row_group_size=NEAR_GROUP)
            rows += group.num_rows
            if most is not None and rows > most:
                return None
    return rows


def _groups(kind: pa.Schema, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yields the same rows in tables of `NEAR_GROUP` rows; the last table may be shorter."""
    held = kind.empty_table()
    for table in tables:
        held = pa.concat_tables([held, table])
        while held.num_rows >= NEAR_GROUP:
            yield held.slice(0, NEAR_GROUP)
            held = held.slice(NEAR_GROUP)
    if held.num_rows:
        yield held
