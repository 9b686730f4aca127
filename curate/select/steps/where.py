"""`where`: drops the rows for which a SQL predicate is true."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field

from curate.keys import Allowed
from curate.select import predicate
from curate.select.steps.contract import Facts, RowWise, Step, Words, code, without_value
from curate.select.survivors import Survivors

Predicate = Annotated[
    str,
    Field(max_length=predicate.MOST_CHARACTERS, pattern=r"^(?:[^\p{Cc}]|[\t\r\n])*$"),
    Allowed(f"a SQL condition of at most {predicate.MOST_CHARACTERS:,} characters, without control characters"),
]


class Where(RowWise[str]):
    """A predicate in DuckDB's dialect over the columns of a pair (`curate.select.predicate`)."""

    name = "where"
    description = "A SQL predicate; pairs for which it is true are dropped."
    keys = Predicate

    def columns(self, step: Step[str], known: Sequence[str]) -> list[str]:
        """See `StepKind`: those that the predicate names, as they are spelt in `known`."""
        by_name = {name.lower(): name for name in known}
        return [by_name[name.lower()] for name in predicate.references(step)]

    def check(self, step: Step[str], columns: Mapping[str, pa.DataType]) -> None:
        """See `StepKind`: the predicate parses, is allowed, and computes on the types of the columns."""
        predicate.check(step, columns)

    def condition(self, step: Step[str]) -> str:
        """See `RowWise`."""
        return predicate.bracketed(step.keys)

    def decide(self, step: Step[str], steps: Sequence[Step[Any]], rows: Survivors) -> Facts:
        """See `StepKind`."""
        return {**super().decide(step, steps, rows), "where": step.keys}

    def words(self, step: Step[str], facts: Facts) -> Words:
        """See `StepKind`: the predicate itself."""
        says = " ".join(step.keys.split())
        return Words(says, code(says), without_value(facts["nulls"], "stay"), is_code=True)


STEP = Where()
