"""Pictures as a model takes them: exactly as open_clip's preprocessing makes them, or near it."""

import numpy as np
import pytest
from helpers.embed_parts import draw
from hypothesis import given
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from curate.embed.model.preprocess import Preprocess

SETTINGS = [
    {"size": 32},
    {"size": (32, 48)},
    {"size": 32, "interpolation": "bilinear"},
    {"size": (24, 32), "resize_mode": "squash"},
    {"size": 32, "resize_mode": "longest", "fill_color": 7},
]


def of_open_clip(settings, image):
    """Levels, before the normalisation."""
    steps = image_transform_v2(PreprocessCfg(**settings), is_train=False).transforms
    for step in steps[:-2]:
        image = step(image)
    return np.asarray(image).transpose(2, 0, 1)


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_exact_is_open_clips_own(settings, mode):
    image = draw(3, (90, 70)).convert(mode)
    found = Preprocess.of(settings)(image)
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, of_open_clip(settings, image))


@given(st.sampled_from(SETTINGS), st.integers(1, 300), st.integers(1, 300), st.integers(0, 99))
def test_the_vectorised_resize_is_near_it(settings, width, height, seed):
    image = draw(seed, (max(width, 24), max(height, 24))).resize((width, height))
    found = Preprocess.of(settings)(image, exact=False)
    wanted = of_open_clip(settings, image)
    assert found.shape == wanted.shape
    moved = abs(found.astype(np.int16) - wanted)
    assert moved.max() <= 3
    assert moved.mean() < 0.1


@pytest.mark.parametrize("size", [(1, 500), (20_000, 1), (2, 300), (1, 1)])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("exact", [True, False])
def test_no_picture_is_too_thin(settings, size, exact):
    """Open_clip's own stops at one whose shorter side comes to no pixel."""
    picture = Image.new("RGB", size, (250, 20, 30))
    found = Preprocess.of(settings)(picture, exact=exact)
    pixels = found.reshape(3, -1).T.astype(int)
    assert (abs(pixels - (250, 20, 30)) <= 1).all(axis=1).any()


def test_a_picture_in_several_blocks_is_copied():
    image = draw(5, (4000, 3000))
    found, wanted = (Preprocess.of({"size": 64})(image, exact=exact).astype(np.int16) for exact in (False, True))
    assert abs(found - wanted).max() <= 3
    # As Pillow keeps pictures of more than 16 MB: not in one piece.
    with pytest.raises(ValueError, match="contiguous"):
        image.__arrow_c_array__()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_other_modes_take_the_exact_way(mode):
    preprocess = Preprocess.of({"size": 32})
    image = draw(1).convert(mode)
    np.testing.assert_array_equal(preprocess(image, exact=False), preprocess(image))


def test_only_resizes_that_are_known_are_vectorised():
    assert Preprocess.of({"size": 32}).resize
    assert Preprocess.of({"size": 32, "resize_mode": "squash"}).resize
    assert Preprocess.of({"size": 32, "resize_mode": "longest"}).resize is None
    assert Preprocess.of({"size": (32, 48)}).resize is None
