"""`duplicates`: keeps one of each set of duplicates."""

# ruff: noqa: S608 - statements are put together from our own words

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field, model_validator

from curate.errors import short
from curate.keys import Keys
from curate.schema import SIMILARITY
from curate.select import greedy
from curate.select.database import quoted
from curate.select.steps.contract import Facts, Step, StepKind, Words, code, without_value
from curate.select.survivors import Survivors

_NEAR = "dedup"
_EMBEDDED = f"{quoted(SIMILARITY)} IS NOT NULL"


class DuplicatesKeys(Keys):
    """What counts as the same, and which one stays."""

    by: Literal["sha256", "image_embedding"] = Field(description="Equal bytes, or a cosine at `above` or more.")
    above: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="With image_embedding: the cosine from which two images are one."
    )
    prefer: str = Field("clip_similarity", description="The column whose higher value stays; ties by pair_id.")

    @model_validator(mode="after")
    def _threshold(self) -> "DuplicatesKeys":
        if (self.by == "image_embedding") != (self.above is not None):
            raise ValueError("`above` goes with by: image_embedding, and only with it")
        return self


class Duplicates(StepKind[DuplicatesKeys]):
    """The best of each set of duplicates stays (`curate.select.greedy`).

    Steps that stand together and prefer the same column are decided as one, by the first of them.
    """

    name = "duplicates"
    description = "Keep one of each set of duplicates."
    keys = DuplicatesKeys

    def check_recipe(self, steps: Sequence[Any], recipe: Any) -> None:
        """See `StepKind`: duplicates come last, prefer one column, and ask for no pair under the search's floor."""
        for step in steps:
            if step.duplicates and step.duplicates.above and step.duplicates.above < recipe.dedup.floor:
                raise ValueError(
                    f"select step {step.drop!r}: above {step.duplicates.above} lies under dedup.floor "
                    f"{recipe.dedup.floor}; lower dedup.floor"
                )
        first = next((step for step in steps if step.duplicates), None)
        if first is None:
            return
        # A pair that is dropped as a duplicate names one that is kept: nothing after may drop that one.
        for step in steps[steps.index(first) + 1 :]:
            if step.duplicates is None:
                raise ValueError(
                    f"select step {step.drop!r} stands after {first.drop!r}, which drops duplicates in favour of pairs "
                    f"that {step.drop!r} may drop; put the steps with `duplicates` last"
                )
            if step.duplicates.prefer != first.duplicates.prefer:
                raise ValueError(
                    f"select step {step.drop!r} prefers {step.duplicates.prefer}, but {first.drop!r} prefers "
                    f"{first.duplicates.prefer}; steps with `duplicates` are decided as one and need the same"
                )

    def near(self, step: Step[DuplicatesKeys]) -> Sequence[str]:
        """See `StepKind`."""
        return () if step.keys.above is None else (step.keys.by,)

    def columns(self, step: Step[DuplicatesKeys], known: Sequence[str]) -> list[str]:
        """See `StepKind`."""
        del known
        # An image without an embedding has no similarity to its caption either.
        return [step.keys.prefer, "sha256", *([SIMILARITY] if step.keys.above is not None else [])]

    def check(self, step: Step[DuplicatesKeys], columns: Mapping[str, pa.DataType]) -> None:
        """See `StepKind`: the preferred column has an order."""
        kind = step.column("duplicates.prefer", step.keys.prefer, columns)
        if pa.types.is_nested(kind):
            raise step.wrong(f"duplicates.prefer: {step.keys.prefer} is {kind}, without order")

    def expressions(self, step: Step[DuplicatesKeys]) -> Sequence[str]:
        """See `StepKind`: the preferred value, the digest, and whether there is an embedding where it is needed."""
        return [quoted(step.keys.prefer), "sha256", *([_EMBEDDED] if step.keys.above is not None else [])]

    def decide(self, step: Step[DuplicatesKeys], steps: Sequence[Step[Any]], rows: Survivors) -> Facts:
        """See `StepKind`."""
        above, prefer = step.keys.above, step.keys.prefer
        nothing = f"{rows.column('sha256')} IS NULL"
        if above is not None:
            nothing += f" OR NOT {rows.column(_EMBEDDED)}"
        nulls = rows.count(nothing)
        if not self._follows(step.number, steps):
            greedy.drop(rows, self._together(step.number, steps), rows.column(quoted(prefer)), rows.column("sha256"))
        rows.leave(f"id NOT IN (SELECT id FROM dropped WHERE step = {step.number})")
        near = {"near": _NEAR, "measure": "cosine"} if above is not None else {}
        said = {"by": step.keys.by, "prefer": prefer, "columns": [prefer]}
        return {**said, "threshold": above, "nulls": nulls, "names_kept": True, **near}

    def words(self, step: Step[DuplicatesKeys], facts: Facts) -> Words:
        """See `StepKind`."""
        what = "equal bytes" if step.keys.above is None else f"cosine ≥ {short(step.keys.above)}"
        by, prefer = step.keys.by, step.keys.prefer
        return Words(
            f"{what}; keeps the one with the highest {prefer}",
            f"all but one of each set of duplicates by {code(by)} ({what}), best {code(prefer)} kept",
            without_value(facts["nulls"], "stay"),
        )

    def of_pair(self, step: Step[DuplicatesKeys], facts: Facts, pair: pa.Table, reason: str | None) -> str:
        """See `StepKind`."""
        del facts, pair
        return "drops it" if reason == step.name else "lets it pass"

    def _follows(self, number: int, steps: Sequence[Step[Any]]) -> bool:
        """Whether the step above is of this kind, too, and ranks by the same column."""
        above = steps[number - 1] if number else None
        return above is not None and above.kind is self and above.keys.prefer == steps[number].keys.prefer

    def _together(self, number: int, steps: Sequence[Step[Any]]) -> list[greedy.Reach]:
        """The steps from this one on that are decided as one, with what they reach."""
        last = number
        while last + 1 < len(steps) and steps[last + 1].kind is self and self._follows(last + 1, steps):
            last += 1
        return [
            greedy.Reach(step.number, _NEAR if step.keys.above is not None else None, step.keys.above or 1.0)
            for step in steps[number : last + 1]
        ]


STEP = Duplicates()
