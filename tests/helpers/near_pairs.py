"""Writes near pairs as a finished search does."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa

from curate import schema
from curate.dedup.nodes import Records, put_block
from curate.near import CERTIFICATE, Dense, FoundPairs, Pairs, nodes_pass
from curate.store import Folder

Named = tuple[str, str, float]
"""Two digests, and their similarity."""


def nodes_of(search: Folder) -> Folder:
    """Returns the folder of the nodes of a search."""
    return Folder(search.store, nodes_pass(search.name), search.fingerprint)


def all_near(search: Folder, nodes: Folder | None = None) -> list[Named]:
    """Returns the near pairs of all tiles, in order; `nodes` is the folder of the nodes where `nodes_of` is not."""
    found = FoundPairs(search, nodes or nodes_of(search))
    names = [name for block in found.names() for name in block.to_pylist()]
    return [
        (names[a], names[b], similarity)
        for pairs in found.pairs()
        for a, b, similarity in zip(*(column.tolist() for column in pairs), strict=True)
    ]


def records(digests: Iterable[str]) -> Records:
    """Returns nodes without a value that counts, ascending by digest."""
    names = sorted(set(digests))
    made = np.zeros(len(names), [("digest", ">u8", (4,)), ("id", ">u8", (2,)), ("value", np.float16, (1,))])
    made["digest"] = np.frombuffer(bytes.fromhex("".join(names)), ">u8").reshape(-1, 4)
    return made


def numbered(pairs: Iterable[Named]) -> tuple[list[str], Pairs]:
    """Returns the digests of pairs, ascending, and the pairs by the digests' places."""
    listed = sorted((min(a, b), max(a, b), similarity) for a, b, similarity in pairs)
    names = sorted({name for a, b, _ in listed for name in (a, b)})
    places = {name: place for place, name in enumerate(names)}
    a, b = np.array([(places[a], places[b]) for a, b, _ in listed], np.int64).reshape(-1, 2).T
    return names, (a, b, np.array([pair[2] for pair in listed], np.float64))


def put_near(search: Folder, pairs: Iterable[Named]) -> dict[str, Folder]:
    """Commits pairs as the only tile of a search, and their nodes; returns both folders by their passes' names."""
    names, (a, b, similarity) = numbered(pairs)
    nodes, out = nodes_of(search), search.outputs()
    with TemporaryDirectory() as folder:
        block = nodes.outputs(0)
        put_block(records(names), block, Path(folder) / "nodes")
        block.commit()
    tile = out.part(0)
    columns = [a.astype(np.int32), b.astype(np.int32), similarity]
    tile.put_table("near.parquet", pa.table(columns, schema=schema.NEAR))
    tile.commit()
    out.put_json(CERTIFICATE, {"blocks": [nodes.json("block.json", 0)], "dense": 0})
    out.counts.update(tiles=1, pairs=1_225, near=len(similarity), dense=0)
    out.commit()
    return {search.name: search, nodes.name: nodes}


@dataclass(frozen=True)
class InMemory:
    """What a search found, without files (`curate.near.NearPairs`).

    Args:
        listed: the digests of all nodes.
        tables: the stored near pairs, by the digests' places.
        crowd: the dense nodes.
    """

    listed: list[str]
    tables: list[Pairs]
    crowd: Dense | None = None

    @property
    def count(self) -> int:
        return len(self.listed)

    def names(self) -> list[pa.Array]:
        return [pa.array(self.listed[:3], pa.string()), pa.array(self.listed[3:], pa.string())]

    def pairs(self) -> list[Pairs]:
        return self.tables

    def dense(self) -> Dense | None:
        return self.crowd
