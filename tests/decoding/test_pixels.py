"""Pictures pass through messages unchanged; what is no picture is refused."""

import numpy as np
import pytest
from PIL import Image

from curate.decoding.pixels import MODES, packed, unpacked

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (31, 17, 3), dtype=np.uint8))


def in_mode(mode):
    if mode in ("LAB", "I;16"):
        return (
            Image.effect_noise((17, 31), 50).resize((17, 31)).convert("I;16")
            if mode == "I;16"
            else Image.new(mode, (17, 31), 7)
        )
    return NOISE.convert("P").convert(mode) if mode == "PA" else NOISE.convert(mode)


@pytest.mark.parametrize("mode", sorted(MODES))
def test_every_mode_comes_out_as_it_was(mode):
    image = in_mode(mode)
    value, pixels = packed(image)
    found = unpacked(value, bytearray(pixels))
    assert (found.mode, found.size) == (mode, (17, 31))
    assert found.tobytes() == image.tobytes()
    if mode not in ("I;16", "LAB"):
        assert found.convert("RGB").tobytes() == image.convert("RGB").tobytes()


@pytest.mark.parametrize(
    ("value", "pixels"),
    [
        (["RGB", [17, 31], None], 17 * 31 * 4 - 1),
        (["RGB", [10**9, 10**9], None], 100),
        (["RGB", [0, 31], None], 0),
        (["RGB", [-1, -1], None], 4),
        (["RGB", [1.0, 1], None], 4),
        (["RGB", ["1", 1], None], 4),
        (["BGR;24", [1, 1], None], 3),
        ([["RGB"], [1, 1], None], 4),
        (["P", [1, 1], ["CMYK", [1, 2, 3, 4]]], 1),
        (["P", [1, 1], ["RGB", [256, 2, 3]]], 1),
        (["P", [1, 1], ["RGB", 1 << 40]], 1),
        (["RGB", [1, 1]], 4),
        (None, 4),
        ({"mode": "RGB"}, 4),
    ],
)
def test_what_is_no_picture_is_refused(value, pixels):
    with pytest.raises((ValueError, TypeError, LookupError)):
        unpacked(value, bytearray(pixels))
