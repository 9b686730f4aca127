"""The funnel: computes the rows that each step drops, in a DuckDB database that spills to the local disk.

The values that the steps need are computed once, when a part is added; texts never enter the database. `Survivors`
describes the tables. Every order is total, with ties broken by pair_id, so that the result does not depend on threads.
"""

# ruff: noqa: S608 - statements are put together from our own words and from predicates that were checked

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from curate.against import Sets
from curate.errors import BrokenResult, RecipeError
from curate.schema import ERROR_CLASSES, FETCH, NO_CAPTION, NOT_SAMPLED, REPEATED, UNDECODABLE, reason_words
from curate.select.database import in_batches, one_line
from curate.select.ids import words
from curate.select.rows import PartRows
from curate.select.steps.contract import Facts, RowWise, Step, Words
from curate.select.survivors import Searches, Survivors

_BATCH = 65_536

FACTS: Facts = {
    "nulls": 0,
    "would_drop": None,
    "threshold": None,
    "of": None,
    "columns": [],
    "searches": [],
    "kinds": [],
    "names_kept": False,
}
"""The facts of every step in `funnel.json` besides its name, kind, words, and the numbers of rows seen and dropped.

nulls       the number of rows that it saw without a value
would_drop  the number of rows of the pool that it would drop by itself; null where that depends on other rows
threshold   rows with this value or more stay
of          the column that is compared with the threshold
columns     the columns that it reads
searches    the searches whose near pairs it reads; pairs are duplicates where they are by all of them. Of each: `by`,
            the kind of duplicate, followed by `-` and the model where that is not the first; `near`, the short name of
            its pass; `compares`, whether it compares the `image` or the `caption` of pairs; `measure`, the name of its
            similarity; `threshold`, the similarity at or above which they are duplicates by it; `searched`, all pairs
            of distinct images or captions, each of which it compared or excluded by a bound; `dense`, those of them
            that are near so many others that the step compares pairs among them, in place of the search
kinds       the kinds of duplicates by all of which pairs are duplicates, as `by`; also those without a search
names_kept  whether a dropped pair names the kept pair that it duplicates
"""


