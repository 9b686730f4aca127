"""The certificate of a search: that every pair of its distinct images was compared, or excluded by a bound.

It holds the number of pairs that each bound excluded, with the bound's constants, and the digests of the blocks. All
its numbers can be added up without the search being done again: compared + excluded = n(n - 1)/2 (`faults`). Rows of
some tiles can be compared with a whole block again, without any bound (`redone`).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.dedup.nodes import BlockFacts, Nodes, near_table
from curate.dedup.tiles import ACCOUNT, compared, sample, tiles
from curate.duplicates import KINDS, NearKind
from curate.scratch import scratch
from curate.side_by_side import side_by_side
from curate.store import WHOLE, Folder, Json, Outputs

ROLE = "certificate.json"

REDONE = 8
"""Tiles of which `redone` compares some rows again."""


def put_certificate(kind: str, blocks: Sequence[BlockFacts], accounts: Sequence[Json], out: Outputs) -> None:
    """Writes the certificate of a search as a file of its last unit, and its counts.

    Args:
        kind: the kind of duplicate.
        blocks: every block of nodes.
        accounts: the account of every tile, as `put_tile` stored it.
        out: the unit's outputs.
    """
    nodes = sum(block.nodes for block in blocks)
    excluded: Counter[str] = Counter()
    bounds: dict[str, list[Json]] = {}
    for account in accounts:
        excluded.update(account["excluded"])
        for bound, constants in account["bounds"].items():
            if constants not in bounds.setdefault(bound, []):
                bounds[bound].append(constants)
    same = {
        "kind": kind,
        "floor": accounts[0]["floor"],
        "nodes": nodes,
        "pairs": nodes * (nodes - 1) // 2,
        "near": sum(account["near"] for account in accounts),
        "blocks": [asdict(block) for block in blocks],
    }
    how = {"compared": sum(account["compared"] for account in accounts), "excluded": excluded, "bounds": bounds}
    out.put_json(ROLE, {**same, **how}, same=same)
    out.counts.update(tiles=len(accounts), nodes=nodes, pairs=same["pairs"], near=same["near"])


def faults(nodes: Folder, search: Folder) -> Iterator[tuple[str, int]]:
    """Adds up the certificate of a finished search; yields a line for each fault, and the unit of the search.

    Args:
        nodes: the folder of the blocks.
        search: the folder of the search.

    Raises:
        Damaged: a file that it reads is missing, or its bytes changed.
    """
    said = search.json(ROLE)
    blocks = [BlockFacts(**block) for block in said["blocks"]]
    of_blocks = side_by_side(partial(BlockFacts.of, nodes), range(len(blocks)))
    differ = [number for number, (block, found) in enumerate(zip(blocks, of_blocks, strict=True)) if block != found]
    for number in differ:
        yield f"{ROLE}: block {number} has other nodes than {nodes.path}", WHOLE
    n = sum(block.nodes for block in blocks)
    total = said["compared"] + sum(said["excluded"].values())
    pairs = n * (n - 1) // 2
    if said["nodes"] != n or not said["pairs"] == total == pairs:
        how = f"{said['compared']} pairs compared and {total - said['compared']} excluded"
        yield f"{ROLE}: {how} are not the {pairs} pairs of {n} nodes", WHOLE
    divided = tiles(len(blocks))
    summed: Counter[str] = Counter()

    def read(tile: int) -> tuple[Json, int | None]:
        return search.json(ACCOUNT, tile), search.info("near.parquet", tile).rows

    for tile, (account, near) in enumerate(side_by_side(read, range(len(divided)))):
        a, b = divided[tile]
        of_tile = blocks[a].nodes * (blocks[a].nodes - 1) // 2 if a == b else blocks[a].nodes * blocks[b].nodes
        if not account["pairs"] == account["compared"] + sum(account["excluded"].values()) == of_tile:
            yield f"{ACCOUNT} of tile {tile}: it does not account for the {of_tile} pairs of blocks {a} and {b}", tile
        if account["near"] != near:
            yield f"{ACCOUNT} of tile {tile}: near.parquet has another number of pairs", tile
        summed.update({"compared": account["compared"], "near": account["near"], **account["excluded"]})
    if summed != Counter({"compared": said["compared"], "near": said["near"], **said["excluded"]}):
        yield f"{ROLE}: its sums are not those of the tiles", WHOLE


def redone(nodes: Folder, search: Folder) -> Iterator[tuple[str, int]]:
    """Compares some rows of some tiles with whole blocks again, without any bound; yields as `faults`.

    The rows are others than those which the search itself did again. Memory: a block is mapped from a local file.

    Args:
        nodes: the folder of the blocks.
        search: the folder of the search.

    Raises:
        Damaged: a file that it reads is missing, or its bytes changed.
    """
    said = search.json(ROLE)
    kind, divided = KINDS.find(said["kind"]), tiles(len(said["blocks"]))
    assert isinstance(kind, NearKind)
    for tile in sorted({int(place) for place in np.linspace(0, len(divided) - 1, REDONE)}):
        a, b = divided[tile]
        with scratch("verify") as folder:
            left = Nodes.load(nodes, a, folder)
            right = left if a == b else Nodes.load(nodes, b, folder)
            rows = sample(len(left.values), tile, "verify")
            again = compared(kind, said["floor"], rows, (left, right), is_one=a == b)
            i, j = (np.array([pair[side] for pair in again], np.int64) for side in (0, 1))
            expected = near_table(left, right, i, j, np.array(list(again.values()), np.float64))
            names = near_table(left, left, rows, rows, np.zeros(len(rows)))["sha256_a"]
        found = search.table("near.parquet", tile)
        found = found.filter(pc.is_in(found["sha256_a"], value_set=names))
        differ = _rows(found) ^ _rows(expected)
        if differ:
            one, other, _ = min(differ)
            yield f"near.parquet of tile {tile}: {len(differ)} near pairs differ, as that of {one} and {other}", tile


def _rows(near: pa.Table) -> set[tuple[Any, ...]]:
    return {tuple(row.values()) for row in near.to_pylist()}
