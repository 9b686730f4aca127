"""Evaluates a run's decisions against the demo's truth table: recall, and right and wrong drops by step.

Usage:

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
    """The rows that were dropped for one reason: `dropped` = `right` + `wrong` + `may`.

    Attributes:
        dropped: All rows dropped for this reason.
        right: Rows that had to be dropped, or copies of a row that is kept.
        wrong: Rows that had to be kept, or the last of a group of copies.
        may: Rows that may be dropped or kept.
        by_kind: `dropped` by kind (`curate.demo.kinds`).
    """

    dropped: int = 0
    right: int = 0
    wrong: int = 0
    may: int = 0
    by_kind: Counter[str] = field(default_factory=Counter)


@dataclass
class Evaluation:
    """The evaluation of a run's decisions, in rows.

    Each row with a decision had to be kept (`must_keep`), had to be dropped (`must_drop`), or may be either. In a group
    of copies one row had to be kept, and the others had to be dropped.

    Attributes:
        rows: Rows with a decision.
        undecided: Rows of the list without a decision, as their part is missing.
        kept: `kept_right` + `kept_wrong` + `kept_may`.
        kept_right: Kept rows that had to be kept.
        kept_wrong: Kept rows that had to be dropped: the sum of `missed`.
        kept_may: Kept rows that may be kept or dropped.
        must_keep: Rows that had to be kept.
        must_drop: Rows that had to be dropped.
        missed: `kept_wrong` by kind.
        groups: Groups of copies in which every row has a decision.
        groups_without: Groups of which no row is kept.
        groups_with_several: Groups of which more than one row is kept.
        steps: Scores by reason, in no particular order.
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
        """Share of the rows that had to be kept which were kept, 0 to 1; 1 where there are none."""
        return self.kept_right / self.must_keep if self.must_keep else 1.0

    @property
    def must_drop_recall(self) -> float:
        """Share of the rows that had to be dropped which were dropped, 0 to 1; 1 where there are none."""
        return 1.0 - self.kept_wrong / self.must_drop if self.must_drop else 1.0

    @property
    def kept_clean_share(self) -> float:
        """Share of the kept rows that did not have to be dropped, 0 to 1; 1 where nothing is kept."""
        return 1.0 - self.kept_wrong / self.kept if self.kept else 1.0

    @property
    def listed_clean_share(self) -> float:
        """The same share of all rows of the list, for comparison."""
        return 1.0 - self.must_drop / self.rows if self.rows else 1.0

    def to_json(self) -> dict[str, Any]:
        """Returns the counts for the report, which computes the shares from them."""
        # dataclasses.asdict would call Counter on the items of each Counter, and so count the items.
        counts = {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}
        steps = {reason: {**vars(step), "by_kind": dict(step.by_kind)} for reason, step in self.steps.items()}
        return {**counts, "steps": steps}


@dataclass(slots=True)
class _Judged:
    """A row of the truth table with its decision."""

    kind: str
    truth: str
    expected: str | None
    group: int | None
    copy_of: str | None
    decided: bool = False
    kept: bool = False
    reason: str = ""


def evaluate(decisions: Iterable[Decision], truth: pa.Table) -> Evaluation:
    """Compares decisions with the truth table.

    Args:
        decisions: In any order, one per row of the list; rows of missing parts may have none.
        truth: The table that `Corpus.write` has written (`curate.demo.corpus.TRUTH_SCHEMA`).

    Raises:
        UsageError: a pair with a decision is not in the truth table, or has more decisions than rows in it.
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
    # Rows of one pair cannot be told apart: the kept one counts as the original, the others as its repeats.
    for same in by_pair.values():
        same.sort(key=lambda row: row.kind == REPEATED)
    for pair, kept, reason in sorted(decisions, key=lambda one: not one[1]):
        if not by_pair.get(pair):
            raise UsageError(f"pair {pair.hex()} is not in the truth table: it belongs to another list")
        row = by_pair[pair].pop(-1 if reason == REPEATED else 0)
        row.decided, row.kept, row.reason = True, kept, "" if kept else (reason or "unknown")
    return rows


def _alone(row: _Judged) -> Verdict:
    """Returns the verdict on the decision about a row that is in no group of copies."""
    if row.truth == "may":
        return "may"
    return "right" if row.kept == (row.truth == "keep") else "wrong"


def _judge_group(score: Evaluation, members: list[_Judged]) -> Iterator[tuple[_Judged, Verdict]]:
    decided = [row for row in members if row.decided]
    if len(decided) < len(members):
        # Without all decisions it is not known whether one row of the group is kept.
        yield from ((row, "may") for row in decided)
        return
    # Two captions of one image may both be kept.
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
    """Returns the row that counts as wrong in a group without a kept row: the first not dropped as a copy."""
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
