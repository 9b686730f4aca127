import random
from collections import defaultdict

import pytest

from curate.demo.corpus import Corpus
from curate.demo.truth import evaluate
from curate.errors import UsageError

TRUTH = Corpus(seed=5, pairs=2000).tables()[1]
ROWS = TRUTH.to_pylist()


def oracle(rng):
    """Decisions without a mistake: one row of each group, all that must stay, a lot of what may."""
    groups = defaultdict(list)
    for row in ROWS:
        groups[row["copy_group"]].append(row["row"])
    chosen = {rng.choice(members) for group, members in groups.items() if group is not None}
    for row in ROWS:
        if row["copy_group"] is not None:
            kept = row["row"] in chosen
        else:
            kept = row["truth"] == "keep" or (row["truth"] == "may" and rng.random() < 0.5)
        yield row["pair_id"], kept, None if kept else (row["expected_reason"] or "near_image")


def check_sums(score):
    dropped = sum(step.dropped for step in score.steps.values())
    assert score.kept + dropped == score.rows
    assert score.rows + score.undecided == len(ROWS)
    for step in score.steps.values():
        assert step.dropped == step.right + step.wrong + step.may == step.by_kind.total()
    assert sum(step.wrong for step in score.steps.values()) == score.must_keep - score.kept_right
    assert sum(step.right for step in score.steps.values()) == score.must_drop - score.kept_wrong
    assert score.missed.total() == score.kept_wrong


@pytest.mark.parametrize("seed", range(5))
def test_an_oracle_is_always_right_in_any_order(seed):
    rng = random.Random(seed)
    decisions = list(oracle(rng))
    rng.shuffle(decisions)
    score = evaluate(decisions, TRUTH)
    check_sums(score)
    assert score.must_keep_recall == score.must_drop_recall == score.kept_clean_share == 1.0
    assert not score.missed
    assert score.groups > 100
    assert score.groups_without == score.groups_with_several == 0
    assert score.steps["repeated"].right == 20


def test_keeping_all_misses_all():
    score = evaluate(((row["pair_id"], True, None) for row in ROWS), TRUTH)
    check_sums(score)
    assert score.must_keep_recall == 1.0
    assert score.must_drop_recall == 0.0
    assert score.kept_clean_share == score.listed_clean_share < 0.6
    assert score.missed["wrong_caption"] == 280
    assert score.missed["exact_copy"] > 50
    assert score.groups_with_several > 100


def test_dropping_all_loses_all():
    score = evaluate(((row["pair_id"], False, "everything") for row in ROWS), TRUTH)
    check_sums(score)
    assert score.must_keep_recall == 0.0
    assert score.must_drop_recall == 1.0
    assert score.groups_without == score.groups
    assert list(score.steps) == ["everything"]


def test_the_opposite_of_the_truth_scores_nothing():
    decisions = [(row["pair_id"], row["truth"] == "drop", "perverse") for row in ROWS]
    score = evaluate(decisions, TRUTH)
    check_sums(score)
    # Of a row and its repeat one is kept, if only the later: nobody can tell.
    assert score.kept_right <= 20
    assert score.must_keep_recall < 0.03
    assert score.kept_clean_share < 0.03
    assert score.must_drop_recall < 0.2


def test_a_lost_group_is_charged_to_the_step_that_did_not_take_its_row_for_a_copy():
    decisions = {row["row"]: list(one) for row, one in zip(ROWS, oracle(random.Random(0)), strict=True)}
    copies = [row for row in ROWS if row["kind"] == "exact_copy" and row["copy_group"] is not None]
    group = [row for row in ROWS if row["copy_group"] == copies[0]["copy_group"]]
    for row in group:
        decisions[row["row"]][1:] = [False, "same_image" if row["copy_of"] is None else "mismatched"]
    score = evaluate(map(tuple, decisions.values()), TRUTH)
    check_sums(score)
    assert score.groups_without == 1
    assert score.steps["mismatched"].wrong == 1
    assert score.steps["same_image"].wrong == 0


def test_missing_parts_are_counted_and_judge_nobody():
    decisions = list(oracle(random.Random(1)))
    score = evaluate(decisions[:1500], TRUTH)
    check_sums(score)
    assert score.undecided == 500
    assert score.must_keep_recall == score.must_drop_recall == 1.0
    assert score.groups_without == 0


def test_decisions_on_another_list_are_refused():
    other = Corpus(seed=6, pairs=300).tables()[1]
    with pytest.raises(UsageError, match="another list"):
        evaluate(oracle(random.Random(0)), other)
    twice = [one for one in oracle(random.Random(0)) for _ in range(2)]
    with pytest.raises(UsageError, match="truth table"):
        evaluate(twice, TRUTH)
