"""YAML text as plain values: what is read, and what ends as one line."""

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from curate.yaml_values import DEEPEST, Fault, read

DOUBLED = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 25))
CHAINED = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 50))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 2024-99-99", {"a": "2024-99-99"}),
        ("a: 2024-01-01", {"a": "2024-01-01"}),
        ("a: 2024-01-01 25:61:00", {"a": "2024-01-01 25:61:00"}),
        ("a: 12:30:45", {"a": "12:30:45"}),
        ("a: 1:30.5", {"a": "1:30.5"}),
        ("a: =", {"a": "="}),
        ("[1_000, 0x1F, 0b11, 010, 0, -7, +7]", [1000, 31, 3, 8, 0, -7, 7]),
        ("[1.5, .5, 1_0.5, -1.5e+3, 1.e-3]", [1.5, 0.5, 10.5, -1500.0, 0.001]),
        ("[.inf, -.inf]", [math.inf, -math.inf]),
        ("[~, null, yes, off, '1', 1e13]", [None, None, True, False, "1", "1e13"]),
        ("b: &b {x: 1, y: 2}\nc: &c {<<: *b, x: 3}\nd: {<<: *c, y: 5}", None),
        ("", None),
    ],
)
def test_plain_values(text, value):
    if text.startswith("b:"):
        value = {"b": {"x": 1, "y": 2}, "c": {"x": 3, "y": 2}, "d": {"x": 3, "y": 5}}
    assert read(text) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: " + "[" * 5000, "more than 30 levels are nested .line 1"),
        ("{a: " * 5000, "more than 30 levels are nested"),
        (CHAINED, "more than 30 levels are nested"),
        (DOUBLED, "more than 200,000 values, with aliases"),
        ("a: &a [*a]", r"the alias \*a is inside of itself"),
        ("a: *b", "found undefined alias"),
        ("a: 1\nb: 2\na: 3", r"the key 'a' appears twice in one mapping \(line 3, column 1\)"),
        ("a: " + "9" * 5000, "5,000 characters that cannot be read as int"),
        ("a: !!int x", "1 character that cannot be read as int"),
        ("a: !!float x", "cannot be read as float"),
        ("a: !!bool x", "cannot be read as bool"),
        ("a: !!timestamp x", "could not determine a constructor"),
        ("a: !!set {x, y}", "could not determine a constructor"),
        ("a: !!binary x", "could not determine a constructor"),
        ("a: !!python/object/apply:os.system [true]", "could not determine a constructor"),
        ("? [a]\n: 1", "found unhashable key"),
        ("--- a\n--- b", "found another document"),
        ("\x00", "special characters are not allowed"),
        ("#" * 4_000_001, "4,000,001 characters; at most 4,000,000"),
    ],
)
def test_what_ends_as_one_line(text, said):
    with pytest.raises(Fault, match=said) as caught:
        read(text)
    assert str(caught.value).isprintable()


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=12,
)


@given(values)
def test_dumped_values_are_read_back(value):
    assert read(yaml.safe_dump(value)) == value


@given(st.text(alphabet="[]{}&*a1:-,? !<|>'\"#%\n\t~.", max_size=60))
def test_any_text_is_a_value_or_one_line(text):
    try:
        read(text)
    except Fault as fault:
        assert str(fault).isprintable()  # noqa: PT017 - either outcome is right


def test_the_deepest_value():
    assert read("[" * DEEPEST + "]" * DEEPEST)
    with pytest.raises(Fault):
        read("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1))
