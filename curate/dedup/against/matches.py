"""The tiles of a search against a set: a block of the run's images and one of the set's items, with their matches."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.account import Account
from curate.against import FOUND, MATCHES
from curate.dedup.nodes import Nodes
from curate.dedup.tiles import ACCOUNT, Pairs, check, compared, of_rows, sample, write
from curate.duplicates import NearKind, Search
from curate.store import Outputs

Rows = npt.NDArray[np.int64]


def put_matches(
    kind: NearKind,
    search: Search,
    tile: int,
    blocks: tuple[int, int],
    sides: tuple[Nodes, Nodes],
    out: Outputs,
    scratch: Path,
    *,
    every: bool,
) -> None:
    """Searches a tile, and writes its matches and its account.

    As in a search among the run's images, some rows are compared with all items again, without any bound.

    Args:
        kind: the kind of duplicate.
        search: its search, opened.
        tile: its number.
        blocks: the numbers of the run's block and of the set's.
        sides: their nodes.
        out: the outputs of the tile's unit.
        scratch: an empty local folder.
        every: store every match of an image; else its best one, so that the file has a row for each image at most.

    Raises:
        BrokenResult: rows that were done again have other matches.
    """
    images, items = sides
    account, rows = Account(), sample(len(images.values), tile, "search")
    again: Pairs = {}
    best = _Best(len(images.values))

    def found() -> Iterator[pa.Table]:
        for i, j, similarity in search.near(images.values, items.values, scratch, account):
            near.append(len(i))
            again.update(of_rows(rows, i, j, similarity))
            if every:
                yield found_table(sides, i, j, similarity)
            else:
                best.add(i, j, similarity)
        if not every:
            yield found_table(sides, *best.found())

    near: list[int] = []
    path = scratch / MATCHES
    stored = write(path, FOUND, found())
    assert stored is not None
    where = f"tile {blocks[0]} × {blocks[1]}"
    check(again, compared(kind, search.floor, rows, sides), where)
    out.put_file(MATCHES, path, rows=stored)
    same = {
        "blocks": blocks,
        "floor": search.floor,
        "every": every,
        "pairs": account.pairs,
        "near": sum(near),
        "stored": stored,
        "checked": {"rows": rows.tolist(), "near": len(again)},
    }
    out.put_json(ACCOUNT, {**same, **account.to_json()}, same=same)
    out.counts.update(near=sum(near), stored=stored)


def best_of(pairs: Pairs) -> Pairs:
    """Returns the best match of each image; of equal ones the item whose digest is lowest."""
    best: dict[int, tuple[int, float]] = {}
    for (i, j), similarity in sorted(pairs.items()):
        if i not in best or similarity > best[i][1]:
            best[i] = (j, similarity)
    return {(i, j): similarity for i, (j, similarity) in best.items()}


def found_table(sides: tuple[Nodes, Nodes], i: Rows, j: Rows, similarity: npt.NDArray[np.float64]) -> pa.Table:
    """Returns matches as rows of `FOUND`."""
    digests = [_binary(side.digests[at]) for side, at in zip(sides, (i, j), strict=True)]
    return pa.table([*digests, pa.array(similarity, pa.float64())], schema=FOUND)


class _Best:
    """The best match of each image of a block."""

    def __init__(self, images: int) -> None:
        self._similarity = np.full(images, -np.inf)
        self._item = np.zeros(images, np.int64)

    def add(self, i: Rows, j: Rows, similarity: npt.NDArray[np.float64]) -> None:
        """Takes matches; of equally good ones of an image, the one with the lowest item stays."""
        order = np.lexsort((j, -similarity, i))
        i, j, similarity = i[order], j[order], similarity[order]
        is_first = np.ones(len(i), np.bool_)
        is_first[1:] = i[1:] != i[:-1]
        i, j, similarity = i[is_first], j[is_first], similarity[is_first]
        known = self._similarity[i]
        better = (similarity > known) | ((similarity == known) & (j < self._item[i]))
        self._similarity[i[better]], self._item[i[better]] = similarity[better], j[better]

    def found(self) -> tuple[Rows, Rows, npt.NDArray[np.float64]]:
        """Returns the images that have a match, their best items, and how alike they are."""
        i = np.flatnonzero(np.isfinite(self._similarity))
        return i, self._item[i], self._similarity[i]


def _binary(digests: npt.NDArray[np.uint8]) -> pa.Array:
    flat = np.ascontiguousarray(digests)
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(flat.shape[1]), len(flat), [None, pa.py_buffer(flat)])
