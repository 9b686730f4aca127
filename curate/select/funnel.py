"""The funnel: which rows each step drops, computed by DuckDB, which spills to the local disk.

    pairs     every row of the covered parts: id (its place in the order of parts and rows), part, hi, lo (the
              pair_id as two numbers), source_row, before (its reason before all steps), w0 … (what each `where`
              says of it), v0 … (the columns that keep_top and duplicates rank by), sha256, embedded
    alive     the rows that no step has dropped yet
    dropped   id, step, and for duplicates the kept pair's hi, lo and its similarity

Predicates are evaluated once, as a part comes in: text never enters the database. Every order is total, ties
broken by pair_id, so that nothing depends on threads or on the order of arrival.
"""

# ruff: noqa: S608 - statements are put together from our own words and from predicates that were checked

from collections.abc import Iterable, Iterator, Sequence
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from curate.errors import BrokenResult, RecipeError
from curate.schema import ERROR_CLASSES, FETCH, REPEATED, SIMILARITY, UNDECODABLE
from curate.select import duplicates
from curate.select.database import one_line, quoted
from curate.select.ids import words
from curate.select.predicate import Step
from curate.select.rows import PartRows

_BATCH = 65_536


_NOTHING: dict[str, Any] = dict.fromkeys(("would_drop", "threshold", "of", "where", "by", "prefer", "fraction", "over"))


def top(values: int, fraction: float) -> int:
    """How many of so many values `keep_top` keeps: their fraction, as it is written, halves rounded up."""
    return int((Decimal(repr(fraction)) * values).to_integral_value(ROUND_HALF_UP))


def ranked_by(step: Step) -> str:
    """The column by which a step other than `where` ranks."""
    return str(step["duplicates"]["prefer"] if step["keep_top"] is None else step["keep_top"]["of"])


