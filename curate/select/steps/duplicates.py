"""`duplicates`: keeps one of each set of duplicates."""

# ruff: noqa: S608 - statements are put together from our own words

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import pyarrow as pa
from pydantic import Field, ValidationInfo, create_model, field_validator, model_validator

from curate.duplicates import KINDS, DuplicateKind, NearKind
from curate.keys import Keys, Text
from curate.select import greedy
from curate.select.database import quoted
from curate.select.steps.contract import Facts, Step, StepKind, Words, code, without_value
from curate.select.survivors import Survivors


class _AnyDuplicates(Keys):
    """Keys that say which pairs are duplicates, and which one of them stays."""

    by: str
    prefer: Text = Field("clip_similarity", description="The column whose higher value stays; ties by pair_id.")

    @field_validator("*", mode="before")
    @classmethod
    def _as_its_kind_takes_it(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and (kind := KINDS.get(info.data.get("by", ""))):
            kind.check_key(str(info.field_name), value)
        return value

    @model_validator(mode="after")
    def _keys_of_the_kind(self) -> Self:
        for key, kinds in _kinds_by_key().items():
            if (self.by in kinds) != (getattr(self, key) is not None):
                raise ValueError(f"by: {' or '.join(kinds)} needs `{key}`, and no other kind takes it")
        return self

    @property
    def kind(self) -> DuplicateKind:
        """The kind of duplicate."""
        return KINDS[self.by]

    @property
    def limits(self) -> Keys:
        """The keys of that kind."""
        return self.kind.keys.model_validate(self.model_dump(include=set(self.kind.keys.model_fields)))


def _kinds_by_key() -> dict[str, list[str]]:
    """Maps each key to the names of the kinds of duplicates that have it."""
    found: dict[str, list[str]] = {}
    for name, kind in KINDS.items():
        for key in kind.keys.model_fields:
            found.setdefault(key, []).append(name)
    return found


def _keys() -> type[_AnyDuplicates]:
    about = "; ".join(f"{name}: {kind.about}" for name, kind in KINDS.items())
    fields: dict[str, Any] = {"by": (Literal[tuple(KINDS)], Field(description=f"Which are duplicates. {about}."))}
    for key, kinds in _kinds_by_key().items():
        shared = [KINDS[name].keys.model_fields[key] for name in kinds]
        kind: Any = None
        for field in shared:
            kind |= Annotated[field.annotation, *field.metadata]
        fields[key] = (kind, Field(None, description=" ".join(str(field.description) for field in shared)))
    return create_model("Duplicates", __base__=_AnyDuplicates, __doc__=_AnyDuplicates.__doc__, **fields)


if TYPE_CHECKING:

    class DuplicatesKeys(_AnyDuplicates):
        """The model that `_keys` makes from the registry of kinds of duplicates."""
else:
    DuplicatesKeys = _keys()


class Duplicates(StepKind[DuplicatesKeys]):
    """Keeps the best of each set of duplicates (`curate.select.greedy`).

    Consecutive steps that prefer the same column are decided as one, by the first of them.
    """

    name = "duplicates"
    description = "Keep one of each set of duplicates."
    keys = DuplicatesKeys

    def check_recipe(self, steps: Sequence[Any], recipe: Any) -> None:
        """See `StepKind`: duplicates come last, prefer the same column, and need no pair that the search leaves out."""
        for step in steps:
            if step.duplicates and isinstance(kind := step.duplicates.kind, NearKind):
                missed = kind.not_searched(step.duplicates.limits, recipe.dedup)
                if missed:
                    raise ValueError(f"select step {step.drop!r}: {missed}")
        first = next((step for step in steps if step.duplicates), None)
        if first is None:
            return
        # A pair that is dropped as a duplicate names a kept pair, which no later step may drop.
        for step in steps[steps.index(first) + 1 :]:
            if step.duplicates is None:
                raise ValueError(
                    f"select step {step.drop!r} comes after {first.drop!r}, which drops duplicates in favour of pairs "
                    f"that {step.drop!r} may drop; put the steps with `duplicates` last"
                )
            if step.duplicates.prefer != first.duplicates.prefer:
                raise ValueError(
                    f"select step {step.drop!r} prefers {step.duplicates.prefer}, but {first.drop!r} prefers "
                    f"{first.duplicates.prefer}; steps with `duplicates` are decided as one and need the same"
                )

    def near(self, step: Step[DuplicatesKeys]) -> Sequence[str]:
        """See `StepKind`."""
        return (step.keys.by,) if isinstance(step.keys.kind, NearKind) else ()

    def columns(self, step: Step[DuplicatesKeys], known: Sequence[str]) -> list[str]:
        """See `StepKind`."""
        del known
        kind = step.keys.kind
        return [step.keys.prefer, "sha256", *([kind.column] if isinstance(kind, NearKind) else [])]

    def check(self, step: Step[DuplicatesKeys], columns: Mapping[str, pa.DataType]) -> None:
        """See `StepKind`: the preferred column has an order."""
        kind = step.column("duplicates.prefer", step.keys.prefer, columns)
        if pa.types.is_nested(kind):
            raise step.wrong(f"duplicates.prefer: {step.keys.prefer} is {kind}, which has no order")

    def expressions(self, step: Step[DuplicatesKeys]) -> Sequence[str]:
        """See `StepKind`: the preferred value, the digest, and whether the image can be compared with near ones."""
        kind = step.keys.kind
        return [quoted(step.keys.prefer), "sha256", *([_compared(kind)] if isinstance(kind, NearKind) else [])]

    def decide(self, step: Step[DuplicatesKeys], steps: Sequence[Step[Any]], rows: Survivors) -> Facts:
        """See `StepKind`."""
        kind, prefer = step.keys.kind, step.keys.prefer
        nothing = f"{rows.column('sha256')} IS NULL"
        facts: Facts = {"by": step.keys.by, "prefer": prefer, "columns": [prefer], "names_kept": True}
        if isinstance(kind, NearKind):
            nothing += f" OR NOT {rows.column(_compared(kind))}"
            threshold = kind.threshold(step.keys.limits)
            facts |= {"threshold": threshold, "near": kind.search_pass, "measure": kind.measure}
        facts["nulls"] = rows.count(nothing)
        if not self._follows(step.number, steps):
            greedy.drop(rows, self._together(step.number, steps), rows.column(quoted(prefer)), rows.column("sha256"))
        rows.leave(f"id NOT IN (SELECT id FROM dropped WHERE step = {step.number})")
        return facts

    def words(self, step: Step[DuplicatesKeys], facts: Facts) -> Words:
        """See `StepKind`."""
        by, prefer, what = step.keys.by, step.keys.prefer, step.keys.kind.words(step.keys.limits)
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
        """Whether the step above is also of this kind and ranks by the same column."""
        above = steps[number - 1] if number else None
        return above is not None and above.kind is self and above.keys.prefer == steps[number].keys.prefer

    def _together(self, number: int, steps: Sequence[Step[Any]]) -> list[greedy.Reach]:
        """The reaches of this step and of those after it that are decided as one with it."""
        last = number
        while last + 1 < len(steps) and steps[last + 1].kind is self and self._follows(last + 1, steps):
            last += 1
        return [_reach(step) for step in steps[number : last + 1]]


def _compared(kind: NearKind) -> str:
    """SQL for whether a pair's image can be compared."""
    return f"{quoted(kind.column)} IS NOT NULL"


def _reach(step: Step[DuplicatesKeys]) -> greedy.Reach:
    kind = step.keys.kind
    if isinstance(kind, NearKind):
        return greedy.Reach(step.number, kind.search_pass, kind.threshold(step.keys.limits))
    return greedy.Reach(step.number)


STEP = Duplicates()
