import random

import numpy as np
import pytest
from PIL import Image

from curate.demo.scenes import COLOURS, MAX_COUNT, SHAPES, draw_scene, draw_text_image, sample_scene, scene_key
from curate.demo.scenes import with_watermark as watermarked

SCENES = [sample_scene(random.Random(i)) for i in range(300)]


def pixels(image):
    return np.asarray(image.convert("RGB")).astype(np.int16)


def test_a_seed_gives_the_same_scene_and_the_same_pixels():
    again = [sample_scene(random.Random(i)) for i in range(300)]
    assert again == SCENES
    for scene in SCENES[:20]:
        assert draw_scene(scene, (96, 72)).tobytes() == draw_scene(scene, (96, 72)).tobytes()


def test_scenes_are_varied():
    assert len({scene_key(scene) for scene in SCENES}) > 0.9 * len(SCENES)
    groups = [group for scene in SCENES for group in scene.groups]
    assert {group.shape for group in groups} == set(SHAPES)
    assert {group.colour for group in groups} == set(COLOURS)
    assert {group.count for group in groups} == set(range(1, MAX_COUNT + 1))


def test_the_groups_of_a_scene_differ_in_shape():
    for scene in SCENES:
        shapes = [group.shape for group in scene.groups]
        assert len(set(shapes)) == len(shapes)


def test_every_object_lies_inside_the_central_square_and_apart_from_the_others():
    for scene in SCENES:
        objects = [(place, group.size / 2) for group in scene.groups for place in group.places]
        for place, radius in objects:
            assert radius <= place.x <= 1 - radius
            assert radius <= place.y <= 1 - radius
        for i, (a, radius_a) in enumerate(objects):
            for b, radius_b in objects[:i]:
                assert max(abs(a.x - b.x), abs(a.y - b.y)) >= radius_a + radius_b - 1e-9


@pytest.mark.parametrize("size", [(160, 120), (120, 160)])
def test_a_centre_crop_shows_what_the_square_picture_shows(size):
    for scene in SCENES[:40]:
        if scene.background.pattern != "plain":
            continue
        left, top = (size[0] - 120) // 2, (size[1] - 120) // 2
        cropped = draw_scene(scene, size).crop((left, top, left + 120, top + 120))
        assert np.abs(pixels(cropped) - pixels(draw_scene(scene, (120, 120)))).mean() < 2


@pytest.mark.parametrize("side", [96, 250, 700, 2000])
def test_a_scene_looks_the_same_at_every_size(side):
    for scene in SCENES[:12]:
        reduced = draw_scene(scene, (side, side)).resize((64, 64), Image.Resampling.BICUBIC)
        assert np.abs(pixels(reduced) - pixels(draw_scene(scene, (64, 64)))).mean() < 6


def test_every_object_is_seen():
    for scene in SCENES[:100]:
        image = pixels(draw_scene(scene, (128, 128)))
        for group in scene.groups:
            if group.shape in {"ring", "moon"} or group.texture != "plain":
                continue
            for place in group.places:
                at = image[round(place.y * 128), round(place.x * 128)]
                assert np.abs(at - np.array(scene.background.rgb)).max() > 25, (group, scene.background)


def test_grey_scenes_are_drawn_without_colour():
    grey = next(scene for scene in map(sample_scene, map(random.Random, range(1000))) if scene.grey)
    image = pixels(draw_scene(grey, (64, 64)))
    assert (image == image[..., :1]).all()


def test_a_watermark_is_seen_and_leaves_the_original_alone():
    image = draw_scene(SCENES[0], (128, 128))
    before = image.tobytes()
    marked = watermarked(image, random.Random(0))
    assert image.tobytes() == before
    assert marked.size == image.size
    assert (np.abs(pixels(marked) - pixels(image)).max(axis=2) > 20).mean() > 0.03
    assert marked.tobytes() == watermarked(image, random.Random(0)).tobytes()


@pytest.mark.parametrize("text", ["x", "SALE", "terms and conditions of the end", "word " * 30, "  ", "\n"])
def test_text_is_drawn_inside_the_picture(text):
    for seed in range(6):
        image = pixels(draw_text_image(text, (120, 90), random.Random(seed)))
        ground = image[0, 0]
        inked = (np.abs(image - ground).max(axis=2) > 30).nonzero()
        assert len(inked[0]) > 0
        for axis, length in ((0, 90), (1, 120)):
            assert inked[axis].min() > 0
            assert inked[axis].max() < length - 1
