"""`matches`: drops the pairs whose image matches an item of a set, such as an evaluation set (decontamination)."""

# ruff: noqa: S608 - statements are put together from our own words

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, create_model

from curate.against import Comparison, fault, file_kinds
from curate.duplicates import KINDS, DuplicateKind, NearKind
from curate.keys import Name
from curate.select.database import quoted
from curate.select.steps.contract import Facts, Step, StepKind, Words, code, without_value
from curate.select.steps.duplicates import ByOrAll, fault_of, fields_of_kinds, named_twice, without_first_model
from curate.select.survivors import Survivors


class _AnyMatches(ByOrAll):
    """Keys that say which set images are compared with, and when they match."""

    set: Name = Field(description="The name of a set of the section `against`.")


def _keys() -> type[_AnyMatches]:
    names = tuple(file_kinds())
    about = "; ".join(f"{name}: {KINDS[name].about}" for name in names)
    by: Any = (Literal[names] | None, Field(None, description=f"Which images match an item. {about}."))
    return create_model("Matches", __base__=_AnyMatches, __doc__=_AnyMatches.__doc__, by=by, **fields_of_kinds())


if TYPE_CHECKING:

    class MatchesKeys(_AnyMatches):
        """The model that `_keys` makes from the registry of kinds of duplicates."""
else:
    MatchesKeys = _keys()


class Matches(StepKind[MatchesKeys]):
    """Drops every pair whose image matches an item of a set, whatever its rank; names the item that it is most like.

    Its facts are `items`, the number of items that are matched, and `against`, a list with for each kind of duplicate:
    `set`; `by`, the kind; `measure`, the name of its similarity, and `threshold`, the similarity at or above which
    images match (null where equal values do); `searched`, all pairs of an image and an item, each of which was compared
    or excluded by a bound (null where no search is needed).
    """

    name = "matches"
    description = "Drop pairs whose image matches an item of a set."
    keys = MatchesKeys
    names_items = True

    def check_recipe(self, steps: Sequence[Any], recipe: Any) -> None:
        """See `StepKind`: the set exists, has values of the kind, and the search finds matches that low."""
        used = set()
        for step in steps:
            if step.matches is None:
                continue
            used.add(step.matches.set)
            kinds = [one.kind.name for one in step.matches.each]
            if wrong := fault(step.matches.set, kinds, recipe.against):
                raise ValueError(f"select step {step.drop!r}: {wrong}")
            if step.matches.all and not recipe.against[step.matches.set].is_of_images:
                raise ValueError(
                    f"select step {step.drop!r}: matches.all: the values in files of against.{step.matches.set} do not "
                    "say which of them belong to one image; write one step for each kind"
                )
            for one in step.matches.each:
                if wrong := fault_of(one, recipe):
                    raise ValueError(f"select step {step.drop!r}: {wrong}")
            # Once more, as the first model may be named by its name and as the default.
            if twice := named_twice(step.matches.each):
                raise ValueError(f"select step {step.drop!r}: matches.all: {twice}")
        if unused := sorted(set(recipe.against) - used):
            raise ValueError(
                f"against.{unused[0]}: no step compares with it; add one, such as {{drop: {unused[0]}, matches: "
                f"{{set: {unused[0]}, by: …}}}}, or leave the set out"
            )

    def with_models(self, value: MatchesKeys, models: Sequence[str]) -> MatchesKeys:
        """See `StepKind`."""
        return without_first_model(value, models)

    def against(self, step: Step[MatchesKeys]) -> Sequence[Comparison]:
        """See `StepKind`."""
        return [Comparison(step.keys.set, one.kind, every=len(step.keys.each) > 1) for one in step.keys.each]

    def columns(self, step: Step[MatchesKeys], known: Sequence[str]) -> list[str]:
        """See `StepKind`."""
        del known
        return ["sha256", *(one.kind.column for one in step.keys.each if isinstance(one.kind, NearKind))]

    def check(self, step: Step[MatchesKeys], columns: Mapping[str, pa.DataType]) -> None:
        """See `StepKind`: nothing depends on the columns."""

    def expressions(self, step: Step[MatchesKeys]) -> Sequence[str]:
        """See `StepKind`: digests, and whether the image can be compared."""
        return ["sha256", _compared(step)]

    def decide(self, step: Step[MatchesKeys], steps: Sequence[Step[Any]], rows: Survivors) -> Facts:
        """See `StepKind`."""
        del steps
        name = step.keys.set
        facts: Facts = {
            "nulls": rows.count(f"NOT {rows.column(_compared(step))}"),
            "against": [
                {
                    "set": name,
                    "by": one.kind.full_name,
                    "measure": one.kind.measure if isinstance(one.kind, NearKind) else None,
                    "threshold": one.kind.threshold(one.limits) if isinstance(one.kind, NearKind) else None,
                    "searched": rows.sets.searched(name, one.kind.full_name),
                }
                for one in step.keys.each
            ],
        }
        for number, one in enumerate(step.keys.each):
            _load(rows, f"found_{number}", name, one.kind, facts["against"][number]["threshold"])
        first, *others = [f"found_{number}" for number in range(len(step.keys.each))]
        # Of several items, a pair names the one that its image is most like by the first kind.
        rows.do(
            f"""CREATE OR REPLACE TABLE best AS SELECT image, item, {first}.similarity
            FROM {" JOIN ".join([first, *(f"{other} USING (image, item)" for other in others)])}
            QUALIFY row_number() OVER (PARTITION BY image ORDER BY {first}.similarity DESC, item) = 1"""
        )
        digest = rows.column("sha256")
        rows.do(
            f"""CREATE OR REPLACE TABLE hit AS SELECT id, item, similarity
            FROM alive JOIN best ON alive.{digest} = best.image"""
        )
        facts["items"] = rows.number("SELECT count(DISTINCT item) FROM hit")
        _name(rows, name, step.keys.each[0].kind.full_name)
        rows.do(f"INSERT INTO dropped SELECT id, {step.number}, NULL, NULL, NULL FROM hit")
        rows.do(f"INSERT INTO matched SELECT id, '{name}', called, similarity FROM hit JOIN called USING (item)")
        rows.leave("id NOT IN (SELECT id FROM hit)")
        for table in (first, *others, "best", "hit", "called"):
            rows.do(f"DROP TABLE {table}")
        return facts

    def words(self, step: Step[MatchesKeys], facts: Facts) -> Words:
        """See `StepKind`."""
        what, by = _what(step), " and ".join(code(one.kind.full_name) for one in step.keys.each)
        count = facts["items"]
        items = f"{count:,} of its items {'is' if count == 1 else 'are'} matched"
        return Words(
            f"{what}, compared with the set {step.keys.set}; {items}",
            f"every pair whose image matches an item of the set {code(step.keys.set)} by {by} ({what}); {items}",
            without_value(facts["nulls"], "stay"),
        )

    def of_pair(self, step: Step[MatchesKeys], facts: Facts, pair: pa.Table, reason: str | None) -> str:
        """See `StepKind`."""
        del facts, pair
        return "drops it" if reason == step.name else "lets it pass"


