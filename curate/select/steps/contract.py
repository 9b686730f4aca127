"""What a step kind is: the contract between a recipe, the funnel and the module of a step kind."""

# ruff: noqa: S608 - statements are put together from our own words and from conditions that were checked

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import pyarrow as pa

from curate.errors import RecipeError, nearest
from curate.select.database import connect
from curate.select.survivors import Survivors

K = TypeVar("K")

Facts = dict[str, Any]
"""What `funnel.json` holds of a step; JSON-able. `funnel.FACTS` names those that every step has."""


@dataclass(frozen=True)
class Step(Generic[K]):
    """A step of a funnel, as its kind sees it.

    Attributes:
        number: its place in the funnel, from 0.
        name: the reason that its dropped pairs carry.
        kind: what it is.
        keys: what the recipe says under the kind's name.
        beside: the kind's further keys at the level of the step, with their values.
    """

    number: int
    name: str
    kind: "StepKind[K]"
    keys: K
    beside: Mapping[str, Any]

    def wrong(self, what: str) -> RecipeError:
        """The error that something is wrong with this step."""
        return RecipeError(f"select step {self.name!r}: {what}")

    def column(self, key: str, name: str, columns: Mapping[str, pa.DataType]) -> pa.DataType:
        """The type of a column that a key names. Raises RecipeError where there is none, naming the nearest."""
        if name not in columns:
            raise self.wrong(f"{key}: there is no column {name!r}{nearest(name, columns)}")
        return columns[name]


@dataclass(frozen=True)
class Words:
    """A decided step in words: one line each.

    Attributes:
        says: what the step does, and where its threshold fell.
        rule: what it drops, in Markdown (`code` for names and SQL), for the column `drops` of the dataset card.
        without: what became of rows without a value; '' where there are none.
        is_code: whether `says` is SQL.
    """

    says: str
    rule: str
    without: str = ""
    is_code: bool = False


class StepKind(ABC, Generic[K]):
    """A kind of step: its recipe keys, what it reads of a row, how it decides, and its words.

    A module of `curate.select.steps` offers one as `STEP`; another package brings one through an entry point of the
    group `curate.steps`. What a step decides is a function of the rows alone: every order that it asks for is total.

    Attributes:
        name: the key of a recipe's step that stands for it.
        version: raised when it would decide otherwise on the same rows; it is part of select's fingerprint.
        description: of that key, as docs/recipes.md has it.
        beside: further keys at the level of the step: a type and a pydantic `Field` with a default for each.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    description: ClassVar[str]
    beside: ClassVar[Mapping[str, tuple[Any, Any]]] = {}

    @property
    @abstractmethod
    def keys(self) -> Any:
        """The type of what the recipe says under the name: a model based on `curate.keys.Keys`, or a plain type."""

    def check_recipe(self, steps: Sequence[Any], recipe: Any) -> None:
        """Checks what joins several steps, or a step and another section; called once for every recipe.

        Args:
            steps: all of the recipe, of whatever kind (`curate.recipe.Step`); those of this kind have its name as an
                attribute that is not None.
            recipe: the whole of it (`curate.recipe.Recipe`).

        Raises:
            ValueError: in one line, which names the step.
        """

    def near(self, step: Step[K]) -> Sequence[str]:
        """The kinds of duplicates whose near pairs a step reads (`Survivors.near`)."""
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
            RecipeError: in one line (`Step.wrong`).
        """

    @abstractmethod
    def expressions(self, step: Step[K]) -> Sequence[str]:
        """SQL over the columns of one row, computed and stored as rows come in; NULL for rows that no step sees."""

    @abstractmethod
    def decide(self, step: Step[K], steps: Sequence[Step[Any]], rows: Survivors) -> Facts:
        """Drops rows; returns the step's facts, without `seen` and `dropped`.

        Args:
            step: the one that is decided.
            steps: the whole funnel; those above it have been decided.
            rows: what they left.
        """

    @abstractmethod
    def words(self, step: Step[K], facts: Facts) -> Words:
        """The decided step in words."""

    @abstractmethod
    def of_pair(self, step: Step[K], facts: Facts, pair: pa.Table, reason: str | None) -> str:
        """What a decided step says of one pair, in a few words, for `curate explain`.

        Args:
            step: of this kind.
            facts: what `funnel.json` holds of it.
            pair: one row with the columns of the run, as predicates see them.
            reason: the step that dropped the pair, or None.
        """


class RowWise(StepKind[K]):
    """A kind of step that looks at one row at a time; `decisions.reasons` names such steps also where another drops."""

    @abstractmethod
    def condition(self, step: Step[K]) -> str:
        """SQL over the columns of one row: TRUE drops it, NULL is no value and lets it pass."""

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
            # Only what it names: a source may have columns of types that DuckDB does not know.
            named = pair.select(self.columns(step, pair.column_names))
            con.register("pairs", named.append_column("", pa.array([0])))
            ((drops,),) = con.execute(f"SELECT {self.condition(step)} FROM pairs").fetchall()
        if drops is None:
            return "has no value, lets it pass"
        return "drops it" if drops else "lets it pass"


def code(text: str) -> str:
    """Text as a Markdown code span of one line."""
    line = " ".join(text.split())
    # A code span that holds a backtick is fenced by two.
    return f"`` {line} ``" if "`" in line else f"`{line}`"


def without_value(nulls: int, rest: str) -> str:
    """What becomes of rows without a value, such as `12 without a value drop`; '' where there are none."""
    return f"{nulls:,} without a value {rest}" if nulls else ""
