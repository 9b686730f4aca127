"""Captions are tokenized as open_clip does within the bounds, and with bounded work whatever they hold."""

import random
import time

import ftfy
import open_clip
import pyarrow as pa
import pytest
import torch
from helpers.small_tokenizer import TEXTS, train_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

from curate.embed.model import tokenize
from curate.embed.model.cut import MOST_CHARACTERS, MOST_IN_WORD, MOST_NESTED, cut
from curate.embed.model.text import Captions
from curate.embed.model.tokenize import bounded

THEIRS = open_clip.get_tokenizer("ViT-B-32")
OURS = bounded(THEIRS)

PIECES = [
    "a",
    "!",
    "😀",
    "é",
    "\u0301",
    "漢",
    "ก",
    "ﬃ",
    "＆amp;",
    "&amp;",
    "&lt;",
    "&#65;",
    "&nGt;",
    "&amp;lt;",
    "Ã©",
    "â€™",
]
PIECES += [
    "Ã\xa0",
    "İ",
    "Σ",
    "'s",
    "<b>",
    "<start_of_text>",
    "<END_OF_TEXT>",
    "\x1b[1m",
    "\x01",
    "\ufeff",
    "\u200b",
    "7",
]
SPACES = [" ", "  ", "\n", "\r\n", "\n\n \t", "\t", "\xa0", "\u3000", "\x0b", "\x85", "\u2028"]
LONG = [*PIECES, "x漢", "&", ";", "&#1", "&a", "\xa0Â"]

words = st.one_of(
    st.text(max_size=20),
    st.lists(st.sampled_from(PIECES), max_size=12).map("".join),
    # A cut may not split a word that is within the bound.
    st.builds(
        lambda piece, times: (piece * times)[:MOST_IN_WORD], st.sampled_from(PIECES), st.integers(1, MOST_IN_WORD)
    ),
)
captions = st.builds(
    lambda drawn, times: ("".join(word + space for word, space in drawn) * times)[:MOST_CHARACTERS],
    st.lists(st.tuples(words, st.sampled_from(SPACES)), max_size=12),
    st.sampled_from([1, 1, 1, 3, 40]),
).filter(lambda text: cut(text) == text)


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(folder, [*TEXTS, "the quick brown fox"] * 5)
    return HFTokenizer(str(folder), context_length=16)


@given(captions)
@settings(max_examples=150)
def test_tokens_are_open_clips_for_captions_within_the_bounds(caption):
    assert torch.equal(OURS([caption]), THEIRS([caption]))


@pytest.mark.soak
@given(captions, st.sampled_from(["canonicalize", "whitespace"]), st.sampled_from([3, 16, 256]))
def test_tokens_are_open_clips_for_every_cleaning_and_context(caption, clean, context):
    theirs = SimpleTokenizer(clean=clean, context_length=context)
    assert torch.equal(bounded(theirs)([caption]), theirs([caption]))


def test_random_letters_up_to_the_bounds_are_merged_as_open_clip_does():
    draw = random.Random(0)
    alphabets = ["abcdefghijklmnopqrstuvwxyz", "!?#*.-", "漢字😀é", "aA", "0a"]
    texts = [" ".join("".join(draw.choices(letters, k=MOST_IN_WORD)) for _ in range(2)) for letters in alphabets]
    assert torch.equal(OURS(texts), THEIRS(texts))


@pytest.mark.parametrize("context", [3, 8, 77])
def test_every_number_of_tokens_around_the_context(context):
    theirs = SimpleTokenizer(context_length=context)
    texts = ["cat " * count for count in range(context + 2)] + ["", " ", "\n" * 5000, " " * 3000 + "cat"]
    assert torch.equal(bounded(theirs)(texts), theirs(texts))


@pytest.mark.parametrize("end", ["<b>", "\n<b>", "&lt;"])
def test_html_far_behind_the_context_decides_how_escapes_are_read(end):
    # ftfy resolves escapes of any depth, unless the line has a "<" anywhere.
    text = "cats &amp;amp;amp;amp; dogs " * 3 + "and more " * 600 + end
    assert torch.equal(OURS([text]), THEIRS([text]))


