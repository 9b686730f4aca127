"""The rows of a funnel that no step has dropped yet, in the funnel's database.

pairs     every row of the covered parts: id (its place in the order of parts and rows), part, high, low (the
          pair_id as two numbers), source_row, before (its drop reason before all steps), x0 … (the values of the
          steps' expressions, `Survivors.column`)
alive     the rows that no step has dropped yet
dropped   id, step, and for duplicates the kept pair's high, low and its similarity
matched   id, and the item of a set for which a step dropped the row: set_name, item, likeness
"""

# ruff: noqa: S608 - statements are put together from our own words and from predicates that were checked

from collections.abc import Callable, Mapping

import duckdb

from curate.against import Sets
from curate.near import NearPairs
from curate.store import Inputs

Searches = Callable[[str], NearPairs]
"""Returns what a search found, by the short name of its pass."""


class Survivors:
    """The rows that the steps so far have not dropped.

    Args:
        con: a database with the table `pairs`.
        columns: by SQL expression, the column of `pairs` that holds it.
        near: returns what a search found.
        sets: reads the sets that images are compared with, and their matches.

    Attributes:
        con: the database.
        near: returns what a search found.
        sets: reads sets and matches.
    """

    def __init__(
        self, con: duckdb.DuckDBPyConnection, columns: Mapping[str, str], near: Searches, sets: Sets | None = None
    ) -> None:
        self.con = con
        self.near = near
        self.sets = sets or Sets(Inputs({}, ()))
        self._columns = columns
        self.do("CREATE TABLE dropped (id BIGINT, step INTEGER, high UBIGINT, low UBIGINT, similarity DOUBLE)")
        self.do("CREATE TABLE matched (id BIGINT, set_name VARCHAR, item VARCHAR, likeness DOUBLE)")
        self.do("CREATE TABLE alive AS SELECT * FROM pairs WHERE before IS NULL")

    def column(self, expression: str) -> str:
        """The column of `pairs` and `alive` that holds one of a step's `expressions`."""
        return self._columns[expression]

    def count(self, condition: str = "true", *, pool: bool = False) -> int:
        """The number of rows that meet a condition.

        Args:
            condition: in SQL, over columns of `alive`.
            pool: count among all rows that the first step saw.
        """
        among = "pairs WHERE before IS NULL" if pool else "alive WHERE true"
        return self.number(f"SELECT count(*) FROM {among} AND ({condition})")

    def drop(self, step: int, condition: str) -> None:
        """Drops the rows for which a condition is TRUE, and records the step that dropped them."""
        self.do(f"INSERT INTO dropped SELECT id, {step}, NULL, NULL, NULL FROM alive WHERE {condition}")
        self.leave(f"({condition}) IS NOT TRUE")

    def leave(self, condition: str) -> None:
        """Keeps only the rows for which a condition is TRUE; the others have to be in `dropped` already."""
        self.do(f"CREATE TABLE left_alive AS SELECT * FROM alive WHERE {condition}")
        self.do("DROP TABLE alive")
        self.do("ALTER TABLE left_alive RENAME TO alive")

    def do(self, statement: str) -> None:
        """Executes a statement."""
        # DuckDB counts a statement as running until its rows, here a number of rows, are fetched.
        self.con.execute(statement).fetchall()

    def number(self, query: str) -> int:
        """The number that a query returns."""
        ((number,),) = self.con.execute(query).fetchall()
        return int(number)
