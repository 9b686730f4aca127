"""The normal form of captions, against Unicode's definition and examples."""

import hashlib
import unicodedata

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.captions import caption_digests, normal_form, normal_form_digests

TEXTS = st.text(st.sampled_from('aA bBéİßﬁΣς\u0301\u00ad\u200b\u00a0\n.,!?"“”»…。Ａ１#°'), max_size=8)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A red car", "a  RED\tcar\n"),
        ("a red car", "“A red car.”"),
        ("what?", "what!?"),
        ("caf\u00e9", "CAFE\u0301"),
        ("STRASSE", "Straße"),
        ("\uff21\uff22\uff23 1", "abc \uff11"),
        ("ﬁne", "fine"),
        ("soft\u00adware", "Soft\u200bware"),
        ("wait…", "wait"),
        ("犬。", "犬"),
        ("non\u00a0breaking", "non breaking"),
        ("ὈΔΥΣΣΕΎΣ", "ὀδυσσεύς"),
    ],
)
def test_the_same_text(one: str, other: str) -> None:
    assert normal_form(one) == normal_form(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("cafe", "café"), ("car 1", "car 2"), ("redcar", "red car"), ("it's", "its"), ("(a) cat", "a cat"), ("c#", "c")],
)
def test_another_text(one: str, other: str) -> None:
    assert normal_form(one) != normal_form(other)


def test_a_text_of_marks_alone_keeps_them() -> None:
    assert normal_form(" ... ") == "..."
    assert normal_form("“?”") != normal_form("...")
    assert normal_form(" \u200b\n") == ""


@given(TEXTS, TEXTS)
def test_compatibility_caseless_matches_are_equal(one: str, other: str) -> None:
    def match(text: str) -> str:
        folded = unicodedata.normalize("NFD", text).casefold()
        return unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", folded).casefold())

    if match(one) == match(other):
        assert normal_form(one) == normal_form(other)
    assert normal_form(normal_form(one)) == normal_form(one)


def test_digests_are_of_utf_8_and_null_where_a_caption_is() -> None:
    captions = pa.chunked_array([["A cat.", None], [], ["é", "A cat."]], pa.string())
    assert caption_digests(captions).to_pylist() == [
        None if text is None else hashlib.sha256(text.encode()).hexdigest() for text in captions.to_pylist()
    ]
    assert normal_form_digests(captions).to_pylist() == [
        None if text is None else hashlib.sha256(text.encode()).hexdigest()
        for text in ("a cat", None, "e\u0301", "a cat")
    ]
    assert len(normal_form_digests(pa.chunked_array([], pa.string()))) == 0
