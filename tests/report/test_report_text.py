import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.report.text import count, duration, percent, pieces, plain, rate, size

HARMFUL = {"Cc", "Cs", "Cn", "Co", "Zl", "Zp"}
BIDI = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
ANYTHING = st.text(st.characters(codec=None, exclude_categories=())) | st.text(
    st.sampled_from("a\x00\x1b\n\r\t\x9b\u202e\u2066\u200f\u2028\ufeff\ud800\u200d é語")
)


@given(ANYTHING, st.none() | st.integers(1, 40))
def test_plain_lets_no_character_through_that_moves_hides_or_reorders(text, limit):
    shown = plain(text, limit)
    for char in shown:
        assert unicodedata.category(char) not in HARMFUL
        assert unicodedata.bidirectional(char) not in BIDI
        assert unicodedata.category(char) != "Cf" or char in "\u200c\u200d"
    shown.encode()


@given(ANYTHING)
def test_plain_without_a_limit_loses_nothing_but_the_kinds_of_space(text):
    restored = "".join(
        piece.encode("ascii").decode("unicode_escape") if hostile else piece for piece, hostile in pieces(text)
    )
    assert plain(text) == "".join(piece for piece, _ in pieces(text))
    spaces = {ord(char): " " for char in text if unicodedata.category(char) == "Zs"}
    assert restored == text.translate(spaces)


@given(ANYTHING, st.integers(1, 40))
def test_a_limit_bounds_what_is_shown_and_says_the_true_length(text, limit):
    shown = plain(text, limit)
    assert len(shown) <= limit + len(f"… ({len(text):,} characters)")
    if len(text) > limit:
        assert shown.endswith(f"… ({len(text):,} characters)")
    elif shown != plain(text):
        assert shown.endswith("…")


@given(st.text(st.sampled_from("abc é語ש 'x<>&")))
def test_ordinary_text_stays_as_it_is(text):
    assert plain(text) == text


@given(st.integers(0, 10**9), st.integers(1, 10**9))
def test_percent_says_none_and_all_only_when_it_is_so(part, whole):
    part = min(part, whole)
    assert (percent(part, whole) == "0 %") == (part == 0)
    assert (percent(part, whole) == "100 %") == (part == whole)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (percent(0, 0), "–"),
        (percent(1, 8), "12.5 %"),
        (percent(1, 10**6), "< 0.1 %"),
        (percent(10**6 - 1, 10**6), "> 99.9 %"),
        (count(1234567), "1,234,567"),
        (size(0), "0 bytes"),
        (size(123_456), "123.5 kB"),
        (size(5e15), "5.0 PB"),
        (duration(0.04), "0.04 s"),
        (duration(75), "75 s"),
        (duration(720), "12 min"),
        (duration(12_000), "3 h 20 min"),
        (duration(187_200), "2 d 4 h"),
        (rate(0.521), "0.52"),
        (rate(31.42), "31.4"),
        (rate(1250), "1,250"),
    ],
)
def test_figures_read_well(shown, expected):
    assert shown == expected
