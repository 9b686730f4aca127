import importlib
import importlib.util
import io
import os
import sys

import pytest
from helpers.fetch_samples import decoded, drawing, encoded, settings
from hypothesis import assume, given
from hypothesis import settings as effort
from hypothesis import strategies as st
from PIL import Image

from curate.fetch.pictures.normalise import Normaliser
from curate.fetch.pictures.resize import geometry

pytestmark = pytest.mark.filterwarnings("ignore")  # albumentations'

MODES = ("no", "border", "keep_ratio", "keep_ratio_largest", "center_crop")


@pytest.fixture(scope="module")
def resizer_module():
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    if "img2dataset" in sys.modules:
        return importlib.import_module("img2dataset.resizer")
    # Without the package's own imports (ray, torch), which cost ten seconds.
    with pytest.MonkeyPatch.context() as patch:
        bare = importlib.util.module_from_spec(importlib.util.find_spec("img2dataset"))
        patch.setitem(sys.modules, "img2dataset", bare)
        return importlib.import_module("img2dataset.resizer")


@pytest.mark.parametrize("only_if_bigger", [True, False])
@pytest.mark.parametrize("mode", MODES)
@effort(max_examples=12, deadline=None)
@given(width=st.integers(1, 300), height=st.integers(1, 300))
def test_sizes_are_img2datasets(resizer_module, mode, only_if_bigger, width, height):
    resizer = resizer_module.Resizer(64, mode, only_if_bigger)
    theirs = resizer(io.BytesIO(encoded(Image.new("RGB", (width, height)), "PNG")))
    # Newer versions of OpenCV refuse a side of nothing.
    assume(theirs[5] is None)
    ours = geometry((width, height), mode, 64, only_if_bigger=only_if_bigger)
    assert ours.final == (theirs[1], theirs[2])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(200, 100), (100, 200), (40, 30), (64, 64), (300, 1)])
def test_pictures_have_the_planned_size(mode, size):
    picture = Normaliser(settings(resize=mode, image_size=64))(encoded(drawing(*size), "PNG"))
    assert (picture.width, picture.height) == geometry(size, mode, 64, only_if_bigger=True).final
    assert (picture.original_width, picture.original_height) == size


def test_crops_and_borders_lie_in_the_middle():
    wide = Image.new("RGB", (200, 100), "red")
    wide.paste("blue", (50, 0, 150, 100))
    data = encoded(wide, "PNG")
    cropped = decoded(Normaliser(settings(resize="center_crop", image_size=50, format="png"))(data).data)
    assert cropped.getcolors() == [(2500, (0, 0, 255))]
    padded = decoded(Normaliser(settings(resize="border", image_size=100, format="png"))(data).data)
    assert [padded.getpixel((50, y)) for y in (0, 24, 25, 74, 75, 99)] == [
        (255, 255, 255),
        (255, 255, 255),
        (0, 0, 255),
        (0, 0, 255),
        (255, 255, 255),
        (255, 255, 255),
    ]
