"""Content-Usage statements, in a header and in robots.txt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.fetch.contract import FetchError
from curate.fetch.http.deadline import Deadline
from curate.fetch.http.urls import parse
from curate.fetch.polite.robots import Robots
from curate.fetch.polite.usage import MAX_LENGTH, forbids, path_rules, trains


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("train-ai=n", False),
        ("train-ai=y", True),
        (" train-ai=n ", False),
        ("search=y, train-ai=n", False),
        ("search=y;x=1;y ,\ttrain-ai=n;why=\"no, 'thanks'\"", False),
        ("train-ai=y, train-ai=n", False),
        ("train-ai=n, train-ai=y", True),
        ("a=(1 2;x token), b=:YWJj:, c=?1, d=@12, e=-1.5, train-ai=n", False),
        ("", None),
        ("search=n", None),
        ("train-ai", None),
        ("train-ai=?0", None),
        ('train-ai="n"', None),
        ("train-ai=no", None),
        ("Train-AI=n", None),
        ("train-ai=n,", None),
        ("train-ai=n search=y", None),
        ("train-ai=n, =", None),
        ("x=1, " * MAX_LENGTH + "train-ai=n", None),
    ],
)
def test_a_statement(statement, allowed):
    assert trains(statement) is allowed


def test_one_of_several_statements_forbids():
    assert forbids(["train-ai=y", "train-ai=n"])
    assert not forbids(["train-ai=y", "nonsense,"])


@given(st.text(max_size=200) | st.text(alphabet='train-i=ny,;() "\\:?@1', max_size=200))
def test_any_text_has_a_verdict(text):
    assert trains(text) in (True, False, None)
    path_rules([text, f"content-usage: {text}"])


@pytest.mark.parametrize(
    ("path", "allowed"), [("/test", False), ("/ai-ok/test", True), ("/ai-ok/no/test", False), ("/never/test", False)]
)
def test_the_drafts_example(path, allowed):
    text = (
        "User-Agent: *\nAllow: /\nDisallow: /never/\nContent-Usage: train-ai=n\nContent-Usage: /ai-ok/ train-ai=y\n"
        "content-usage:/ai-ok/no/ search=y, train-ai=n\n\nUser-Agent: ExampleBot\nAllow: /\nContent-Usage: train-ai=y"
    )

    def check(robots):
        robots.check(parse(f"http://a.example{path}"), lambda origin: text, Deadline(10))

    if allowed:
        check(Robots("curate"))
    else:
        with pytest.raises(FetchError) as error:
            check(Robots("curate"))
        rule = "robots.txt disallows it" if "never" in path else "robots.txt: Content-Usage: train-ai=n"
        assert (error.value.error_class, str(error.value)) == ("opt_out", rule)
    if "never" not in path:
        check(Robots("examplebot"))
        check(Robots("curate", content_usage=False))
