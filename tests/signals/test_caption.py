import re
import unicodedata

import pyarrow as pa
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from curate.demo import captions as drawn
from curate.signals.kinds.caption import COLUMNS, measure

TEXT = st.text(max_size=40) | st.lists(st.sampled_from(["a", "A", "cat", "Cat.", "42", "été"]), max_size=9).map(
    " ".join
)


UNSPACED = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}ー\p{Line_Break=Complex_Context}\p{Tibetan}\p{Ethiopic}\u200b\u3031-\u3035゛゜゠ｰ]"
)


def one(caption):
    return {name: column.to_pylist()[0] for name, column in measure(pa.chunked_array([[caption]], pa.string())).items()}


@given(st.lists(TEXT.map(lambda text: text.encode(errors="replace").decode()), max_size=6))
def test_counts_and_shares_are_those_of_python(captions):
    table = pa.table(measure(pa.chunked_array([captions], pa.string())))
    assert dict(zip(table.schema.names, table.schema.types, strict=True)) == dict(COLUMNS)
    for caption, found in zip(captions, table.to_pylist(), strict=True):
        words = [word for word in caption.split() if any(unicodedata.category(char)[0] in "LN" for char in word)]
        letters = [char for char in caption if unicodedata.category(char).startswith("L")]
        capitals = [char for char in letters if unicodedata.category(char) == "Lu"]
        # Python's white space holds four control characters more than Unicode's.
        if not set(caption) & set("\x1c\x1d\x1e\x1f\x85\x0b") and not UNSPACED.search(caption):
            assert found["caption_words"] == len(words)
        assert found["caption_chars"] == len(caption)
        upper = len(capitals) / len(letters) if letters else None
        assert found["caption_upper"] == (None if upper is None else pytest.approx(upper))
        assert (found["caption_letters"] or 0) <= 1
        if caption.strip() and not set(caption) & set("\x1c\x1d\x1e\x1f\x85\x0b"):
            digits = sum(unicodedata.category(char) == "Nd" for char in caption)
            assert found["caption_digits"] == pytest.approx(digits / len("".join(caption.split())))
        assert (found["caption_letters"] is None) == (not caption.strip())


@given(st.lists(st.sampled_from(["red", "RED", "blue", "one"]), max_size=8))
def test_repetition_is_the_share_of_words_that_stood_before(words):
    lowered = [word.lower() for word in words]
    repeated = sum(word in lowered[:i] for i, word in enumerate(lowered))
    found = one("  ".join(words))["caption_repetition"]
    assert found == (pytest.approx(repeated / len(words)) if words else None)


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("一只橘猫坐在花园里", 9),
        ("猫。", 1),
        ("東京タワーの夜景、2024年", 8),
        ("テーブル", 1),
        ("ﾃｰﾌﾞﾙ", 1),
        ("人々", 2),
        ("แมวสีส้ม", 6),
        ("ราคา ๑๒๓ บาท", 8),
        ("고양이가 앉아 있다", 3),
        ("кошка сидит", 2),
        ("བཀྲ་ཤིས་བདེ་ལེགས", 4),
        ("a red-haired man's hat – 12", 5),
        ("iPhone 15 手机", 4),
        ("😀 … !", 0),
    ],
)
def test_words_of_scripts_with_and_without_spaces(caption, words):
    assert one(caption)["caption_words"] == words


@given(
    st.text("一只橘猫はのっゃがテーブルｶあァヴアイーแมวสีส้ที่ำ๑๒๓ລາວទឹកមြန်မာ၁၂။。、！「」 　", max_size=30)
    | st.text("猫のテーブ。、！（） ab", max_size=30)
)
def test_words_without_spaces_are_those_between_unicodes_boundaries(caption):
    parts = regex.split(r"(?w)\b", caption)
    assert one(caption)["caption_words"] == sum(bool(regex.search(r"[\p{L}\p{N}]", part)) for part in parts), parts


def test_a_letter_that_comes_again_is_no_repetition():
    assert one("แมวสีส้มนั่งอยู่บนโต๊ะไม้ในสวน")["caption_repetition"] is None
    assert one("猫猫猫猫")["caption_repetition"] == 0.75
    assert one("cat 猫 Cat")["caption_repetition"] == pytest.approx(1 / 3)


