"""The contract of a step kind, between a recipe, the funnel and the kind's module."""

# ruff: noqa: S608 - statements are put together from our own words and from conditions that were checked

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import pyarrow as pa

from curate.against import Comparison
from curate.errors import RecipeError, nearest
from curate.select.database import connect
from curate.select.survivors import Survivors

K = TypeVar("K")

Facts = dict[str, Any]
"""The facts of a step in `funnel.json`; JSON-able. `funnel.FACTS` names those that every step has."""


@dataclass(frozen=True)
class Step(Generic[K]):
    """A step of a funnel.

    Attributes:
        number: its place in the funnel, from 0.
        name: the drop reason of the pairs that it drops.
        kind: its kind.
        keys: the value in the recipe under the kind's name.
        beside: the kind's further keys at the level of the step, with their values.
    """

    number: int
    name: str
    kind: "StepKind[K]"
    keys: K
    beside: Mapping[str, Any]

    def wrong(self, what: str) -> RecipeError:
        """An error about this step, in one line that names it."""
        return RecipeError(f"select step {self.name!r}: {what}")

    def column(self, key: str, name: str, columns: Mapping[str, pa.DataType]) -> pa.DataType:
        """The type of a column that a key names. Raises RecipeError where there is none, naming the nearest."""
        if name not in columns:
            raise self.wrong(f"{key}: there is no column {name!r}{nearest(name, columns)}")
        return columns[name]


@dataclass(frozen=True)
class Words:
    """The description of a decided step, each text on one line.

    Attributes:
        says: what the step does, with the threshold that it found.
        rule: what it drops, in Markdown (`code` for names and SQL), for the column `drops` of the dataset card.
        without: what happened to rows without a value; '' where there are none.
        is_code: whether `says` is SQL.
    """

    says: str
    rule: str
    without: str = ""
    is_code: bool = False


class StepKind(ABC, Generic[K]):
    """A kind of step: its recipe keys, the columns that it reads, its decision, and its description.

    A module of `curate.select.steps` offers one as `STEP`; another package brings one through an entry point of the
    group `curate.steps`. A step's decision depends on the rows alone, so every order that it uses has to be total.

    Attributes:
        name: the key by which a recipe's step requests it.
        version: raised when it would decide differently on the same rows; part of select's fingerprint.
        description: of that key, as in docs/recipes.md.
        beside: further keys at the level of the step: a type and a pydantic `Field` with a default for each.
        names_items: whether a dropped pair names the item of a set that it matches (the table `matched`).
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    description: ClassVar[str]
    beside: ClassVar[Mapping[str, tuple[Any, Any]]] = {}
    names_items: ClassVar[bool] = False

    @property
    @abstractmethod
    def keys(self) -> Any:
        """The type of the value under the kind's name: a model based on `curate.keys.Keys`, or a plain type."""

    def check_recipe(self, steps: Sequence[Any], recipe: Any) -> None:
        """Checks conditions between several steps, or between a step and another section; called once per recipe.

        Args:
            steps: all steps of the recipe, of every kind (`curate.recipe.Step`); a step of this kind has an attribute
                with the kind's name that is not None.
            recipe: the whole recipe (`curate.recipe.Recipe`).

        Raises:
            ValueError: a condition does not hold; one line, which names the step.
        """

    def with_models(self, value: Any, models: Sequence[str]) -> Any:
        """Returns the value under the kind's name with its models resolved; called once per recipe, before any check.

        A step that names the first model and one that names none are then the same step, with the same fingerprint.

        Args:
            value: of the type `keys`.
            models: the short names of the recipe's models, the first one first.
        """
        del models
        return value

    def near(self, step: Step[K]) -> Sequence[str]:
        """The names of the searches whose near pairs a step reads (`NearKind.full_name`, `Survivors.near`)."""
        del step
        return ()

    def against(self, step: Step[K]) -> Sequence[Comparison]:
        """Returns what a step compares with sets of the recipe's section `against` (`Survivors.sets`)."""
        del step
        return ()

    @abstractmethod
    def columns(self, step: Step[K], known: Sequence[str]) -> list[str]:
        """The columns of a pair that a step reads.

        Args:
            step: of this kind.
            known: the names of all columns.
        """

    @abstractmethod
    def check(self, step: Step[K], columns: Mapping[str, pa.DataType]) -> None:
        """Checks a step before the run, against the columns that the run will have.

        Raises:
            RecipeError: the step cannot be computed on these columns; one line (`Step.wrong`).
        """

    @abstractmethod
    def expressions(self, step: Step[K]) -> Sequence[str]:
        """SQL over the columns of one row, computed and stored as rows come in; NULL for rows that no step sees."""

    @abstractmethod
    def decide(self, step: Step[K], steps: Sequence[Step[Any]], rows: Survivors) -> Facts:
        """Drops rows; returns the step's facts, without `seen` and `dropped`.

        Args:
            step: the step to decide.
            steps: the whole funnel; those above it have been decided.
            rows: the rows that those have not dropped.
        """

    @abstractmethod
    def words(self, step: Step[K], facts: Facts) -> Words:
        """Describes a decided step."""

    @abstractmethod
    def of_pair(self, step: Step[K], facts: Facts, pair: pa.Table, reason: str | None) -> str:
        """Describes in a few words what a decided step does with one pair, for `curate explain`.

        Args:
            step: of this kind.
            facts: the step's facts in `funnel.json`.
            pair: one row with the columns of the run, with their types in predicates.
            reason: the step that dropped the pair, or None.
        """


class RowWise(StepKind[K]):
    """A kind of step that decides on each row by itself; `decisions.reasons` names each such step that drops a row."""

    @abstractmethod
    def condition(self, step: Step[K]) -> str:
        """SQL over the columns of one row: TRUE drops the row; NULL counts as missing and lets it pass."""

    def expressions(self, step: Step[K]) -> Sequence[str]:
        """See `StepKind`: the condition."""
        return (self.condition(step),)

    def decide(self, step: Step[K], steps: Sequence[Step[Any]], rows: Survivors) -> Facts:
        """See `StepKind`."""
        del steps
        verdict = rows.column(self.condition(step))
        facts = {"nulls": rows.count(f"{verdict} IS NULL"), "would_drop": rows.count(verdict, pool=True)}
        rows.drop(step.number, verdict)
        return facts

    def of_pair(self, step: Step[K], facts: Facts, pair: pa.Table, reason: str | None) -> str:
        """See `StepKind`."""
        del facts, reason
        with connect() as con:
            # Only the columns that it names: a source may have columns of types that DuckDB does not know.
            named = pair.select(self.columns(step, pair.column_names))
            con.register("pairs", named.append_column("", pa.array([0])))
            ((drops,),) = con.execute(f"SELECT {self.condition(step)} FROM pairs").fetchall()
        if drops is None:
            return "has no value, lets it pass"
        return "drops it" if drops else "lets it pass"


def code(text: str) -> str:
    """A Markdown code span of the text, on one line."""
    line = " ".join(text.split())
    # A code span that holds a backtick is fenced by two.
    return f"`` {line} ``" if "`" in line else f"`{line}`"


def without_value(nulls: int, rest: str) -> str:
    """A phrase about rows without a value, such as `12 without a value drop`; '' where there are none."""
    return f"{nulls:,} without a value {rest}" if nulls else ""
