"""The tiles of a search: each pair of blocks is one, with the blocks' near pairs and an account of all their pairs.

A tile does some rows again, without any bound, and compares what it found with that: where a product is wrong, as by a
fault of the hardware, or saturates, no bound holds.
"""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from curate.account import Account
from curate.dedup.nodes import Nodes, near_table
from curate.duplicates import NearKind, Search
from curate.errors import BrokenResult, counted
from curate.schema import NEAR
from curate.store import Outputs

ACCOUNT = "account.json"
"""The file of a tile's account."""

CHECKED = 16
"""Rows of a tile that are done again."""

_ROW_GROUP = 1 << 17
"""Near pairs in one row group, a fixed number, so that the file does not depend on how the search divides a tile."""

Pairs = dict[tuple[int, int], float]


def tiles(blocks: int) -> list[tuple[int, int]]:
    """Returns the two blocks of each tile, by the number of its unit: (0, 0), (0, 1), …, (1, 1), … in this order."""
    return list(itertools.combinations_with_replacement(range(blocks), 2))


def put_tile(
    kind: NearKind,
    search: Search,
    tile: int,
    blocks: tuple[int, int],
    sides: tuple[Nodes, Nodes],
    out: Outputs,
    scratch: Path,
) -> None:
    """Searches a tile, and writes its near pairs and its account.

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
    left, right = sides
    is_one = blocks[0] == blocks[1]
    account, rows = Account(), sample(len(left.values), tile, "search")
    again: Pairs = {}

    def found() -> Iterator[pa.Table]:
        others = None if is_one else right.values
        for i, j, similarity in search.near(left.values, others, scratch, account):
            again.update(_of_rows(rows, i, j, similarity))
            yield near_table(left, right, i, j, similarity)

    path = scratch / "near.parquet"
    near = _write(path, found())
    check(again, compared(kind, search.floor, rows, sides, is_one=is_one), f"tile {blocks[0]} × {blocks[1]}")
    out.put_file("near.parquet", path, rows=near)
    checked = {"rows": rows.tolist(), "near": len(again)}
    same = {"blocks": blocks, "floor": search.floor, "pairs": account.pairs, "near": near, "checked": checked}
    out.put_json(ACCOUNT, {**same, **account.to_json()}, same=same)
    out.counts.update(near=near)


def sample(count: int, tile: int, why: str) -> npt.NDArray[np.int64]:
    """Returns the rows of a tile that are done again, ascending; for each reason `why` others."""
    seed = int.from_bytes(f"{why} {tile}".encode(), "big")
    return np.sort(np.random.default_rng(seed).choice(count, min(count, CHECKED), replace=False)).astype(np.int64)


def compared(
    kind: NearKind, floor: float, rows: npt.NDArray[np.int64], sides: tuple[Nodes, Nodes], *, is_one: bool
) -> Pairs:
    """Returns the near pairs (i, j) of some rows i, found without any bound; i < j where both sides are one block."""
    left, right = sides
    found: Pairs = {}
    step = 1 << 16
    for start in range(0, len(right.values) if len(rows) else 0, step):
        similarity = kind.similarities(left.values[rows], right.values[start : start + step])
        at, j = np.nonzero(similarity >= floor)
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


def _of_rows(rows: npt.NDArray[np.int64], i: Any, j: Any, similarity: Any) -> Pairs:
    among = np.isin(i, rows)
    return _pairs(i[among], j[among], similarity[among], is_one=False)


def _pairs(i: Any, j: Any, similarity: Any, *, is_one: bool) -> Pairs:
    listed = zip(i.tolist(), j.tolist(), similarity.tolist(), strict=True)
    return {(a, b): value for a, b, value in listed if a < b or not is_one}


def _write(path: Path, tables: Iterable[pa.Table]) -> int:
    rows = 0
    with pq.ParquetWriter(path, NEAR, compression="zstd", write_page_checksum=True) as writer:
        for group in _groups(tables):
            writer.write_table(group, row_group_size=_ROW_GROUP)
            rows += group.num_rows
    return rows


def _groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yields the same rows in tables of `_ROW_GROUP` rows; the last table may be shorter."""
    held = NEAR.empty_table()
    for table in tables:
        held = pa.concat_tables([held, table])
        while held.num_rows >= _ROW_GROUP:
            yield held.slice(0, _ROW_GROUP)
            held = held.slice(_ROW_GROUP)
    if held.num_rows:
        yield held
