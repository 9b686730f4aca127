"""The certificate of a search against a set: every pair of an image and an item was compared, or excluded by a bound.

As `curate.dedup.certificate` for the pairs of the run's images among themselves; here compared + excluded is the number
of images × the number of items.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.against import MATCHES
from curate.dedup.against.matches import best_of, found_table
from curate.dedup.nodes import BlockFacts, Nodes
from curate.dedup.tiles import ACCOUNT, compared, sample
from curate.duplicates import NearKind, kind_named
from curate.scratch import scratch
from curate.side_by_side import side_by_side
from curate.store import WHOLE, Folder, Json, Outputs

ROLE = "certificate.json"

REDONE = 8
"""Tiles of which `redone` compares some rows again."""


def tiles(images: int, items: int) -> list[tuple[int, int]]:
    """Returns the run's block and the set's of each tile, by its unit: (0, 0), (0, 1), …, (1, 0), … in this order."""
    return [(a, b) for a in range(images) for b in range(items)]


def put_certificate(
    name: str,
    kind: str,
    images: Sequence[BlockFacts],
    items: Sequence[BlockFacts],
    accounts: Sequence[Json],
    out: Outputs,
) -> None:
    """Writes the certificate as a file of the search's last unit, and its counts.

    Args:
        name: of the set.
        kind: the kind of duplicate.
        images: every block of the run.
        items: every block of the set.
        accounts: the account of every tile, as `put_matches` stored it.
        out: the unit's outputs.
    """
    count, of_set = (sum(block.nodes for block in blocks) for blocks in (images, items))
    excluded: Counter[str] = Counter()
    bounds: dict[str, list[Any]] = {}
    for account in accounts:
        excluded.update(account["excluded"])
        for bound, stated in account["bounds"].items():
            of_bound = bounds.setdefault(bound, [])
            of_bound += [constants for constants in stated if constants not in of_bound]
    same = {
        "set": name,
        "kind": kind,
        "floor": accounts[0]["floor"],
        "nodes": count,
        "items": of_set,
        "pairs": count * of_set,
        "near": sum(account["near"] for account in accounts),
        "stored": sum(account["stored"] for account in accounts),
        "blocks": [asdict(block) for block in images],
        "set_blocks": [asdict(block) for block in items],
    }
    how = {"compared": sum(account["compared"] for account in accounts), "excluded": excluded, "bounds": bounds}
    out.put_json(ROLE, {**same, **how}, same=same)
    out.counts.update(tiles=len(accounts), **{key: same[key] for key in ("nodes", "items", "pairs", "near", "stored")})


def faults(nodes: Folder, items: Folder, search: Folder) -> Iterator[tuple[str, int]]:
    """Adds up the certificate of a finished search; yields a line for each fault, and the unit of the search.

    Args:
        nodes: the folder of the run's blocks.
        items: the folder of the set's blocks.
        search: the folder of the search.

    Raises:
        Damaged: a file that it reads is missing, or its bytes changed.
    """
    said = search.json(ROLE)
    sides = [[BlockFacts(**block) for block in said[key]] for key in ("blocks", "set_blocks")]
    for folder, blocks in zip((nodes, items), sides, strict=True):
        stored = side_by_side(partial(BlockFacts.of, folder), range(len(blocks)))
        for number, (block, found) in enumerate(zip(blocks, stored, strict=True)):
            if block != found:
                yield f"{ROLE}: block {number} has other nodes than {folder.path}", WHOLE
    n, m = (sum(block.nodes for block in blocks) for blocks in sides)
    total = said["compared"] + sum(said["excluded"].values())
    if (said["nodes"], said["items"]) != (n, m) or not said["pairs"] == total == n * m:
        how = f"{said['compared']} pairs compared and {total - said['compared']} excluded"
        yield f"{ROLE}: {how} are not the {n * m} pairs of {n} images and {m} items", WHOLE
    divided = tiles(len(sides[0]), len(sides[1]))
    summed: Counter[str] = Counter()

    def read(tile: int) -> tuple[Json, int | None]:
        return search.json(ACCOUNT, tile), search.info(MATCHES, tile).rows

    for tile, (account, stored_rows) in enumerate(side_by_side(read, range(len(divided)))):
        a, b = divided[tile]
        of_tile = sides[0][a].nodes * sides[1][b].nodes
        if not account["pairs"] == account["compared"] + sum(account["excluded"].values()) == of_tile:
            yield f"{ACCOUNT} of tile {tile}: it does not account for the {of_tile} pairs of blocks {a} and {b}", tile
        if account["stored"] != stored_rows:
            yield f"{ACCOUNT} of tile {tile}: {MATCHES} has another number of matches", tile
        summed.update({key: account[key] for key in ("compared", "near", "stored")})
        summed.update({f"excluded {bound}": count for bound, count in account["excluded"].items()})
    expected = Counter({key: said[key] for key in ("compared", "near", "stored")})
    expected.update({f"excluded {bound}": count for bound, count in said["excluded"].items()})
    if summed != expected:
        yield f"{ROLE}: its sums are not those of the tiles", WHOLE


def redone(nodes: Folder, items: Folder, search: Folder) -> Iterator[tuple[str, int]]:
    """Compares some rows of some tiles with whole blocks again, without any bound; arguments and yields as `faults`.

    The rows are others than those which the search itself did again. Memory: a block is mapped from a local file.
    """
    said = search.json(ROLE)
    kind, divided = kind_named(said["kind"]), tiles(len(said["blocks"]), len(said["set_blocks"]))
    assert isinstance(kind, NearKind)
    for tile in sorted({int(place) for place in np.linspace(0, len(divided) - 1, REDONE)}):
        a, b = divided[tile]
        with scratch("verify") as folder:
            for name in ("run", "set"):
                (folder / name).mkdir()
            sides = Nodes.load(nodes, a, folder / "run"), Nodes.load(items, b, folder / "set")
            rows = sample(len(sides[0].values), tile, "verify")
            again = compared(kind, said["floor"], rows, sides)
            if not search.json(ACCOUNT, tile)["every"]:
                again = best_of(again)
            i, j = (np.array([pair[side] for pair in again], np.int64) for side in (0, 1))
            expected = found_table(sides, i, j, np.array(list(again.values()), np.float64))
            names = pa.array([bytes(digest) for digest in sides[0].digests[rows]], pa.binary(32))
        found = search.table(MATCHES, tile)
        found = found.filter(pc.is_in(found["image"], value_set=names))
        if differ := _rows(found) ^ _rows(expected):
            image, item, _ = min(differ)
            yield f"{MATCHES} of tile {tile}: {len(differ)} differ, as that of {image.hex()} and {item.hex()}", tile


def _rows(found: pa.Table) -> set[tuple[Any, ...]]:
    return {tuple(row.values()) for row in found.to_pylist()}