def test_letters_are_counted_among_what_can_be_seen():
    assert one("ab 12")["caption_letters"] == 0.5
    assert one("日本 語")["caption_letters"] == 1
    assert one(None) == one("")


@pytest.mark.parametrize(
    "caption",
    [
        "click to enlarge",
        "Click here for more information",
        "CLICK  IMAGE TO ENLARGE!",
        "Image may contain: 1 person, standing and indoor",
        "May be an image of 2 people and text",
        "stock photo",
        "Royalty Free Stock Photos",
        "Stock Image #12345",
        "untitled",
        "Untitled-1",
        "Thumbnail",
        "advertisement",
        "Loading...",
        "loading, please wait",
        "[image]",
        "photo 12",
        "Figure 3.",
        "no image available",
        "Image not found",
        "image not available",
        "Image is no longer available",
        "Add to cart",
        "Read more »",
        "All rights reserved.",
        "Placeholder image",
        "Profile Picture",
        "N/A",
        "view larger image",
        "Share on Facebook",
        "logo",
    ],
)
def test_boilerplate(caption):
    found = one(caption)
    assert found["caption_is_boilerplate"], caption
    assert one(f"  {caption.upper()}\n")["caption_is_boilerplate"]


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "a man loading a truck at the loading dock",
        "the logo of a football club on a red wall",
        "stock photo of a dog running over a field",
        "an untitled painting by a Dutch master",
        "clicking beetles on a leaf",
        "click toys for toddlers",
        "may be the last of its kind",
        "photo of the year 2019",
        "a thumbnail sketch of a bridge",
        "home sweet home",
        "next to the river stands a mill",
        "A shared kitchen with a view",
        "iconic skyline",
        "図書館",
    ],
)
def test_no_boilerplate(caption):
    assert not one(caption)["caption_is_boilerplate"], caption


@given(
    st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True),
    st.sampled_from(["jpg", "JPEG", "png", "webp", "gif", "tiff"]),
    st.sampled_from(["{}.{}", "path/to/{}.{}", "{} (2).{}", "  {}.{}\n"]),
)
def test_file_names(stem, extension, form):
    found = one(form.format(stem, extension))
    assert found["caption_is_file_name"]
    assert not found["caption_is_url"]


@given(
    st.sampled_from(["http://", "https://", "HTTPS://www.", "www."]),
    st.from_regex(r"[a-z0-9]{1,12}\.(com|org|example)", fullmatch=True),
    st.sampled_from(["", "/", "/a/b.jpg", "/?q=a%20b"]),
)
def test_urls(start, host, path):
    found = one(f" {start}{host}{path} ")
    assert found["caption_is_url"]
    assert not found["caption_is_file_name"]
    assert not one(f"see {start}{host}{path} for more")["caption_is_url"]


@pytest.mark.parametrize("caption", ["IMG_1234", "dsc00012", "DSCN-0042", "Screenshot_20230101-101010"])
def test_names_of_cameras(caption):
    assert one(caption)["caption_is_file_name"]


@given(
    st.lists(st.sampled_from(["a", "red", "cat", "and", "two", "dogs", "jpg", "e.g.", "v2.0"]), min_size=2, max_size=9)
)
def test_plain_words_are_neither_name_nor_link(words):
    found = one(" ".join(words))
    assert not found["caption_is_url"]
    assert not found["caption_is_file_name"]


@given(st.randoms(use_true_random=False), st.sampled_from(["boilerplate", "file_name", "url", "empty"]))
def test_the_demos_junk_is_recognised(rng, kind):
    caption = drawn.junk_caption(kind, rng)
    found = one(caption)
    assert found[{"empty": "caption_is_boilerplate"}.get(kind, f"caption_is_{kind}")] == (kind != "empty")
    assert (found["caption_words"] == 0) == (kind == "empty")


@given(TEXT, TEXT)
def test_a_caption_does_not_depend_on_its_neighbours(a, b):
    a, b = (re.sub(r"[\ud800-\udfff]", "", text) for text in (a, b))
    both = pa.table(measure(pa.chunked_array([[a], [b]], pa.string()))).to_pylist()
    assert both == [one(a), one(b)]
