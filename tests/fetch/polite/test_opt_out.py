import pytest

from curate.fetch.polite.opt_out import forbidding_rule


@pytest.mark.parametrize(
    "values",
    [
        ["noai"],
        ["NoImageAI"],
        ["nofollow, noindex"],
        ["all", "noimageindex"],
        ["none"],
        ["curate: noai"],
        ["Curate: nofollow, noai"],
        ["otherbot: noindex, curate: noindex"],
        ["*: noai"],
        ["unavailable_after: 25 Jun 2010 15:00:00 GMT, noai"],
        ["unavailable_after: Fri, 25 Jun 2010 15:00:00 GMT, noai"],
        ["max-snippet: 3, noindex"],
    ],
)
def test_forbids(values):
    assert forbidding_rule(values, "curate")


@pytest.mark.parametrize(
    "values",
    [
        [],
        [""],
        ["all"],
        ["nofollow, nosnippet"],
        ["otherbot: noai"],
        ["otherbot: nofollow, noai"],
        ["curate: all"],
        ["unavailable_after: noai"],
        [":::,,:"],
        ["noaix, xnoai"],
    ],
)
def test_does_not_forbid(values):
    assert forbidding_rule(values, "curate") is None
