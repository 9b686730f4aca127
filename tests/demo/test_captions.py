import random
from dataclasses import replace
from itertools import pairwise

import pytest

from curate.demo.captions import (
    Facts,
    Named,
    caption,
    facts_of,
    half_wrong_caption,
    half_wrong_facts,
    is_true_of,
    junk_caption,
    plain_caption,
    sample_text,
    say,
    text_caption,
    watermark_caption,
    wrong_caption,
    wrong_facts,
)
from curate.demo.scenes import Background, Group, Place, Scene, sample_scene, scene_key

SCENES = [sample_scene(random.Random(i)) for i in range(400)]


def group(shape, colour, count, texture="plain"):
    return Group(shape, colour, texture, (0, 0, 0), 0.2, tuple(Place(0.1 + 0.2 * i, 0.5, 0) for i in range(count)))


SCENE = Scene((group("star", "red", 3), group("fish", "blue", 1)), Background("white", "plain", (255, 255, 255)))
STARS = Named("star", "red", 3, None)


@pytest.mark.parametrize(
    ("facts", "true"),
    [
        (Facts((STARS,)), True),
        (Facts((STARS, Named("fish", None, 1, None))), True),
        (Facts((replace(STARS, count=None),)), True),
        (Facts((replace(STARS, count=2),)), False),
        (Facts((replace(STARS, colour="blue"),)), False),
        (Facts((replace(STARS, texture="striped"),)), False),
        (Facts((replace(STARS, texture="plain"),)), True),
        (Facts((Named("fish", "blue", None, None),)), False),
        (Facts((STARS, Named("moon", None, 1, None))), False),
        (Facts((STARS,), background="white"), True),
        (Facts((STARS,), background="black"), False),
        (Facts((STARS,), pattern="striped"), False),
        (Facts((STARS,), grey=True), False),
        (Facts((STARS,), watermark=True), False),
    ],
)
def test_facts_are_compared_with_the_scene(facts, true):
    assert is_true_of(facts, SCENE) is true


def test_colours_are_not_true_of_a_grey_scene():
    grey = replace(SCENE, grey=True)
    assert not is_true_of(Facts((STARS,)), grey)
    assert not is_true_of(Facts((replace(STARS, colour=None),), background="white"), grey)
    assert is_true_of(Facts((replace(STARS, colour=None),), grey=True), grey)


def test_captions_are_true_half_wrong_and_wrong_ones_false():
    for i, scene in enumerate(SCENES):
        rng = random.Random(i)
        for _ in range(10):
            assert is_true_of(facts_of(scene, rng), scene)
            assert not is_true_of(half_wrong_facts(scene, rng), scene)
            assert not is_true_of(wrong_facts(scene, rng), scene)


def test_a_half_wrong_caption_names_the_right_shapes():
    for i, scene in enumerate(SCENES):
        named = half_wrong_facts(scene, random.Random(i)).groups
        assert {n.shape for n in named} <= {g.shape for g in scene.groups}


def test_a_wrong_caption_names_nothing_that_is_seen():
    for i, scene in enumerate(SCENES):
        for named in wrong_facts(scene, random.Random(i)).groups:
            assert not is_true_of(Facts((named,)), scene)


def test_scenes_of_one_key_share_their_truths():
    scene, rng = SCENES[3], random.Random(0)
    moved = replace(scene, groups=tuple(replace(g, size=g.size / 2) for g in reversed(scene.groups)))
    assert scene_key(moved) == scene_key(scene)
    for _ in range(50):
        assert is_true_of(facts_of(scene, rng), moved)


@pytest.mark.parametrize("write", [caption, half_wrong_caption, wrong_caption])
def test_a_seed_gives_the_same_caption(write):
    assert [write(s, random.Random(1)) for s in SCENES] == [write(s, random.Random(1)) for s in SCENES]


def test_captions_are_worded_in_many_ways():
    rng = random.Random(0)
    said = {say(Facts((STARS, Named("fish", "blue", 1, None)), background="white"), rng) for _ in range(500)}
    assert len(said) > 300
    assert all(3 <= len(text.split()) <= 25 for text in said)
    assert any("three red stars" in text for text in said)
    assert any("3 red stars" in text for text in said)
    assert any("red stars x3" in text for text in said)


def test_captions_have_three_words_at_least_and_good_articles():
    for i, scene in enumerate(SCENES):
        rng = random.Random(i)
        for text in (caption(scene, rng), half_wrong_caption(scene, rng), wrong_caption(scene, rng)):
            words = text.lower().split()
            assert len(words) >= 3
            assert not any(a == "a" and b[0] in "aeiou" for a, b in pairwise(words)), text
            assert not any(a == "an" and b[0] not in "aeiou" for a, b in pairwise(words)), text


def test_other_captions():
    rng = random.Random(0)
    marked = replace(SCENE, watermark="SAMPLE")
    assert any(facts_of(marked, rng).watermark for _ in range(50))
    assert not any(facts_of(SCENE, rng).watermark for _ in range(50))
    assert all("watermark" in watermark_caption(rng) for _ in range(20))
    assert all("watermark" not in plain_caption(rng) for _ in range(20))
    assert all(text_caption(sample_text(rng), rng).strip() for _ in range(50))


def test_junk_captions():
    rng = random.Random(0)
    assert all(junk_caption("boilerplate", rng).strip() for _ in range(50))
    assert all("." in junk_caption("file_name", rng) and " " not in junk_caption("file_name", rng) for _ in range(50))
    assert all(junk_caption("url", rng).startswith("https://") for _ in range(50))
    assert all(not junk_caption("empty", rng).strip() for _ in range(50))