class Funnel:
    """Takes rows part by part (`add`), applies the steps (`run`), and yields verdicts in the same order (`verdicts`).

    Args:
        con: an empty database.
        steps: the recipe's.
        columns: the names of all columns of a pair.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection, steps: Sequence[Step[Any]], columns: Sequence[str]) -> None:
        self._con = con
        self._steps = steps
        self._names = columns
        self._rows = 0
        expressions = dict.fromkeys(expression for step in steps for expression in step.kind.expressions(step))
        self._columns = {expression: f"x{number}" for number, expression in enumerate(expressions)}

    def add(self, part: int, rows: PartRows) -> None:
        """Takes a part's rows; parts have to be added in ascending order.

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
        self._con.register("part", in_batches(pa.table({**ours, **taken})))
        into = "INSERT INTO pairs" if self._exists("pairs") else "CREATE TABLE pairs AS"
        try:
            self._do(f"{into} SELECT {', '.join(self._taken())} FROM part")
        except (duckdb.DataError, duckdb.InvalidInputException) as error:
            raise self._impossible(error) from error
        self._con.unregister("part")
        self._rows += count

    def run(self, near: Searches, sets: Sets | None = None) -> dict[str, Any]:
        """Applies the steps.

        Args:
            near: returns what a search found, for the steps that ask for it.
            sets: reads the sets that a step compares with.

        Returns:
            `funnel.json` without the parts.
        """
        self._mark_repeated()
        rows = Survivors(self._con, self._columns, near, sets)
        report = self._before_steps()
        for step in self._steps:
            seen = rows.count()
            facts = step.kind.decide(step, self._steps, rows)
            facts = {**FACTS, "columns": step.kind.columns(step, self._names), **facts}
            counted = {"seen": seen, "dropped": seen - rows.count()}
            said = asdict(step.kind.words(step, facts))
            report.append({"name": step.name, "kind": step.kind.name, **said, **counted, **facts})
        return {"planned": self._rows, "kept": rows.count(), "steps": report}

    def verdicts(self) -> Iterator[pa.Table]:
        """Yields the verdicts on all rows, in the order in which the rows were added.

        Yields:
            Tables of high, low, before, step (null where no step dropped the row), of_high, of_low, similarity, the
            item of a set that it matches (set_name, item, likeness), and w<number> for each row-wise step: whether it
            would drop the row by itself.
        """
        alone = "".join(
            f", p.{self._columns[step.kind.condition(step)]} AS w{step.number}"
            for step in self._steps
            if isinstance(step.kind, RowWise)
        )
        result = self._con.sql(
            f"""SELECT p.part, p.high, p.low, p.before, d.step, d.high AS of_high, d.low AS of_low,
                d.similarity, m.set_name, m.item, m.likeness{alone}
            FROM pairs p LEFT JOIN dropped d USING (id) LEFT JOIN matched m USING (id) ORDER BY p.id"""
        )
        for batch in result.to_arrow_reader(_BATCH):
            yield pa.Table.from_batches([batch])

    def _taken(self) -> Iterator[str]:
        """Yields the SQL expressions that are computed for a part's rows and stored."""
        yield "_id AS id, _part AS part, _high AS high, _low AS low, _source_row AS source_row, _before AS before"
        for expression, column in self._columns.items():
            yield f"CASE WHEN _before IS NULL THEN {expression} END AS {column}"

    def _impossible(self, error: duckdb.Error) -> RecipeError:
        """Names the step whose condition cannot be computed."""
        for step in self._steps:
            for expression in step.kind.expressions(step):
                try:
                    self._do(f"SELECT count({expression}) FROM part WHERE _before IS NULL")
                except (duckdb.DataError, duckdb.InvalidInputException) as fault:
                    return step.wrong(f"{step.kind.name}: {one_line(fault)}; try_cast gives NULL there")
        return RecipeError(f"select: {one_line(error)}")

    def _exists(self, table: str) -> bool:
        return bool(self._con.execute("SELECT * FROM duckdb_tables() WHERE table_name = ?", [table]).fetchall())

    def _do(self, statement: str) -> None:
        # DuckDB counts a statement as running until its rows, here a number of rows, are fetched.
        self._con.execute(statement).fetchall()

    def _mark_repeated(self) -> None:
        """Marks all rows of a pair but one as repeated: the first row with an image stays, else the first row.

        Only a source with a `uid` column has rows with one pair id and different images, in one part or in several.
        """
        eligible = f"coalesce(before, '') NOT IN ('{REPEATED}', '{NOT_SAMPLED}')"
        self._do(
            f"""CREATE TABLE again AS
            SELECT high, low, coalesce(min(source_row) FILTER (before IS NULL), min(source_row)) AS stays FROM pairs
            WHERE {eligible} GROUP BY high, low HAVING count(*) > 1"""
        )
        self._do(
            f"""UPDATE pairs SET before = '{REPEATED}' FROM again
            WHERE pairs.high = again.high AND pairs.low = again.low AND pairs.source_row <> again.stays
            AND {eligible}"""
        )

    def _before_steps(self) -> list[dict[str, Any]]:
        counts = dict(
            self._con.execute("SELECT before, count(*) FROM pairs WHERE before IS NOT NULL GROUP BY before").fetchall()
        )
        order = [NOT_SAMPLED, REPEATED, *(FETCH + name for name in ERROR_CLASSES), UNDECODABLE, NO_CAPTION]
        if unknown := sorted(set(counts).difference(order)):
            raise BrokenResult(
                f"select: images failed for reasons that this version does not know: {', '.join(unknown)}"
            )
        seen, report = self._rows, []
        for name in order:
            if name in counts or name in (REPEATED, UNDECODABLE):
                dropped = counts.get(name, 0)
                said = asdict(Words(reason_words(name), reason_words(name)))
                report.append({"name": name, "kind": "before", **said, "seen": seen, "dropped": dropped, **FACTS})
                seen -= dropped
        return report
