"""`keep_top`: keeps the rows with the highest values of a column."""

# ruff: noqa: S608 - statements are put together from our own words

from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from curate.errors import short
from curate.keys import Fraction, Keys, Text
from curate.select.database import quoted
from curate.select.steps.contract import Facts, Step, StepKind, Words, code, without_value
from curate.select.survivors import Survivors


class KeepTopKeys(Keys):
    """Keys of a best fraction."""

    of: Text = Field(description="A numeric column; the highest values stay.")
    fraction: Fraction = Field(description="The share that stays, of the pairs that have a value.")


class KeepTop(StepKind[KeepTopKeys]):
    """Keeps the best fraction by a column, with ties broken by pair_id, and drops rows without a value."""

    name = "keep_top"
    description = "Keep the best fraction by a column."
    keys = KeepTopKeys
    beside: ClassVar = {
        "over": (
            Literal["survivors", "pool"],
            Field(
                "survivors",
                description="With keep_top: the fraction of what the steps above left, or of every fetched pair.",
            ),
        )
    }

    def columns(self, step: Step[KeepTopKeys], known: Sequence[str]) -> list[str]:
        """See `StepKind`."""
        del known
        return [step.keys.of]

    def check(self, step: Step[KeepTopKeys], columns: Mapping[str, pa.DataType]) -> None:
        """See `StepKind`: the column is a number."""
        kind = step.column("keep_top.of", step.keys.of, columns)
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
            raise step.wrong(f"keep_top.of: {step.keys.of} is {kind}, not a number")

    def expressions(self, step: Step[KeepTopKeys]) -> Sequence[str]:
        """See `StepKind`: the value."""
        return (quoted(step.keys.of),)

    def decide(self, step: Step[KeepTopKeys], steps: Sequence[Step[Any]], rows: Survivors) -> Facts:
        """See `StepKind`."""
        del steps
        value, over = rows.column(quoted(step.keys.of)), step.beside["over"]
        keep = top(rows.count(f"{value} IS NOT NULL", pool=over == "pool"), step.keys.fraction)
        nulls = rows.count(f"{value} IS NULL")
        # The last row that stays; where there is none, all rows are dropped.
        rows.do(
            f"""CREATE OR REPLACE TABLE edge AS SELECT {value} AS value, high, low
            FROM {"pairs" if over == "pool" else "alive"} WHERE before IS NULL AND {value} IS NOT NULL AND {keep} > 0
            ORDER BY value DESC, high, low LIMIT 1 OFFSET {max(0, keep - 1)}"""
        )
        lowest = rows.con.execute("SELECT value::DOUBLE FROM edge").fetchall()
        edge = {name: f"(SELECT {name} FROM edge)" for name in ("value", "high", "low")}
        stays = f"""coalesce({value} > {edge["value"]} OR ({value} = {edge["value"]}
            AND (high < {edge["high"]} OR (high = {edge["high"]} AND low <= {edge["low"]}))), false)"""
        rows.drop(step.number, f"NOT {stays}")
        said = {"of": step.keys.of, "fraction": step.keys.fraction, "over": over}
        return {**said, "nulls": nulls, "threshold": lowest[0][0] if lowest else None}

    def words(self, step: Step[KeepTopKeys], facts: Facts) -> Words:
        """See `StepKind`."""
        among = " of all fetched pairs" if step.beside["over"] == "pool" else ""
        share, of, threshold = f"the top {100 * step.keys.fraction:.4g} %{among}", step.keys.of, facts["threshold"]
        says, rule = f"keeps {share} by {of}", f"all but {share} by {code(of)}"
        if threshold is not None:
            says, rule = f"{says}: {of} ≥ {short(threshold)}", f"{rule}: {code(of)} ≥ {threshold:.6g}"
        return Words(says, rule, without_value(facts["nulls"], "drop"))

    def of_pair(self, step: Step[KeepTopKeys], facts: Facts, pair: pa.Table, reason: str | None) -> str:
        """See `StepKind`: the pair's own value."""
        del facts, reason
        value = pair[step.keys.of][0].as_py()
        return f"it has {'no value' if value is None else f'{value:.4f}' if isinstance(value, float) else value}"


def top(values: int, fraction: float) -> int:
    """The number of values that stay: the fraction as written in decimal, times `values`, with halves rounded up."""
    return int((Decimal(repr(fraction)) * values).to_integral_value(ROUND_HALF_UP))


STEP = KeepTop()
