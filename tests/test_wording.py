"""What is said in several places is said in the same words."""

import pytest

from curate.pack.card import _rule
from curate.report.funnel import describe


@pytest.mark.parametrize(
    ("over", "words"),
    [("pool", "the top 12.5 % of all fetched pairs by x: x ≥ 0.21"), ("survivors", "the top 12.5 % by x: x ≥ 0.21")],
)
def test_the_card_the_report_and_the_terminal_describe_keep_top_alike(over, words):
    step = {"name": "far", "kind": "keep_top", "of": "x", "fraction": 0.125, "over": over, "threshold": 0.21}
    # The report and the terminal both call `describe`; the card's column is headed "drops".
    assert describe(step) == f"keeps {words}"
    assert _rule(step).replace("`", "") == f"all but {words}"