class Funnel:
    """Rows in, part by part; then the steps; then verdicts out, in the same order.

    Args:
        con: an empty database.
        steps: the recipe's, dumped.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection, steps: Sequence[Step]) -> None:
        self._con = con
        self._steps = steps
        self._rows = 0
        self._wheres = [number for number, step in enumerate(steps) if step["where"] is not None]
        self._by = list(dict.fromkeys(ranked_by(step) for step in steps if step["where"] is None))
        self._duplicates = [step["duplicates"] for step in steps if step["duplicates"] is not None]
        self._thresholds = [step["above"] for step in self._duplicates if step["above"] is not None]

    def add(self, part: int, rows: PartRows) -> None:
        """Takes a part's rows, parts ascending.

        Raises:
            RecipeError: a predicate cannot be computed for one of them.
        """
        count = len(rows.pair_ids)
        high, low = words(rows.pair_ids)
        ours = {
            "_id": np.arange(self._rows, self._rows + count),
            "_part": np.full(count, part, np.int32),
            "_high": high,
            "_low": low,
            "_source_row": rows.source_rows,
            "_before": rows.before,
        }
        taken = {name: rows.columns[name] for name in rows.columns.column_names}
        self._con.register("part", pa.table({**ours, **taken}))
        into = "INSERT INTO pairs" if self._exists("pairs") else "CREATE TABLE pairs AS"
        try:
            self._do(f"{into} SELECT {', '.join(self._taken())} FROM part")
        except (duckdb.DataError, duckdb.InvalidInputException) as error:
            raise self._impossible(error) from error
        self._con.unregister("part")
        self._rows += count

    def run(self, near: Iterable[pa.Table]) -> dict[str, Any]:
        """Applies the steps.

        Args:
            near: the near pairs (`schema.NEAR`), read when a step asks for them.

        Returns:
            `funnel.json` without the parts.
        """
        self._mark_repeated()
        self._do("CREATE TABLE dropped (id BIGINT, step INTEGER, high UBIGINT, low UBIGINT, similarity DOUBLE)")
        self._do("CREATE TABLE alive AS SELECT * FROM pairs WHERE before IS NULL")
        if self._thresholds:
            duplicates.load_near(self._con, near, min(self._thresholds))
        report = self._before_steps()
        for number, step in enumerate(self._steps):
            seen = self._count("alive")
            if step["where"] is not None:
                facts = self._where(number, step)
            elif step["keep_top"] is not None:
                facts = self._keep_top(number, step)
            else:
                facts = self._drop_duplicates(number, step)
            dropped = seen - self._count("alive")
            report.append({**_NOTHING, "name": step["drop"], "seen": seen, "dropped": dropped, **facts})
        return {"planned": self._rows, "kept": self._count("alive"), "steps": report}

    def verdicts(self) -> Iterator[pa.Table]:
        """Every row in the order in which they came, in batches.

        Yields:
            Tables of high, low, before, step (null where no step dropped the row), of_high, of_low, similarity,
            and w<number> for each `where` step.
        """
        wheres = "".join(f", p.w{number}" for number in self._wheres)
        result = self._con.sql(
            f"""SELECT p.part, p.high, p.low, p.before, d.step, d.high AS of_high, d.low AS of_low,
                d.similarity{wheres}
            FROM pairs p LEFT JOIN dropped d USING (id) ORDER BY p.id"""
        )
        for batch in result.to_arrow_reader(_BATCH):
            yield pa.Table.from_batches([batch])

    def _taken(self) -> Iterator[str]:
        """What is computed of a part's rows and stored."""
        yield "_id AS id, _part AS part, _high AS high, _low AS low, _source_row AS source_row, _before AS before"
        for number in self._wheres:
            yield f"CASE WHEN _before IS NULL THEN (\n{self._steps[number]['where']}\n) END AS w{number}"
        for number, name in enumerate(self._by):
            yield f"{quoted(name)} AS v{number}"
        if self._duplicates:
            yield "sha256"
        if self._thresholds:
            yield f"{quoted(SIMILARITY)} IS NOT NULL AS embedded"

    def _impossible(self, error: duckdb.Error) -> RecipeError:
        """Names the step whose predicate does not go."""
        for number in self._wheres:
            try:
                self._do(f"SELECT count((\n{self._steps[number]['where']}\n)) FROM part WHERE _before IS NULL")
            except (duckdb.DataError, duckdb.InvalidInputException) as fault:
                name = self._steps[number]["drop"]
                return RecipeError(f"select step {name!r}: where: {one_line(fault)}; try_cast gives NULL there")
        return RecipeError(f"select: {one_line(error)}")

    def _exists(self, table: str) -> bool:
        return bool(self._con.execute("SELECT * FROM duckdb_tables() WHERE table_name = ?", [table]).fetchall())

    def _do(self, statement: str) -> None:
        # DuckDB counts a statement as running until its rows, here a number of rows, are fetched.
        self._con.execute(statement).fetchall()

    def _number(self, query: str) -> int:
        ((number,),) = self._con.execute(query).fetchall()
        return int(number)

    def _count(self, table: str) -> int:
        return self._number(f"SELECT count(*) FROM {table}")

    def _mark_repeated(self) -> None:
        """Leaves one row of each pair: the first that has an image, else the first.

        Only a source with pair ids of its own (`uid`) has a pair of several images, in one part or in several.
        """
        self._do(
            f"""CREATE TABLE again AS
            SELECT high, low, coalesce(min(source_row) FILTER (before IS NULL), min(source_row)) AS stays FROM pairs
            WHERE before IS DISTINCT FROM '{REPEATED}' GROUP BY high, low HAVING count(*) > 1"""
        )
        self._do(
            f"""UPDATE pairs SET before = '{REPEATED}' FROM again
            WHERE pairs.high = again.high AND pairs.low = again.low AND pairs.source_row <> again.stays"""
        )

    def _before_steps(self) -> list[dict[str, Any]]:
        counts = dict(
            self._con.execute("SELECT before, count(*) FROM pairs WHERE before IS NOT NULL GROUP BY before").fetchall()
        )
        order = [REPEATED, *(FETCH + name for name in ERROR_CLASSES), UNDECODABLE]
        if unknown := sorted(set(counts).difference(order)):
            raise BrokenResult(
                f"select: images failed for reasons that this version does not know: {', '.join(unknown)}"
            )
        seen, report = self._rows, []
        for name in order:
            if name in counts or name in (REPEATED, UNDECODABLE):
                dropped = counts.get(name, 0)
                facts = {"kind": "before", "seen": seen, "dropped": dropped, "nulls": 0}
                report.append({**_NOTHING, "name": name, **facts})
                seen -= dropped
        return report

    def _where(self, number: int, step: Step) -> dict[str, Any]:
        verdict = f"w{number}"
        nulls = self._number(f"SELECT count(*) FROM alive WHERE {verdict} IS NULL")
        alone = self._number(f"SELECT count(*) FROM pairs WHERE before IS NULL AND {verdict}")
        self._do(f"INSERT INTO dropped SELECT id, {number}, NULL, NULL, NULL FROM alive WHERE {verdict}")
        self._keep(f"{verdict} IS NOT TRUE")
        return {"kind": "where", "where": step["where"], "nulls": nulls, "would_drop": alone}

    def _keep_top(self, number: int, step: Step) -> dict[str, Any]:
        of, fraction = step["keep_top"]["of"], step["keep_top"]["fraction"]
        value = self._value(step)
        pool = "pairs WHERE before IS NULL" if step["over"] == "pool" else "alive WHERE true"
        keep = top(self._number(f"SELECT count({value}) FROM {pool}"), fraction)
        nulls = self._number(f"SELECT count(*) FROM alive WHERE {value} IS NULL")
        # The last row to stay; without one, no row does.
        self._do(
            f"""CREATE OR REPLACE TABLE edge AS SELECT {value} AS value, high, low FROM {pool}
            AND {value} IS NOT NULL AND {keep} > 0
            ORDER BY value DESC, high, low LIMIT 1 OFFSET {max(0, keep - 1)}"""
        )
        lowest = self._con.execute("SELECT value::DOUBLE FROM edge").fetchall()
        edge = {name: f"(SELECT {name} FROM edge)" for name in ("value", "high", "low")}
        stays = f"""coalesce({value} > {edge["value"]} OR ({value} = {edge["value"]}
            AND (high < {edge["high"]} OR (high = {edge["high"]} AND low <= {edge["low"]}))), false)"""
        self._do(f"INSERT INTO dropped SELECT id, {number}, NULL, NULL, NULL FROM alive WHERE NOT {stays}")
        self._keep(stays)
        threshold = lowest[0][0] if lowest else None
        said = {"kind": "keep_top", "of": of, "fraction": fraction, "over": step["over"]}
        return {**said, "nulls": nulls, "threshold": threshold}

    def _drop_duplicates(self, number: int, step: Step) -> dict[str, Any]:
        above, prefer = step["duplicates"]["above"], step["duplicates"]["prefer"]
        nothing = "sha256 IS NULL" + (" OR NOT embedded" if above is not None else "")
        nulls = self._number(f"SELECT count(*) FROM alive WHERE {nothing}")
        if not self._follows(number):
            duplicates.drop(self._con, self._together(number), self._value(step))
        self._keep(f"id NOT IN (SELECT id FROM dropped WHERE step = {number})")
        by = step["duplicates"]["by"]
        return {"kind": "duplicates", "by": by, "prefer": prefer, "threshold": above, "nulls": nulls}

    def _follows(self, number: int) -> bool:
        """Whether the step above is one of duplicates that ranks by the same column."""
        if number == 0 or self._steps[number - 1]["duplicates"] is None:
            return False
        return ranked_by(self._steps[number - 1]) == ranked_by(self._steps[number])

    def _together(self, number: int) -> dict[int, float | None]:
        """The steps of duplicates from this one on that are decided as one, with their thresholds."""
        last = number
        while (
            last + 1 < len(self._steps) and self._steps[last + 1]["duplicates"] is not None and self._follows(last + 1)
        ):
            last += 1
        return {at: self._steps[at]["duplicates"]["above"] for at in range(number, last + 1)}

    def _value(self, step: Step) -> str:
        return f"v{self._by.index(ranked_by(step))}"

    def _keep(self, condition: str) -> None:
        """Leaves the rows alive for which a condition holds."""
        self._do(f"CREATE TABLE left_alive AS SELECT * FROM alive WHERE {condition}")
        self._do("DROP TABLE alive")
        self._do("ALTER TABLE left_alive RENAME TO alive")
