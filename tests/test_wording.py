"""What is said in several places is said in the same words."""

import pytest
from helpers.select_run import step

from curate.select.funnel import FACTS
from curate.select.steps.registry import read


def words(facts, **kind):
    (read_step,) = read([step("far", **kind)])
    return read_step.kind.words(read_step, {**FACTS, **facts})


@pytest.mark.parametrize(
    ("over", "shared"),
    [("pool", "the top 12.5 % of all fetched pairs by x: x ≥ 0.21"), ("survivors", "the top 12.5 % by x: x ≥ 0.21")],
)
def test_the_card_and_the_report_describe_keep_top_alike(over, shared):
    # Report, terminal and explain print `says`; the card's column is headed "drops" and prints `rule`.
    said = words({"threshold": 0.21, "nulls": 1234}, keep_top={"of": "x", "fraction": 0.125}, over=over)
    assert said.says == f"keeps {shared}"
    assert said.rule.replace("`", "") == f"all but {shared}"
    assert said.without == "1,234 without a value drop"


def test_a_rule_is_markdown_whatever_stands_in_a_predicate():
    said = words({}, where="caption LIKE '%`%'\n  AND width < 3")
    assert said.says == "caption LIKE '%`%' AND width < 3"
    assert said.rule == "`` caption LIKE '%`%' AND width < 3 ``"
    assert (said.without, said.is_code) == ("", True)


@pytest.mark.parametrize(
    ("keys", "what"),
    [({"by": "sha256"}, "equal bytes"), ({"by": "image_embedding", "above": 0.95}, "cosine ≥ 0.95")],
)
def test_duplicates_say_what_counts_as_one(keys, what):
    said = words({"nulls": 2}, duplicates={**keys, "prefer": "width"})
    assert said.says == f"{what}; keeps the one with the highest width"
    assert said.rule == f"all but one of each set of duplicates by `{keys['by']}` ({what}), best `width` kept"
    assert said.without == "2 without a value stay"
