"""How often a run's decisions were right, held against the demo's truth table.

How it is used:

    score = evaluate(decisions, pq.read_table("demo/truth.parquet"))
    score.must_keep_recall, score.must_drop_recall, score.kept_clean_share
    score.steps["mismatched"].right
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

from curate.errors import UsageError
from curate.schema import REPEATED

Decision = tuple[bytes, bool, str | None]
"""pair_id, kept, and the reason where it was not kept."""

Verdict = Literal["right", "wrong", "may"]


@dataclass
class StepScore:
    """What one reason dropped, in rows: `dropped` = `right` + `wrong` + `may`.

    Attributes:
        dropped: All rows that went for this reason.
        right: Of these, rows that had to go, or copies of a row that stays.
        wrong: Rows that had to stay, or the last of a group of copies.
        may: Rows that may go or stay.
        by_kind: `dropped` by what was planted (`curate.demo.kinds`).
    """

    dropped: int = 0
    right: int = 0
    wrong: int = 0
    may: int = 0
    by_kind: Counter[str] = field(default_factory=Counter)


@dataclass
class Evaluation:
    """A run's decisions, judged. All counts are rows; each decided row is in exactly one of the must and may.

    A group of copies counts as one row that must stay and, for the others, rows that must go.

    Attributes:
        rows: Rows decided upon.
        undecided: Rows of the list on which there is no decision, as their part is missing.
        kept: `kept_right` + `kept_wrong` + `kept_may`.
        kept_right: Kept rows that had to stay.
        kept_wrong: Kept rows that had to go: the sum of `missed`.
        kept_may: Kept rows that may stay or go.
        must_keep: Rows that had to stay.
        must_drop: Rows that had to go.
        missed: `kept_wrong` by what was planted.
        groups: Groups of copies of which every row was decided upon.
        groups_without: Groups of which none is kept.
        groups_with_several: Groups of which more than one is kept.
        steps: By reason, in no order that means anything.
    """

    rows: int = 0
    undecided: int = 0
    kept_right: int = 0
    kept_wrong: int = 0
    kept_may: int = 0
    must_keep: int = 0
    must_drop: int = 0
    missed: Counter[str] = field(default_factory=Counter)
    groups: int = 0
    groups_without: int = 0
    groups_with_several: int = 0
    steps: dict[str, StepScore] = field(default_factory=dict)

    @property
    def kept(self) -> int:
        """Rows kept."""
        return self.kept_right + self.kept_wrong + self.kept_may

    @property
    def must_keep_recall(self) -> float:
        """Share of the rows that had to stay which did, 0 to 1; 1 where there are none."""
        return self.kept_right / self.must_keep if self.must_keep else 1.0

    @property
    def must_drop_recall(self) -> float:
        """Share of the rows that had to go which did, 0 to 1; 1 where there are none."""
        return 1.0 - self.kept_wrong / self.must_drop if self.must_drop else 1.0

    @property
    def kept_clean_share(self) -> float:
        """Share of the kept rows that did not have to go, 0 to 1; 1 where nothing is kept."""
        return 1.0 - self.kept_wrong / self.kept if self.kept else 1.0

    @property
    def listed_clean_share(self) -> float:
        """The same share of the list as it came, to compare with."""
        return 1.0 - self.must_drop / self.rows if self.rows else 1.0

    def to_json(self) -> dict[str, Any]:
        """The counts, for the report; shares are made of them there."""
        # asdict would rebuild each Counter from its items, and count those.
        counts = {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}
        steps = {reason: {**vars(step), "by_kind": dict(step.by_kind)} for reason, step in self.steps.items()}
        return {**counts, "steps": steps}


@dataclass(slots=True)
class _Judged:
    """A row of the truth table and what was decided on it."""

    kind: str
    truth: str
    expected: str | None
    group: int | None
    copy_of: str | None
    decided: bool = False
    kept: bool = False
    reason: str = ""


def evaluate(decisions: Iterable[Decision], truth: pa.Table) -> Evaluation:
    """Holds decisions against the truth.

    Args:
        decisions: In any order, one per row of the list; a list with missing parts may lack some.
        truth: The table that `Corpus.write` left (`curate.demo.corpus.TRUTH_SCHEMA`).

    Raises:
        UsageError: a decision is on a pair that the truth table does not hold, or on one more than it holds.
    """
    rows = _decided(decisions, truth)
    score = Evaluation(undecided=sum(not row.decided for row in rows))
    groups: defaultdict[int, list[_Judged]] = defaultdict(list)
    for row in rows:
        if row.group is not None:
            groups[row.group].append(row)
        elif row.decided:
            _count(score, row, _alone(row))
    for members in groups.values():
        members.sort(key=lambda row: row.copy_of is not None)
        for row, verdict in _judge_group(score, members):
            _count(score, row, verdict)
    return score


def _decided(decisions: Iterable[Decision], truth: pa.Table) -> list[_Judged]:
    names = ("kind", "truth", "expected_reason", "copy_group", "copy_of")
    rows = [_Judged(*values) for values in zip(*(truth[name].to_pylist() for name in names), strict=True)]
    by_pair: defaultdict[bytes, list[_Judged]] = defaultdict(list)
    for pair, row in zip(truth["pair_id"].to_pylist(), rows, strict=True):
        by_pair[pair].append(row)
    # Two rows of one pair are alike: whichever was kept stands for the first, the other for its repeat.
    for same in by_pair.values():
        same.sort(key=lambda row: row.kind == REPEATED)
    for pair, kept, reason in sorted(decisions, key=lambda one: not one[1]):
        if not by_pair.get(pair):
            raise UsageError(f"pair {pair.hex()} is not in the truth table: it belongs to another list")
        row = by_pair[pair].pop(-1 if reason == REPEATED else 0)
        row.decided, row.kept, row.reason = True, kept, "" if kept else (reason or "unknown")
    return rows


def _alone(row: _Judged) -> Verdict:
    """The verdict on a row outside all groups: of its being kept, or of its being dropped."""
    if row.truth == "may":
        return "may"
    return "right" if row.kept == (row.truth == "keep") else "wrong"


def _judge_group(score: Evaluation, members: list[_Judged]) -> Iterator[tuple[_Judged, Verdict]]:
    decided = [row for row in members if row.decided]
    if len(decided) < len(members):
        # Whether one stayed cannot be told.
        yield from ((row, "may") for row in decided)
        return
    # Two captions of one image may both stay.
    extra_is_wrong = all(row.kind != "two_captions" for row in members)
    kept = [row for row in members if row.kept]
    score.groups += 1
    score.groups_without += not kept
    score.groups_with_several += extra_is_wrong and len(kept) > 1
    one = kept[0] if kept else _lost(members)
    for row in members:
        if row is one:
            yield row, "right" if kept else "wrong"
        elif not extra_is_wrong:
            yield row, "may"
        else:
            yield row, "wrong" if row.kept else "right"


def _lost(members: list[_Judged]) -> _Judged:
    """Of a group that is gone, the row to blame: the first that did not go as somebody's copy."""
    as_copies = {row.expected for row in members}
    return next((row for row in members if row.reason not in as_copies), members[0])


def _count(score: Evaluation, row: _Judged, verdict: Verdict) -> None:
    score.rows += 1
    if verdict != "may":
        had_to_stay = row.kept == (verdict == "right")
        score.must_keep += had_to_stay
        score.must_drop += not had_to_stay
    if row.kept:
        score.kept_right += verdict == "right"
        score.kept_may += verdict == "may"
        if verdict == "wrong":
            score.kept_wrong += 1
            score.missed[row.kind] += 1
        return
    step = score.steps.setdefault(row.reason, StepScore())
    step.dropped += 1
    step.right += verdict == "right"
    step.wrong += verdict == "wrong"
    step.may += verdict == "may"
    step.by_kind[row.kind] += 1
