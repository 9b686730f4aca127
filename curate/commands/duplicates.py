"""`curate duplicates`: lists the groups of duplicates that a run's decisions dropped, or the group of one pair."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from curate import schema
from curate.columns import PairColumns
from curate.columns import read as read_columns
from curate.commands.find_pairs import rows
from curate.duplicates import compared_columns, likeness
from curate.errors import UsageError, counted
from curate.report.groups import Group, Member, farthest, gather, largest, members, naming
from curate.report.survey import Place
from curate.report.terminal import plain
from curate.runs.latest import newest
from curate.side_by_side import side_by_side
from curate.store import WHOLE, Folder, Inputs, Json, Store

FEW = 3
"""Members of a group that the list names for each step."""

URL_LIMIT, CAPTION_LIMIT = 200, 140
"""Characters of a URL and of a caption that are printed."""


def listed(store: Store, limit: int, sample: float | None = None) -> Iterator[str]:
    """Yields lines about the largest groups, the largest first.

    Args:
        store: the run.
        limit: groups, at most.
        sample: the share of the sample to read, or None for the whole run.

    Raises:
        UsageError: nothing is decided yet, there is no such sample, or no step of the run drops duplicates.
    """
    run = _Decided.of(store, sample)
    (ranking,) = largest(run.select, run.parts, [run.naming], limit)
    if not ranking.groups:
        yield f"no pair was dropped as a duplicate by {', '.join(map(plain, run.naming))}"
        return
    shown = "" if len(ranking.largest) == ranking.groups else f"; the {len(ranking.largest):,} largest:"
    yield f"{counted(ranking.members, 'pair')} dropped, in {counted(ranking.groups, 'group')} of duplicates{shown}"
    groups = gather(run.select, run.parts, [size.kept for size in ranking.largest], FEW)
    facts = run.facts([place for group in groups.values() for place in _places(group)])
    for size in ranking.largest:
        group = groups[size.kept]
        few = [member for name in run.naming if name in group.caught for member in group.caught[name].least_alike]
        yield ""
        yield from run.about(group, facts)
        for member in few:
            yield run.line(member, facts[group.place], facts[member.place])
        if hidden := group.members - len(few):
            yield f"  … and {hidden:,} more: curate duplicates {store.url} {group.kept.hex()}"


def of_pair(store: Store, wanted: str, sample: float | None = None) -> Iterator[str]:
    """Yields lines about the group of a pair, with all its members; a URL stands for all of its pairs.

    Args:
        store: the run.
        wanted: a pair id, an id prefix, or a URL.
        sample: the share of the sample to read, or None for the whole run.

    Raises:
        UsageError: as for `listed`; or the pair does not exist, is ambiguous, or is in no group.
    """
    run = _Decided.of(store, sample)
    found = [Place(*place) for place in rows(run.folders["plan"], wanted)]
    decisions = [decision for place in found if (decision := run.decision(place))]
    named = [decision["duplicate_of"] or decision["pair_id"] for decision in decisions if _may_be_in_one(decision)]
    groups = gather(run.select, run.parts, set(named), 1)
    groups = {kept: group for kept, group in groups.items() if group.members}
    if not groups:
        raise UsageError(f"{plain(wanted)} is in no group of duplicates: {run.why_not(found, decisions)}")
    for number, (kept, group) in enumerate(groups.items()):
        if number:
            yield ""
        for decision in decisions:
            if decision["pair_id"] == kept:
                yield f"pair        {kept.hex()} is the kept pair of this group"
            elif decision["duplicate_of"] == kept:
                yield f"pair        {decision['pair_id'].hex()} was dropped by {plain(decision['reason'])}"
        facts = run.facts(_places(group))
        yield from run.about(group, facts)
        # A group may be in all parts of the run.
        found_members = (some for some in members(run.select, run.parts, kept) if some)
        for some, of_part in side_by_side(run.with_facts, found_members):
            for member in some:
                yield run.line(member, facts[group.place], of_part[member.place])


def _places(group: Group) -> Iterator[Place]:
    yield group.place
    for caught in group.caught.values():
        yield from (member.place for member in caught.least_alike)


def _may_be_in_one(decision: Mapping[str, Any]) -> bool:
    return bool(decision["kept"] or decision["duplicate_of"])


_Facts = Mapping[Place, Mapping[str, Any]]
"""Columns of the rows at some places."""


@dataclass(frozen=True)
class _Decided:
    """A run's newest decisions."""

    store: Store
    folders: dict[str, Folder]
    decided: Json

    @classmethod
    def of(cls, store: Store, sample: float | None) -> "_Decided":
        """Returns the decisions. Raises UsageError where there are none, or no step drops duplicates."""
        decided = newest(store, sample)
        if not decided:
            raise UsageError(f"{store.url}: no decisions yet; `curate status` shows the progress of the run")
        run = cls(store, {short: Folder.at(store, path) for short, path in decided["folders"].items()}, decided)
        if not run.naming:
            raise UsageError(f"{store.url}: no step of its recipe drops duplicates; add a step with `duplicates`")
        return run

    @property
    def select(self) -> Folder:
        """The folder of the decisions."""
        return self.folders["select"]

    @cached_property
    def parts(self) -> list[int]:
        """The parts that were decided."""
        return [part for part in range(self.decided["parts"]) if part not in set(self.decided["missing_parts"])]

    @cached_property
    def steps(self) -> dict[str, Json]:
        """The facts of every step by its name, in the order of the funnel."""
        return {step["name"]: step for step in self.select.json("funnel.json", WHOLE)["steps"]}

    @cached_property
    def naming(self) -> list[str]:
        """The names of the steps that drop duplicates."""
        return naming(list(self.steps.values()))

    @cached_property
    def columns(self) -> PairColumns:
        """The columns of the run that decided, as the recipe may have changed since."""
        return PairColumns.from_json(self.select.json("columns.json"))

    def decision(self, place: Place) -> dict[str, Any] | None:
        """Returns the decision on a row; None where its part was not decided."""
        if place.part not in self.parts:
            return None
        names = ["pair_id", *self.columns.decisions()]
        return self._rows(place.part, names, [place.row])[0]

    def why_not(self, places: Sequence[Place], decisions: Sequence[Mapping[str, Any]]) -> str:
        """Returns why none of these rows is in a group."""
        if not decisions:
            part = places[0].part
            missing = part in self.decided["missing_parts"]
            return "its part is missing from this result" if missing else "its part is not in this sample"
        reasons = list(dict.fromkeys(decision["reason"] for decision in decisions))
        first = next((reason for reason in reasons if reason != schema.REPEATED), reasons[0])
        if first is None:
            return "it was kept, and no pair was dropped in favour of it"
        return f"it was dropped by {plain(first)}"

    def about(self, group: Group, facts: _Facts) -> Iterator[str]:
        """Yields lines about a group and its kept pair, with the facts of its places."""
        kept = facts[group.place]
        yield f"kept        {group.kept.hex()}, with {counted(group.members, 'member')}"
        yield f"url         {plain(kept['url'], URL_LIMIT)}"
        if "caption" in kept:
            yield f"caption     {plain(kept['caption'], CAPTION_LIMIT)}"
        for name in self.naming:
            if caught := group.caught.get(name):
                least = caught.least_alike[0]
                said = farthest(self._likeness(least, kept, facts[least.place]))
                yield f"dropped by  {plain(name)}: {caught.members:,}{said and ', '}{said}"

    def line(self, member: Member, kept: Mapping[str, Any], row: Mapping[str, Any]) -> str:
        """Returns the line about a member; `kept` and `row` are the facts of the kept pair and of the member."""
        alike, url = self._likeness(member, kept, row), plain(row["url"], URL_LIMIT)
        return f"  {member.pair.hex()}  {plain(member.step):<16} {alike:<24} {url}".rstrip()

    def _likeness(self, member: Member, kept: Mapping[str, Any], row: Mapping[str, Any]) -> str:
        return likeness(self.steps[member.step], member.similarity, row, kept)

    def with_facts(self, some: list[Member]) -> tuple[list[Member], _Facts]:
        """Returns members of one part, and their facts."""
        return some, self._of_part(some[0].place.part, [member.place for member in some])

    def facts(self, places: Iterable[Place]) -> _Facts:
        """Returns what is printed of the rows at these places: URL and caption, and what duplicates are compared by."""
        by_part: defaultdict[int, list[Place]] = defaultdict(list)
        for place in dict.fromkeys(places):
            by_part[place.part].append(place)
        found: dict[Place, Mapping[str, Any]] = {}
        for rows_of_part in side_by_side(lambda part: self._of_part(part, by_part[part]), sorted(by_part)):
            found |= rows_of_part
        return found

    def _of_part(self, part: int, places: Sequence[Place]) -> dict[Place, Mapping[str, Any]]:
        known = self.columns.types()
        names = [name for name in dict.fromkeys(("url", "caption", *compared_columns(known))) if name in known]
        found = self._rows(part, names, [place.row for place in places])
        return dict(zip(places, found, strict=True))

    def _rows(self, part: int, names: Sequence[str], chosen: Sequence[int]) -> list[dict[str, Any]]:
        inputs = Inputs(self.folders, [part])
        found: list[dict[str, Any]] = read_columns(inputs, self.columns, part, names, chosen).to_pylist()
        return found
