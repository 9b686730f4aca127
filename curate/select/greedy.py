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

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.select.survivors import Survivors

_BATCH = 65_536


@dataclass(frozen=True)
class Reach:
    """The near pairs of images that a step counts as duplicates, besides images with equal digests.

    Attributes:
        step: its number.
        near: by pass that has found near pairs, the similarity at or above which it counts. Images are near where they
            are by all of these passes, with the similarity by the first; where there is none, only equal digests count.
    """

    step: int
    near: Mapping[str, float] = field(default_factory=dict)


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
    texts = "" if caption is None else f"{caption} AS caption,"
    rows.do(
        f"""CREATE OR REPLACE TABLE ranked AS SELECT id, high, low, {digest} AS sha256, {texts}
        row_number() OVER (ORDER BY {value} DESC NULLS LAST, high, low) AS rank
        FROM alive WHERE {digest} IS NOT NULL"""
    )
    rows.do("CREATE OR REPLACE TABLE nodes AS SELECT sha256, min(rank) AS rank FROM ranked GROUP BY sha256")
    rows.do("CREATE OR REPLACE TABLE lost (node BIGINT)")
    if any(reach.near for reach in reaches):
        _load_near(rows, reaches)
        _lose_near(rows)
    # Equal digests are duplicates for every step.
    stays, same = "nodes", "sha256"
    if caption is not None:
        stays, same = "captions", "sha256, caption"
        rows.do(
            f"""CREATE OR REPLACE TABLE captions AS SELECT {same}, min(pair.rank) AS rank
            FROM ranked pair JOIN nodes USING (sha256)
            WHERE nodes.rank NOT IN (SELECT node FROM lost) GROUP BY {same}"""
        )
    rows.do(
        f"""INSERT INTO dropped
        SELECT pair.id, {min(reach.step for reach in reaches)}, best.high, best.low, 1.0
        FROM ranked pair JOIN {stays} stays USING ({same}) JOIN ranked best ON best.rank = stays.rank
        WHERE pair.rank > stays.rank AND stays.rank NOT IN (SELECT node FROM lost)"""
    )


def _load_near(rows: Survivors, reaches: Sequence[Reach]) -> None:
    """Stores the near nodes that any step counts as duplicates, with the first such step; each pass is read once."""
    least: dict[str, float] = {}
    for reach in reaches:
        for name, above in reach.near.items():
            least[name] = min(above, least.get(name, above))
    stored = {name: f"near_{number}" for number, name in enumerate(least)}
    for name, table in stored.items():
        rows.do(f"CREATE OR REPLACE TABLE {table} (sha256_a VARCHAR, sha256_b VARCHAR, similarity DOUBLE)")
        for pairs in rows.near(name):
            rows.con.register("arrived", pairs.filter(pc.greater_equal(pairs["similarity"], least[name])))
            rows.do(f"INSERT INTO {table} SELECT sha256_a, sha256_b, similarity FROM arrived")
            rows.con.unregister("arrived")
    rows.do("CREATE OR REPLACE TABLE edges (earlier BIGINT, later BIGINT, similarity DOUBLE, step INTEGER)")
    for names in dict.fromkeys(tuple(reach.near) for reach in reaches if reach.near):
        rows.do(f"INSERT INTO edges {_edges([stored[name] for name in names], _of_passes(reaches, names))}")
    for table in stored.values():
        rows.do(f"DROP TABLE {table}")


def _of_passes(reaches: Sequence[Reach], names: Sequence[str]) -> dict[int, list[float]]:
    """Returns, by step that reads these passes and no other, its thresholds in their order."""
    return {reach.step: list(reach.near.values()) for reach in reaches if tuple(reach.near) == tuple(names)}


def _edges(tables: Sequence[str], steps: Mapping[int, Sequence[float]]) -> str:
    """SQL for the edges between nodes that are near by all of these tables, at or above the thresholds of a step."""
    first = tables[0]
    reached = {
        step: " AND ".join(f"{table}.similarity >= {above!r}" for table, above in zip(tables, least, strict=True))
        for step, least in steps.items()
    }
    cases = " ".join(f"WHEN {condition} THEN {step}" for step, condition in reached.items())
    return f"""SELECT least(a.rank, b.rank), greatest(a.rank, b.rank), {first}.similarity, CASE {cases} END
        FROM {" JOIN ".join([first, *(f"{table} USING (sha256_a, sha256_b)" for table in tables[1:])])}
        JOIN nodes a ON a.sha256 = sha256_a JOIN nodes b ON b.sha256 = sha256_b
        WHERE {" OR ".join(f"({condition})" for condition in reached.values())}"""


def _lose_near(rows: Survivors) -> None:
    """Decides which nodes lose to a near node that ranks before them, and drops all their pairs."""
    for nodes in _lost(rows.con):
        rows.con.register("arrived", nodes)
        rows.do("INSERT INTO lost SELECT node FROM arrived")
        rows.con.unregister("arrived")
    rows.do(
        """INSERT INTO dropped
        WITH around AS (
            SELECT later AS node, earlier AS other, similarity, step FROM edges
            UNION ALL SELECT earlier, later, similarity, step FROM edges
        ),
        kept_around AS (
            SELECT * FROM around
            WHERE node IN (SELECT node FROM lost) AND other NOT IN (SELECT node FROM lost)
        ),
        nearest AS (
            SELECT pair.id, other, similarity, step
            FROM ranked pair JOIN nodes USING (sha256) JOIN kept_around ON kept_around.node = nodes.rank
            WHERE other < pair.rank
            QUALIFY row_number() OVER (PARTITION BY pair.id ORDER BY step, similarity DESC, other) = 1
        )
        SELECT nearest.id, step, best.high, best.low, similarity
        FROM nearest JOIN ranked best ON best.rank = other"""
    )


def _lost(con: duckdb.DuckDBPyConnection) -> Iterable[pa.Table]:
    """Yields the nodes that have a kept node near them which ranks before them.

    Edges are read in the order of their later node, so the earlier node of each is already decided. Memory: one bit
    for each pair.
    """
    ((count,),) = con.execute("SELECT count(*) FROM ranked").fetchall()
    lost = bytearray(count // 8 + 1)
    for batch in con.sql("SELECT earlier, later FROM edges ORDER BY later").to_arrow_reader(_BATCH):
        for earlier, later in zip(batch["earlier"].to_pylist(), batch["later"].to_pylist(), strict=True):
            if not lost[earlier >> 3] >> (earlier & 7) & 1:
                lost[later >> 3] |= 1 << (later & 7)
    for start in range(0, len(lost), _BATCH):
        bits = np.unpackbits(np.frombuffer(lost, np.uint8)[start : start + _BATCH], bitorder="little")
        yield pa.table({"node": np.flatnonzero(bits) + 8 * start})
