"""`keep_random`: keeps a random draw of the pairs, by a keyed hash of the pair id."""

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field

from curate.keys import Fraction, Keys
from curate.select.steps.contract import Facts, RowWise, Step, Words
from curate.select.survivors import Survivors


class KeepRandomKeys(Keys):
    """Keys of a random draw."""

    fraction: Fraction = Field(description="The chance of each pair to stay.")
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = Field(
        0, description="Another seed is an independent draw; of one seed, a smaller fraction is part of a larger."
    )


class KeepRandom(RowWise[KeepRandomKeys]):
    """A pair stays where the first 64 bits of sha256('<seed>:<pair_id>') are less than fraction × 2^64.

    `pair_id` is written as 32 lower-case hex digits. The draw depends on nothing else, so any tool can repeat it.
    """

    name = "keep_random"
    description = "Keep a random draw of the pairs; the same whenever it is repeated."
    keys = KeepRandomKeys

    def columns(self, step: Step[KeepRandomKeys], known: Sequence[str]) -> list[str]:
        """See `StepKind`."""
        del step, known
        return ["pair_id"]

    def check(self, step: Step[KeepRandomKeys], columns: Mapping[str, pa.DataType]) -> None:
        """See `StepKind`: every run has pair ids."""

    def condition(self, step: Step[KeepRandomKeys]) -> str:
        """See `RowWise`."""
        bound = math.ceil(Decimal(repr(step.keys.fraction)) * 2**64)
        # HUGEINT holds the bound 2^64, UBIGINT does not.
        return f"""('0x' || left(sha256('{step.keys.seed}:' || "pair_id"), 16))::UBIGINT >= {bound}::HUGEINT"""

    def decide(self, step: Step[KeepRandomKeys], steps: Sequence[Step[Any]], rows: Survivors) -> Facts:
        """See `StepKind`."""
        return {**super().decide(step, steps, rows), "fraction": step.keys.fraction, "seed": step.keys.seed}

    def words(self, step: Step[KeepRandomKeys], facts: Facts) -> Words:
        """See `StepKind`."""
        del facts
        draw = f"a random draw of {100 * step.keys.fraction:.4g} % (seed {step.keys.seed})"
        return Words(f"keeps {draw}", f"all but {draw}")


STEP = KeepRandom()
