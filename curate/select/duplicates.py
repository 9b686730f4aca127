"""One of each set of duplicates stays: greedy by rank, so that none goes because of one that went.

A node is a digest (`sha256`), and its rank that of its best pair. In rank order, a pair goes when a kept one has
its digest or one near it. So whether a node keeps its best pair is decided by the nodes near it that come
earlier, and all its other pairs go. Two kept nodes are never near; a pair that goes has a kept one that ranks
before it. Where several do, it names the most similar, of equals the best.

Steps that stand together are decided as one, at the lowest of their thresholds; then each pair that goes falls to
the first step that its similarity reaches. One after the other they would make a chain: a pair that goes as an
exact copy of one that the next step drops as a near copy.
"""

# ruff: noqa: S608 - statements are put together from our own words and from predicates that were checked

from collections.abc import Iterable, Mapping

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_BATCH = 65_536


def load_near(con: duckdb.DuckDBPyConnection, near: Iterable[pa.Table], floor: float) -> None:
    """Stores the near pairs of digests from a similarity upwards, for the steps that ask for them."""
    con.execute("CREATE TABLE near (sha256_a VARCHAR, sha256_b VARCHAR, similarity DOUBLE)").fetchall()
    for table in near:
        con.register("arrived", table.filter(pc.greater_equal(table["similarity"], floor)))
        con.execute("INSERT INTO near SELECT sha256_a, sha256_b, similarity FROM arrived").fetchall()
        con.unregister("arrived")


def drop(con: duckdb.DuckDBPyConnection, steps: Mapping[int, float | None], value: str) -> None:
    """Adds to `dropped` the rows of `alive` that duplicate another one.

    Args:
        con: the funnel's database, with `near` where a step has a threshold.
        steps: the steps that are decided together, by number: the similarity from which two digests are near,
            or None where only equal digests are duplicates.
        value: the column of `alive` whose higher value ranks first; null ranks last, ties by pair_id.
    """
    _do(
        con,
        f"""CREATE OR REPLACE TABLE ranked AS
        SELECT id, high, low, sha256, row_number() OVER (ORDER BY {value} DESC NULLS LAST, high, low) AS rank
        FROM alive WHERE sha256 IS NOT NULL""",
    )
    _do(con, "CREATE OR REPLACE TABLE nodes AS SELECT sha256, min(rank) AS rank FROM ranked GROUP BY sha256")
    _do(con, "CREATE OR REPLACE TABLE lost (node BIGINT)")
    thresholds = {step: above for step, above in steps.items() if above is not None}
    if thresholds:
        _lose_near(con, thresholds)
    # Equal digests reach every step.
    _do(
        con,
        f"""INSERT INTO dropped
        SELECT pair.id, {min(steps)}, best.high, best.low, 1.0
        FROM ranked pair JOIN nodes USING (sha256) JOIN ranked best ON best.rank = nodes.rank
        WHERE pair.rank > nodes.rank AND nodes.rank NOT IN (SELECT node FROM lost)""",
    )


def _lose_near(con: duckdb.DuckDBPyConnection, thresholds: Mapping[int, float]) -> None:
    """Decides which nodes are lost to near ones, and drops all pairs of those."""
    _do(
        con,
        f"""CREATE OR REPLACE TABLE edges AS
        SELECT least(a.rank, b.rank) AS earlier, greatest(a.rank, b.rank) AS later, similarity
        FROM near JOIN nodes a ON a.sha256 = sha256_a JOIN nodes b ON b.sha256 = sha256_b
        WHERE similarity >= {min(thresholds.values())!r}""",
    )
    for nodes in _lost(con):
        con.register("arrived", nodes)
        _do(con, "INSERT INTO lost SELECT node FROM arrived")
        con.unregister("arrived")
    reached = " ".join(f"WHEN similarity >= {above!r} THEN {step}" for step, above in sorted(thresholds.items()))
    _do(
        con,
        f"""INSERT INTO dropped
        WITH around AS (
            SELECT later AS node, earlier AS other, similarity FROM edges
            UNION ALL SELECT earlier, later, similarity FROM edges
        ),
        kept_around AS (
            SELECT * FROM around
            WHERE node IN (SELECT node FROM lost) AND other NOT IN (SELECT node FROM lost)
        ),
        nearest AS (
            SELECT pair.id, other, similarity
            FROM ranked pair JOIN nodes USING (sha256) JOIN kept_around ON kept_around.node = nodes.rank
            WHERE other < pair.rank
            QUALIFY row_number() OVER (PARTITION BY pair.id ORDER BY similarity DESC, other) = 1
        )
        SELECT nearest.id, CASE {reached} END, best.high, best.low, similarity
        FROM nearest JOIN ranked best ON best.rank = other""",
    )


def _lost(con: duckdb.DuckDBPyConnection) -> Iterable[pa.Table]:
    """The nodes with a kept one near them that comes earlier.

    Edges come in the order of their later node, so that the earlier one is decided by then. Memory: a bit for
    each pair.
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


def _do(con: duckdb.DuckDBPyConnection, statement: str) -> None:
    con.execute(statement).fetchall()