def test_hugging_faces_tokens_are_those_of_the_cut_caption(hugging_face):
    ours = bounded(hugging_face)
    assert torch.equal(ours(TEXTS), hugging_face(TEXTS))
    long = "the cat " * 4000
    assert torch.equal(ours([long]), hugging_face([long[:MOST_CHARACTERS]]))


def test_a_tokenizer_gets_no_more_than_the_bounds_allow():
    given_to: list[str] = []
    # Not a SimpleTokenizer: it is called itself.
    bounded(given_to.extend)(["a" * 120_000, "b " * 120_000, "&" + "amp;" * 200 + "c", "short", "\u0301" * 2000 + " d"])
    assert given_to == ["a" * MOST_IN_WORD, "b " * (MOST_CHARACTERS // 2), "c", "short", "\u0301" * MOST_IN_WORD + " d"]


@pytest.mark.parametrize("piece", LONG)
def test_a_long_caption_is_cleaned_and_merged_by_its_beginning_only(piece, monkeypatch):
    cleaned: list[str] = []
    theirs = SimpleTokenizer()
    clean = theirs.clean_fn
    theirs.clean_fn = lambda text: clean(cleaned.append(text) or text)
    word = (piece * 20)[:20]
    bounded(theirs)([f"{word} a b c d e " * 50_000])
    assert sum(map(len, cleaned)) <= 2 * sum(tokenize.READ_FIRST)


@pytest.mark.parametrize(
    "chain",
    [
        "&" + "amp;" * 2000,
        "&" + "AMP;" * 2000,
        "&" + "#38;" * 2000,
        "&" + "#x00026;" * 2000,
        "＆" + "ａｍｐ；" * 2000,
        "&" + "a\x01mp;" * 2000,
        "&" + "a\x1b[mmp;" * 2000,
        "&" + "aï»¿mp;" * 2000,
        ("&" + "amp;" * 20) * 100,
    ],
)
def test_escapes_are_resolved_a_bounded_number_of_times(chain, monkeypatch):
    calls: list[str] = []
    resolve = ftfy.FIXERS["unescape_html"]
    monkeypatch.setitem(ftfy.FIXERS, "unescape_html", lambda text: resolve(calls.append(text) or text))
    for text in (chain, f"x {chain[:400]} y"):
        calls.clear()
        OURS([text])
        # The whole text and two beginnings of it, each with one more round that finds nothing left.
        assert len(calls) <= 3 * (MOST_NESTED + 2)


@pytest.mark.parametrize(
    "text",
    [
        "a " * 5000,
        "a" * MOST_IN_WORD,
        "&" + "amp;" * MOST_NESTED + " &" + "amp;" * MOST_NESTED,
        "cats&dogs;birds;fish;cows;sheep;goats;hens;ducks;geese;pigs",
        "?a=1&amp;b=2;c;d;e;f;g;h;i;j;k;l;m",
    ],
)
def test_a_caption_within_the_bounds_is_left_as_it_is(text):
    assert cut(text) == text


@given(st.lists(st.sampled_from([*LONG, *SPACES]), max_size=40).map("".join), st.integers(1, 3000))
@settings(max_examples=50)
def test_what_was_cut_is_within_the_bounds(text, times):
    kept = cut(text * times)
    assert len(kept) <= MOST_CHARACTERS
    assert max(map(len, kept.split()), default=0) <= MOST_IN_WORD
    assert cut(kept) == kept


def test_pairs_with_a_cut_caption_are_counted():
    column = pa.chunked_array([["a cat", "b" * 5000, "", "b" * 5000, None, "c " * 9000]], pa.string())
    captions = Captions.of(column)
    assert captions.shortened == 3
    assert captions.distinct == ["a cat", "b" * MOST_IN_WORD, "c " * (MOST_CHARACTERS // 2)]


@pytest.mark.soak
@pytest.mark.parametrize("piece", LONG)
def test_a_megabyte_of_anything_takes_no_longer_than_a_second(piece):
    start = time.perf_counter()
    OURS([piece * 1_000_000, f"{piece} " * 300_000])
    assert time.perf_counter() - start < 1
