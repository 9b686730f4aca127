"""`duplicates`: keeps one of each set of duplicates."""

# ruff: noqa: S608 - statements are put together from our own words

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

import pyarrow as pa
from pydantic import Field, ValidationInfo, create_model, field_validator, model_validator

from curate.duplicates import IMAGE, KINDS, DuplicateKind, NearKind
from curate.errors import nearest
from curate.keys import Keys, Text, type_of
from curate.select import greedy, greedy_pairs
from curate.select.database import quoted
from curate.select.near_nodes import Reach
from curate.select.steps.contract import Facts, Step, StepKind, Words, code, without_value
from curate.select.survivors import Survivors

_MOST_KINDS = 16
"""Kinds that one step may combine; a kind that compares embeddings counts once for each model."""


class AnyKind(Keys):
    """A kind of duplicate with its threshold."""

    by: str | None

    @field_validator("*", mode="before")
    @classmethod
    def _as_its_kind_takes_it(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and (kind := KINDS.get(info.data.get("by") or "")):
            kind.check_key(str(info.field_name), value)
        return value

    @model_validator(mode="after")
    def _keys_of_the_kind(self) -> Self:
        for key, kinds in _kinds_by_key().items():
            is_given = getattr(self, key) is not None
            if is_given == (self.by in kinds) or (not is_given and not self._requires(key)):
                continue
            if self.by is None:
                raise ValueError(f"`{key}` needs `by` beside it; with `all`, write it in an entry of that list")
            needs = "needs" if all(_is_required(kind, key) for kind in kinds) else "takes"
            raise ValueError(f"by: {' or '.join(kinds)} {needs} `{key}`, and no other kind takes it")
        return self

    def _requires(self, key: str) -> bool:
        return self.by is not None and _is_required(self.by, key)

    @property
    def kind(self) -> DuplicateKind:
        """The kind of duplicate, with the model that is named."""
        kind, model = KINDS[str(self.by)], getattr(self, "model", None)
        return replace(kind, model=model) if model and isinstance(kind, NearKind) else kind

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


def _is_required(kind: str, key: str) -> bool:
    return KINDS[kind].keys.model_fields[key].is_required()


def fields_of_kinds() -> dict[str, Any]:
    """The keys of all kinds of duplicates, as fields."""
    fields: dict[str, Any] = {}
    for key, kinds in _kinds_by_key().items():
        shared = [KINDS[name].keys.model_fields[key] for name in kinds]
        kind: Any = None
        for field in shared:
            kind |= type_of(field)
        fields[key] = (kind, Field(None, description=" ".join(str(field.description) for field in shared)))
    return fields


def _one_of_all() -> type[AnyKind]:
    by: Any = (Literal[tuple(KINDS)], Field(description="As `by` of the step."))
    return create_model("OneOfAll", __base__=AnyKind, __doc__=AnyKind.__doc__, by=by, **fields_of_kinds())


if TYPE_CHECKING:

    class OneOfAll(AnyKind):
        """The model that `_one_of_all` makes from the registry of kinds of duplicates."""
else:
    OneOfAll = _one_of_all()


class ByOrAll(AnyKind):
    """Keys that name one kind of duplicate, or several."""

    by: str | None = None
    all: Annotated[list[OneOfAll], Field(min_length=2, max_length=_MOST_KINDS)] | None = Field(
        None, description="In place of `by`: pairs are duplicates where each of these kinds counts them as such."
    )

    @field_validator("all")
    @classmethod
    def _each_kind_once(cls, value: list[OneOfAll] | None) -> list[OneOfAll] | None:
        if twice := named_twice(value or ()):
            raise ValueError(twice)
        kinds = [one.kind for one in value or ()]
        for kind in kinds:
            near = [one.name for one in kinds if isinstance(one, NearKind) and one.compares == kind.compares]
            if near and not isinstance(kind, NearKind):
                raise ValueError(f"{kind.compares.equal} are duplicates by {near[0]}, too; leave one of the two out")
        return value

    @model_validator(mode="after")
    def _by_or_all(self) -> Self:
        if (self.by is None) == (self.all is None):
            raise ValueError("write either `by`, with a kind of duplicate, or `all`, with a list of several")
        return self

    @property
    def each(self) -> Sequence[AnyKind]:
        """The kinds that have to count two pairs as duplicates, with their thresholds; of `by` a single one."""
        return self.all or (self,)

    @property
    def of_captions(self) -> DuplicateKind | None:
        """The first of its kinds that compares captions; None where all compare images."""
        return next((one.kind for one in self.each if one.kind.compares != IMAGE), None)


def named_twice(each: Sequence[AnyKind]) -> str:
    """One line about the first search that is named twice; '' where there is none."""
    kinds = [one.kind for one in each]
    twice = next((kind for number, kind in enumerate(kinds) if kind in kinds[:number]), None)
    if twice is None:
        return ""
    models = ", or once for each model" if "model" in twice.keys.model_fields else ""
    return f"{twice.name} is named twice; write each kind once{models}"


K = TypeVar("K", bound=AnyKind)


def _default_for_first(keys: K, models: Sequence[str]) -> K:
    """The keys without the model's name where that is the first model, which is the default."""
    is_first = getattr(keys, "model", None) == models[0]
    return keys.model_copy(update={"model": None}) if is_first else keys


B = TypeVar("B", bound=ByOrAll)


def without_first_model(keys: B, models: Sequence[str]) -> B:
    """Returns the keys without a model's name where that is the first model, which is the default."""
    each = None if keys.all is None else [_default_for_first(one, models) for one in keys.all]
    return _default_for_first(keys, models).model_copy(update={"all": each})


class _AnyDuplicates(ByOrAll):
    """Keys that say which pairs are duplicates, and which one of them stays."""

    prefer: Text = Field("clip_similarity", description="The column whose higher value stays; ties by pair_id.")
    keep: Literal["best", "all_captions"] = Field(
        "best",
        description="What stays of each set of duplicates: `best`, one pair; `all_captions`, one image with all its "
        "captions, which only kinds that compare images allow.",
    )

    @model_validator(mode="after")
    def _all_captions_of_images(self) -> Self:
        if self.keep == "all_captions" and (kind := self.of_captions):
            raise ValueError(
                f"keep: all_captions keeps captions of one image, but {kind.name} drops captions; keep best"
            )
        return self


def _keys() -> type[_AnyDuplicates]:
    about = "; ".join(f"{name}: {kind.about}" for name, kind in KINDS.items())
    by: Any = (Literal[tuple(KINDS)] | None, Field(None, description=f"Which are duplicates. {about}."))
    return create_model(
        "Duplicates", __base__=_AnyDuplicates, __doc__=_AnyDuplicates.__doc__, by=by, **fields_of_kinds()
    )


if TYPE_CHECKING:

    class DuplicatesKeys(_AnyDuplicates):
        """The model that `_keys` makes from the registry of kinds of duplicates."""
else:
    DuplicatesKeys = _keys()


class Duplicates(StepKind[DuplicatesKeys]):
    """Keeps the best of each set of duplicates (`curate.select.greedy`; of captions `curate.select.greedy_pairs`).

    Consecutive steps with the same `prefer` and `keep` are decided as one, by the first of them.
    """

    name = "duplicates"
    description = "Keep one of each set of duplicates."
    keys = DuplicatesKeys

    def check_recipe(self, steps: Sequence[Any], recipe: Any) -> None:
        """See `StepKind`: duplicates come last, agree on what stays, and need no pair that the search leaves out."""
        for step in steps:
            each = step.duplicates.each if step.duplicates else ()
            for number, one in enumerate(each):
                if fault := fault_of(one, recipe):
                    where = f"duplicates.all.{number}: " if step.duplicates.all else ""
                    raise ValueError(f"select step {step.drop!r}: {where}{fault}")
            # Once more, as the first model may be named by its name and as the default.
            if twice := named_twice(each):
                raise ValueError(f"select step {step.drop!r}: duplicates.all: {twice}")
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
            for key in _SHARED:
                own, others = getattr(step.duplicates, key), getattr(first.duplicates, key)
                if own != others:
                    raise ValueError(
                        f"select step {step.drop!r} {key}s {own}, but {first.drop!r} {key}s {others}; "
                        "steps with `duplicates` are decided as one and need the same"
                    )

    def with_models(self, value: DuplicatesKeys, models: Sequence[str]) -> DuplicatesKeys:
        """See `StepKind`."""
        return without_first_model(value, models)

    def near(self, step: Step[DuplicatesKeys]) -> Sequence[str]:
        """See `StepKind`."""
        return [kind.full_name for kind, _ in _near(step)]

    def columns(self, step: Step[DuplicatesKeys], known: Sequence[str]) -> list[str]:
        """See `StepKind`."""
        del known
        caption = ["caption"] if step.keys.keep == "all_captions" else []
        compared = [one.kind.compares.column for one in step.keys.each]
        names = [step.keys.prefer, *compared, *(kind.column for kind, _ in _near(step)), *caption]
        return list(dict.fromkeys(names))

    def check(self, step: Step[DuplicatesKeys], columns: Mapping[str, pa.DataType]) -> None:
        """See `StepKind`: the preferred column has an order, and there are captions where they are compared."""
        kind = step.column("duplicates.prefer", step.keys.prefer, columns)
        if pa.types.is_nested(kind):
            raise step.wrong(f"duplicates.prefer: {step.keys.prefer} is {kind}, which has no order")
        if step.keys.keep == "all_captions":
            step.column("duplicates.keep", "caption", columns)
        for one in step.keys.each:
            step.column("duplicates.by", one.kind.compares.column, columns)

    def expressions(self, step: Step[DuplicatesKeys]) -> Sequence[str]:
        """See `StepKind`: the preferred value, digests, and whether the image can be compared with near ones."""
        caption = [_CAPTION] if step.keys.keep == "all_captions" else []
        digests = [one.kind.compares.sql for one in step.keys.each]
        return [quoted(step.keys.prefer), *digests, *(_compared(kind) for kind, _ in _near(step)), *caption]

    def decide(self, step: Step[DuplicatesKeys], steps: Sequence[Step[Any]], rows: Survivors) -> Facts:
        """See `StepKind`."""
        prefer = step.keys.prefer
        digests = [rows.column(one.kind.compares.sql) for one in step.keys.each]
        values = [f"{digest} IS NOT NULL" for digest in digests]
        values += [rows.column(_compared(kind)) for kind, _ in _near(step)]
        facts: Facts = {
            "by": step.keys.by,
            "prefer": prefer,
            "keep": step.keys.keep,
            "columns": [prefer],
            "names_kept": True,
            "searches": [
                {
                    "by": kind.full_name,
                    "near": kind.search_pass,
                    "compares": kind.compares.name,
                    "threshold": threshold,
                    "measure": kind.measure,
                }
                for kind, threshold in _near(step)
            ],
            "kinds": [one.kind.full_name for one in step.keys.each],
            "nulls": rows.count(f"NOT ({' AND '.join(values)})"),
        }
        if not self._follows(step.number, steps):
            self._drop(self._together(step.number, steps), rows)
        rows.leave(f"id NOT IN (SELECT id FROM dropped WHERE step = {step.number})")
        return facts

    def words(self, step: Step[DuplicatesKeys], facts: Facts) -> Words:
        """See `StepKind`."""
        prefer, each = step.keys.prefer, step.keys.each
        kinds = [one.kind for one in each]
        by = " and ".join(code(kind.full_name) for kind in kinds)
        what = ", and ".join(one.kind.words(one.limits) for one in each)
        says, one, kept = f"keeps the one with the highest {prefer}", "one", "kept"
        if step.keys.keep == "all_captions":
            says = f"keeps the image with the highest {prefer}, with all its captions"
            one, kept = "one image", "kept with all its captions"
        return Words(
            f"{what}; {says}",
            f"all but {one} of each set of duplicates by {by} ({what}), best {code(prefer)} {kept}",
            without_value(facts["nulls"], "stay"),
        )

    def of_pair(self, step: Step[DuplicatesKeys], facts: Facts, pair: pa.Table, reason: str | None) -> str:
        """See `StepKind`."""
        del facts, pair
        return "drops it" if reason == step.name else "lets it pass"

    def _follows(self, number: int, steps: Sequence[Step[Any]]) -> bool:
        """Whether the step above is also of this kind and is decided as one with this step."""
        above = steps[number - 1] if number else None
        if above is None or above.kind is not self:
            return False
        return all(getattr(above.keys, key) == getattr(steps[number].keys, key) for key in _SHARED)

    def _together(self, number: int, steps: Sequence[Step[Any]]) -> Sequence[Step[DuplicatesKeys]]:
        """This step and those after it that are decided as one with it."""
        last = number
        while last + 1 < len(steps) and steps[last + 1].kind is self and self._follows(last + 1, steps):
            last += 1
        return steps[number : last + 1]

    def _drop(self, steps: Sequence[Step[DuplicatesKeys]], rows: Survivors) -> None:
        """Decides consecutive steps as one."""
        first = steps[0].keys
        value = rows.column(quoted(first.prefer))
        if any(step.keys.of_captions for step in steps):
            greedy_pairs.drop(rows, [_conditions(step, rows) for step in steps], value)
            return
        caption = rows.column(_CAPTION) if first.keep == "all_captions" else None
        greedy.drop(rows, [_reach(step) for step in steps], value, rows.column(IMAGE.sql), caption)


def fault_of(one: AnyKind, recipe: Any) -> str:
    """One line about a kind that does not fit the recipe's models or its searches; '' where it does."""
    kind = one.kind
    if not isinstance(kind, NearKind):
        return ""
    if kind.model and kind.model not in recipe.models:
        return f"there is no model {kind.model!r}{nearest(kind.model, recipe.models)}"
    model = kind.model or next(iter(recipe.models))
    if kind.reads_texts and not recipe.models[model].has_text:
        no_text = f"the model {model!r} has no text tower (torchscript)"
        return f"{kind.name} compares captions, and {no_text}; name another model"
    return kind.not_searched(one.limits, recipe.dedup)


_SHARED = ("prefer", "keep")
"""The keys that steps need to have in common to be decided as one."""

_CAPTION = "sha256(caption)"
"""SQL for what tells captions apart; texts do not enter the funnel's database."""


def _compared(kind: NearKind) -> str:
    """SQL for whether a pair can be compared."""
    return f"{quoted(kind.column)} IS NOT NULL"


def _near(step: Step[DuplicatesKeys]) -> list[tuple[NearKind, float]]:
    """The kinds of a step that have a search, with the similarities at or above which pairs are duplicates."""
    return [(one.kind, one.kind.threshold(one.limits)) for one in step.keys.each if isinstance(one.kind, NearKind)]


def _reach(step: Step[DuplicatesKeys]) -> Reach:
    return Reach(step.number, {kind.search_pass: threshold for kind, threshold in _near(step)})


def _conditions(step: Step[DuplicatesKeys], rows: Survivors) -> greedy_pairs.Duplicates:
    conditions = []
    for one in step.keys.each:
        digest = rows.column(one.kind.compares.sql)
        if isinstance(one.kind, NearKind):
            condition = greedy_pairs.Condition(digest, one.kind.search_pass, one.kind.threshold(one.limits))
        else:
            condition = greedy_pairs.Condition(digest)
        conditions.append(condition)
    return greedy_pairs.Duplicates(step.number, conditions)


STEP = Duplicates()
