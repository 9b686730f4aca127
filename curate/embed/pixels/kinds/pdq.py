"""Columns `pdq` and `pdq_quality`: the perceptual hash of 256 bits that ThreatExchange publishes, and its quality.

The definition: The TMK+PDQF video-hashing algorithm and the PDQ image-hashing algorithm (`hashing/hashing.pdf` in
github.com/facebook/ThreatExchange), with the constants of the reference code beside it (`pdq`). Luma is smoothed by two
passes of box filters along rows and columns, sampled at 64 × 64 places, and transformed (DCT); each of 16 × 16 low
frequencies gives one bit: whether it is above their median.

As in the reference, a picture with a side of more than 512 pixels is first shrunk to 512, with its proportions kept
(Pillow's `thumbnail`, as in the Python reference; that in C++ does not keep them), and one with a side of less than 5
has no bit set and quality 0 (as in C++). The stored picture is hashed, decoded reduced where its shorter side has 896
pixels or more, as for the other pixel columns.

The references run the filters in floating point, and differ from each other in their rounding. Here luma, filters
and quality are whole numbers, hence exact. The transform is float64, rounded to six decimals, so that frequencies that
are equal by symmetry (all of them in a blank picture) are equal, and rounding errors decide no bit.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from curate.embed.pixels.contract import Columns, PixelMeasure, Value

_LONGEST, _LEAST = 512, 5
"""Pixels of a side: pictures are shrunk to the first, and have no hash below the second."""

_SAMPLES, _FREQUENCIES = 64, 16

_RED, _GREEN, _BLUE = 299, 587, 114
"""Thousandths of the colours in luma."""

_STEPS = 90
"""Quality is the sum of all steps between neighbours, each in whole hundredths of 255 levels, over this."""

Integers = npt.NDArray[np.int64]


class Pdq(PixelMeasure):
    """The hash of the stored picture and its quality, where a step reads one of them."""

    name = "pdq"
    prefix = "pdq"
    version = 1
    about = "A perceptual hash of 256 bits with its quality."
    keys = None

    def columns(self, scorer: str) -> Columns:
        """See `PixelKind`."""
        return {scorer: pa.string(), f"{scorer}_quality": pa.int32()}

    def measure(self, picture: Image.Image, keys: Any) -> Sequence[Value]:
        """See `PixelMeasure`."""
        del keys
        return hash_and_quality(picture)


def hash_and_quality(picture: Image.Image) -> tuple[str, int]:
    """Computes the hash of an RGB picture of any size.

    Returns:
        64 hex digits in the reference's order (the last digit holds the lowest frequencies), and the quality, 0 to 100;
        the reference discards hashes with a quality of 49 or less.
    """
    if max(picture.size) > _LONGEST:
        picture = picture.copy()
        picture.thumbnail((_LONGEST, _LONGEST))
    if min(picture.size) < _LEAST:
        return "0" * (_FREQUENCIES**2 // 4), 0
    levels, unit = _samples(np.asarray(picture))
    return _hash(levels / unit), _quality(levels, unit)


def _samples(rgb: npt.NDArray[np.uint8]) -> tuple[Integers, int]:
    """Returns smoothed luma at 64 × 64 places, as whole multiples of a unit, and how many units make one level."""
    height, width, _ = rgb.shape
    rows, row_weights, row_unit = _taps(height)
    columns, column_weights, column_unit = _taps(width)
    pixels = rgb.reshape(height, -1)
    # Weights add up to 48 at most, so sums of bytes fit into 16 bits, and their luma into 32.
    down = np.zeros((_SAMPLES, pixels.shape[1]), np.uint16)
    for places, weights in zip(rows, row_weights.astype(np.uint16), strict=True):
        down += pixels[places] * weights[:, None]
    red, green, blue = (down[:, colour::3].astype(np.int32) for colour in range(3))
    luma = _RED * red + _GREEN * green + _BLUE * blue
    levels = np.zeros((_SAMPLES, _SAMPLES), np.int64)
    for places, weights in zip(columns, column_weights, strict=True):
        levels += luma[:, places] * weights
    return levels, row_unit * column_unit * (_RED + _GREEN + _BLUE)


@functools.cache
def _taps(length: int) -> tuple[Integers, Integers, int]:
    """Returns the pixels along a side that two passes of the box filter add up for each of 64 samples.

    A box around place o reaches from `before` pixels before it to `after` pixels after it, cut off at the ends; its sum
    is divided by the number of pixels that are left.

    Args:
        length: pixels of the side, 5 to 512.

    Returns:
        places and whole weights, each [taps, 64]; and what the weights of each sample add up to.
    """
    window = -(-length // (2 * _SAMPLES))
    after = (window + 2) // 2 - 1
    before = window - 1 - after

    def box(place: int) -> range:
        return range(max(0, place - before), min(length, place + after + 1))

    centres = [(2 * sample + 1) * length // (2 * _SAMPLES) for sample in range(_SAMPLES)]
    unit = math.lcm(*(len(box(centre)) * len(box(inner)) for centre in centres for inner in box(centre)))
    offsets = np.arange(-2 * before, 2 * after + 1)
    weights = np.zeros((len(offsets), _SAMPLES), np.int64)
    for sample, centre in enumerate(centres):
        for inner in box(centre):
            for place in box(inner):
                weights[place - centre + 2 * before, sample] += unit // (len(box(centre)) * len(box(inner)))
    return (offsets[:, None] + centres).clip(0, length - 1), weights, unit


def _quality(levels: Integers, unit: int) -> int:
    total = sum(int((np.abs(np.diff(levels, axis=axis)) * 100 // (255 * unit)).sum()) for axis in (0, 1))
    return min(100, total // _STEPS)


def _hash(luma: npt.NDArray[np.float64]) -> str:
    found = np.round(_BASIS @ luma @ _BASIS.T, 6).ravel()
    # Of an even number of values the reference takes the lower one of the two in the middle.
    median = np.partition(found, len(found) // 2 - 1)[len(found) // 2 - 1]
    return np.packbits((found > median)[::-1]).tobytes().hex()


def _basis() -> npt.NDArray[np.float64]:
    """The rows 1 to 16 of the DCT of 64 values, [16, 64]."""
    frequency, place = np.arange(1, _FREQUENCIES + 1), np.arange(_SAMPLES)
    angles = np.pi / (2 * _SAMPLES) * np.outer(frequency, 2 * place + 1)
    basis: npt.NDArray[np.float64] = math.sqrt(2 / _SAMPLES) * np.cos(angles)
    return basis


_BASIS = _basis()

KIND = Pdq()