def _what(step: Step[MatchesKeys]) -> str:
    return ", and ".join(one.kind.words(one.limits) for one in step.keys.each)


def _compared(step: Step[MatchesKeys]) -> str:
    """SQL for whether a pair's image can be compared by all kinds of a step."""
    near = [one.kind.column for one in step.keys.each if isinstance(one.kind, NearKind)]
    return "(" + " AND ".join(f"{quoted(column)} IS NOT NULL" for column in ["sha256", *near]) + ")"


def _load(rows: Survivors, table: str, name: str, kind: DuplicateKind, threshold: float | None) -> None:
    """Stores the matches of a set by a kind: image and item as hex digests, and the similarity."""
    rows.do(f"CREATE OR REPLACE TABLE {table} (image VARCHAR, item VARCHAR, similarity DOUBLE)")
    if isinstance(kind, NearKind):
        for found in rows.sets.matches(name, kind.full_name):
            rows.con.register("arrived", found.filter(pc.greater_equal(found["similarity"], threshold)))
            rows.do(f"INSERT INTO {table} SELECT lower(hex(image)), lower(hex(item)), similarity FROM arrived")
            rows.con.unregister("arrived")
        return
    digest = rows.column("sha256")
    for items in rows.sets.items(name, kind.name):
        rows.con.register("arrived", items.select(["item"]))
        # Only those that an image has: a set may have more items than the run has images.
        rows.do(
            f"""INSERT INTO {table} SELECT lower(hex(item)), lower(hex(item)), 1.0 FROM arrived
            WHERE lower(hex(item)) IN (SELECT {digest} FROM alive)"""
        )
        rows.con.unregister("arrived")


def _name(rows: Survivors, name: str, kind: str) -> None:
    """Stores what the items that are hit are called, in `called`."""
    rows.do("CREATE OR REPLACE TABLE called (item VARCHAR, called VARCHAR)")
    for items in rows.sets.items(name, kind):
        rows.con.register("arrived", items)
        hit = rows.con.sql(
            "SELECT lower(hex(item)) AS item, id FROM arrived WHERE lower(hex(item)) IN (SELECT item FROM hit)"
        ).to_arrow_table()
        rows.con.unregister("arrived")
        if hit.num_rows:
            ids = hit["id"].combine_chunks().cast(pa.binary())
            rows.con.register("named", pa.table({"item": hit["item"], "called": rows.sets.named(name, kind, ids)}))
            rows.do("INSERT INTO called SELECT item, called FROM named")
            rows.con.unregister("named")


STEP = Matches()
