"""The certificate of a search: that every pair of its distinct images was compared, or excluded by a bound.

It holds the number of pairs that each bound excluded, with the bound's constants, and the digests of the blocks. All
its numbers can be added up without the search being done again: compared + excluded + deferred = n(n - 1)/2 (`faults`),
where pairs of dense nodes (`curate.dedup.dense`) are deferred: the decision compares them. Rows of some tiles can be
compared with a whole block again, without any bound (`redone`).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from curate.dedup.dense import DenseRows
from curate.dedup.nodes import BlockFacts, Nodes, put_dense
from curate.dedup.tiles import ACCOUNT, Pairs, compared, dense_rows, sample
from curate.duplicates import KINDS, NearKind
from curate.near import CERTIFICATE, DENSE, NEAR, tiles, values_of
from curate.scratch import scratch
from curate.side_by_side import side_by_side
from curate.store import WHOLE, Folder, Json, Outputs

REDONE = 8
"""Tiles of which `redone` compares some rows again."""


def put_certificate(kind: str, nodes: Folder, blocks: int, out: Outputs) -> None:
    """Writes the certificate of a search as a file of its last unit, its counts, and the values of all dense nodes.

    Args:
        kind: the kind of duplicate.
        nodes: the folder of the blocks.
        blocks: their number.
        out: the unit's outputs; the tiles are in its folder.
    """
    divided = tiles(blocks)
    facts = list(side_by_side(partial(BlockFacts.of, nodes), range(blocks)))
    accounts = list(side_by_side(partial(out.folder.json, ACCOUNT), range(len(divided))))
    n = sum(block.nodes for block in facts)
    excluded: Counter[str] = Counter()
    bounds: dict[str, list[Json]] = {}
    for account in accounts:
        excluded.update(account["excluded"])
        for bound, stated in account["bounds"].items():
            known = bounds.setdefault(bound, [])
            known += [constants for constants in stated if constants not in known]
    is_dense = [np.zeros(block.nodes, np.bool_) for block in facts]
    for tile, account in enumerate(accounts):
        if account["dense"]:
            found = dense_rows(out.folder.table(DENSE, tile), divided[tile])
            for block, of_block in zip(divided[tile], (found.left, found.right), strict=True):
                is_dense[block][of_block] = True
    rows = {block: np.flatnonzero(among) for block, among in enumerate(is_dense) if among.any()}
    if rows:
        with scratch("dedup") as folder:
            put_dense(nodes, rows, out, folder)
    same = {
        "kind": kind,
        "floor": accounts[0]["floor"],
        "nodes": n,
        "pairs": n * (n - 1) // 2,
        "near": sum(account["near"] for account in accounts),
        "dense": sum(map(len, rows.values())),
        "deferred": sum(account["deferred"] for account in accounts),
        "blocks": [asdict(block) for block in facts],
    }
    how = {"compared": sum(account["compared"] for account in accounts), "excluded": excluded, "bounds": bounds}
    out.put_json(CERTIFICATE, {**same, **how}, same=same)
    out.counts.update(tiles=len(accounts), nodes=n, pairs=same["pairs"], near=same["near"], dense=same["dense"])


def faults(nodes: Folder, search: Folder) -> Iterator[tuple[str, int]]:
    """Adds up the certificate of a finished search; yields a line for each fault, and the unit of the search.

    Args:
        nodes: the folder of the blocks.
        search: the folder of the search.

    Raises:
        Damaged: a file that it reads is missing, or its bytes changed.
    """
    said = search.json(CERTIFICATE)
    blocks = [BlockFacts(**block) for block in said["blocks"]]
    of_blocks = side_by_side(partial(BlockFacts.of, nodes), range(len(blocks)))
    differ = [number for number, (block, found) in enumerate(zip(blocks, of_blocks, strict=True)) if block != found]
    for number in differ:
        yield f"{CERTIFICATE}: block {number} has other nodes than {nodes.path}", WHOLE
    n = sum(block.nodes for block in blocks)
    total, excluded = _pairs(said), sum(said["excluded"].values())
    pairs = n * (n - 1) // 2
    if said["nodes"] != n or not said["pairs"] == total == pairs:
        how = f"{said['compared']} pairs compared, {excluded} excluded and {said['deferred']} deferred"
        yield f"{CERTIFICATE}: {how} are not the {pairs} pairs of {n} nodes", WHOLE
    divided = tiles(len(blocks))
    summed: Counter[str] = Counter()
    for tile, (account, near, dense) in enumerate(side_by_side(partial(_told, search, divided), range(len(divided)))):
        a, b = divided[tile]
        of_tile = blocks[a].nodes * (blocks[a].nodes - 1) // 2 if a == b else blocks[a].nodes * blocks[b].nodes
        if not account["pairs"] == _pairs(account) == of_tile:
            yield f"{ACCOUNT} of tile {tile}: it does not account for the {of_tile} pairs of blocks {a} and {b}", tile
        if account["near"] != near:
            yield f"{ACCOUNT} of tile {tile}: {NEAR} has another number of pairs", tile
        if account["deferred"] != dense.pairs(is_one=a == b):
            yield f"{ACCOUNT} of tile {tile}: {DENSE} has nodes of another number of pairs", tile
        summed.update(_sums(account))
    if summed != Counter(_sums(said)):
        yield f"{CERTIFICATE}: its sums are not those of the tiles", WHOLE


def redone(nodes: Folder, search: Folder) -> Iterator[tuple[str, int]]:
    """Compares some rows of some tiles with whole blocks again, without any bound; yields as `faults`.

    The rows are others than those which the search itself did again. Memory: a block is mapped from a local file.

    Args:
        nodes: the folder of the blocks.
        search: the folder of the search.

    Raises:
        Damaged: a file that it reads is missing, or its bytes changed.
    """
    said = search.json(CERTIFICATE)
    kind, divided = KINDS.find(said["kind"]), tiles(len(said["blocks"]))
    assert isinstance(kind, NearKind)
    every = search.table(DENSE) if said["dense"] else None
    for tile in sorted({int(place) for place in np.linspace(0, len(divided) - 1, REDONE)}):
        a, b = divided[tile]
        _, _, dense = _told(search, divided, tile)
        with scratch("verify") as folder:
            left = Nodes.load(nodes, a, folder)
            right = left if a == b else Nodes.load(nodes, b, folder)
            rows = sample(len(left.values), tile, "verify")
            again = compared(kind, said["floor"], rows, (left, right), dense, is_one=a == b)
            if every is not None:
                sides = {a: (left, dense.left), b: (right, dense.right)}
                for block, (side, dense_here) in sides.items():
                    if not _are_in(dense_here, side, every.filter(pa.array(every["block"].to_numpy() == block))):
                        yield f"{DENSE}: it lacks nodes of tile {tile}, or has other values", WHOLE
        differ = set(_near_of(search, tile, rows).items()) ^ set(again.items())
        if differ:
            (i, j), _ = min(differ)
            yield f"{NEAR} of tile {tile}: {len(differ)} near pairs differ, as that of nodes {i} and {j}", tile


def _told(search: Folder, divided: Sequence[tuple[int, int]], tile: int) -> tuple[Json, int | None, DenseRows]:
    """Returns the account of a tile, the number of its near pairs, and its dense nodes."""
    account = search.json(ACCOUNT, tile)
    dense = dense_rows(search.table(DENSE, tile), divided[tile]) if account["dense"] else DenseRows()
    return account, search.info(NEAR, tile).rows, dense


def _pairs(said: Json) -> int:
    return int(said["compared"] + sum(said["excluded"].values()) + said["deferred"])


def _sums(said: Json) -> dict[str, int]:
    return {**{name: said[name] for name in ("compared", "near", "deferred")}, **said["excluded"]}


def _are_in(rows: Any, side: Nodes, dense: pa.Table) -> bool:
    """Whether rows of a block are dense nodes of the whole search, with the same values."""
    at = np.searchsorted(listed := dense["row"].to_numpy(), rows)
    if not np.isin(rows, listed).all():
        return False
    return bool(np.array_equal(values_of(dense)[at], side.values[rows]))


def _near_of(search: Folder, tile: int, rows: Any) -> Pairs:
    """The stored near pairs of some rows of a tile."""
    table = search.table(NEAR, tile)
    a, b, similarity = (table[name].to_numpy() for name in ("a", "b", "similarity"))
    among = np.isin(a, rows)
    listed = zip(a[among].tolist(), b[among].tolist(), similarity[among].tolist(), strict=True)
    return {(i, j): value for i, j, value in listed}
