"""tdmrep.json: its rules in order, broken files, and bounds."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.fetch.contract import FetchError
from curate.fetch.http.deadline import Deadline
from curate.fetch.http.urls import parse
from curate.fetch.polite.tdmrep import MAX_RULES, PATH, Tdmrep


def fault(text, path="/x.jpg"):
    asked = []

    def ask(origin):
        asked.append(origin.url)
        return text

    try:
        Tdmrep().check(parse(f"http://a.example{path}"), ask, Deadline(10))
    except FetchError as error:
        return {"opt_out": str(error)}[error.error_class]
    finally:
        assert asked == [f"http://a.example{PATH}"]
    return None


REPORT = [
    {"location": "/directory-a/", "tdm-reservation": 1},
    {"location": "/directory-b/html/", "tdm-reservation": 1, "tdm-policy": "https://a.example/policy.json"},
    {"location": "/directory-b/images/*.jpg$", "tdm-reservation": 0},
    {"location": "/directory-b/", "tdm-reservation": 1},
]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/directory-a/x", "tdmrep.json: tdm-reservation: 1"),
        ("/directory-b/html/x", "tdmrep.json: tdm-reservation: 1, tdm-policy: https://a.example/policy.json"),
        ("/directory-b/images/x.jpg", None),
        ("/directory-b/images/x.png", "tdmrep.json: tdm-reservation: 1"),
        ("/else", None),
    ],
)
def test_the_first_rule_that_matches_applies(path, expected):
    assert fault(json.dumps(REPORT), path) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 100_000,
        "null",
        json.dumps({"location": "/", "tdm-reservation": 1}),
        json.dumps([{"location": "/", "tdm-reservation": 2}, {"location": "/"}, {"tdm-reservation": 1}, 1]),
        json.dumps([{"location": "/a\nDisallow: /", "tdm-reservation": 1}, {"location": 7, "tdm-reservation": 1}]),
    ],
)
def test_a_file_that_is_broken_reserves_nothing(text):
    assert fault(text) is None


def test_files_that_cost_too_much_reserve_everything():
    rule = {"location": "/no/", "tdm-reservation": 1}
    assert fault(json.dumps([rule] * MAX_RULES)) is None
    assert fault(json.dumps([rule] * (MAX_RULES + 1))) == f"tdmrep.json: more than {MAX_RULES} rules"
    long = json.dumps([{"location": "/*" + "a" * 400 + "b", "tdm-reservation": 1}] * MAX_RULES)
    assert fault(long) is None
    assert "too many rules with wildcards" in (fault(long, "/" + "a" * 8000) or "")


@given(
    st.recursive(
        st.none() | st.integers(0, 2) | st.text(max_size=9),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["location", "tdm-reservation", "tdm-policy"]), inner)
        ),
    )
)
def test_any_json_has_a_verdict(content):
    fault(json.dumps(content))
