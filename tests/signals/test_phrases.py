"""Counts of phrases in captions, against a search in plain Python."""

import re

import pyarrow as pa
import pytest
from helpers.signals_part import Made
from hypothesis import given
from hypothesis import strategies as st

from curate.errors import RecipeError
from curate.signals.contract import ModelShape
from curate.signals.kinds.phrases import SIGNAL, Phrases, compared, count, read

NO_MODEL = ModelShape("", 0)
TEXT = st.text("ab äA1.-_ \n", max_size=14)


def plain(text):
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


@given(st.lists(TEXT | st.none(), max_size=6), st.lists(TEXT, min_size=1, max_size=5))
def test_counts_are_those_of_a_plain_search(captions, phrases):
    wanted = sorted({plain(phrase) for phrase in phrases} - {""})
    if not wanted:
        with pytest.raises(RecipeError, match="no phrase has a letter"):
            read("signals.phrases.x", tuple(phrases), None, None)
        return
    assert list(read("signals.phrases.x", tuple(phrases), None, None)) == wanted
    found = count(pa.chunked_array([captions], pa.string()), wanted)
    assert found.to_pylist() == [sum(f" {one} " in f" {plain(text or '')} " for one in wanted) for text in captions]


def test_words_are_whole_and_marks_belong_to_letters():
    captions = pa.chunked_array([["A bad day", "AD, now!", "buy-now: the ad.", "हिन्दी में"]])
    assert count(captions, ["ad", "buy now"]).to_pylist() == [0, 1, 2, 0]
    assert compared(pa.array(["हिन्दी  में"])).to_pylist() == ["हिन्दी में"]


def test_a_file_and_a_list_are_one(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("Click Here\n\nbuy now\n", encoding="utf-8-sig")
    together = SIGNAL.learn("signals.phrases.x", Phrases(phrases=["buy NOW"], file=str(path)), NO_MODEL, None)
    assert together == SIGNAL.learn("y", Phrases(phrases=["click here", "buy now"]), NO_MODEL, None)
    made = Made(tmp_path / "run")
    made.params["phrases_x"] = {
        "kind": "phrases",
        "keys": {"phrases": ["two words"], "file": str(path)},
        "learned": SIGNAL.learn("x", Phrases(phrases=["two words"], file=str(path)), NO_MODEL, None),
        "embeddings": None,
        "directions": None,
    }
    assert made.run("signals-phrases_x")["signals-phrases_x"]["phrases_x"].to_pylist() == [1, 0, 0]
    made.params["phrases_x"]["learned"] = together
    with pytest.raises(RecipeError, match="changed during the run"):
        made.run("signals-phrases_x")


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "words.txt does not exist"), (b"a\xff", r"words.txt is not UTF-8 at byte 1"), (b"--\n", "no phrase has")],
)
def test_what_is_wrong_with_a_file_is_one_line(content, said, tmp_path):
    if content is not None:
        (tmp_path / "words.txt").write_bytes(content)
    with pytest.raises(RecipeError, match=f"^signals.phrases.x: .*{said}"):
        SIGNAL.learn("signals.phrases.x", Phrases(file=str(tmp_path / "words.txt")), NO_MODEL, None)
