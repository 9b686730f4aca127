"""What is measured of an image without a model: the columns of `schema.PIXELS`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from curate.embed.decode.images import REDUCED
from curate.schema import PIXELS

_HASH_SIDE = 32
_SHARPNESS_SIDE = 224


_COLOUR_SIDE = 128


@dataclass(frozen=True)
class Measures:
    """One image's measures.

    Attributes:
        thumbnail: luma at 32 × 32, uint8, of which the hash is made.
        brightness: mean of luma, 0 to 255.
        contrast: its standard deviation.
        colorfulness: M3 of Hasler and Süsstrunk, Measuring colourfulness in natural images (2003), of the picture
            shrunk by a whole factor to a shorter side of 128 pixels or a little more: JPEG stores colours coarser
            than luma.
        sharpness: variance of the Laplacian (4 neighbours) of luma at 224 × 224 pixels (bilinear).
    """

    thumbnail: npt.NDArray[np.uint8]
    brightness: float
    contrast: float
    colorfulness: float
    sharpness: float


def measure(image: Image.Image) -> Measures:
    """Measures a decoded image.

    What is measured is the picture as `images.decode` gives it at a shorter side of `images.REDUCED`, shrunk
    further by a whole factor where that is still longer than twice as much (a large PNG): a function of the
    stored image alone, at a bounded size.
    """
    rgb = _shrunk(image if image.mode == "RGB" else image.convert("RGB"), REDUCED)
    luma = rgb.convert("L")
    levels = np.asarray(luma.histogram(), np.float64)
    mean, deviation = _moments(np.arange(256), levels)
    return Measures(
        thumbnail=np.asarray(luma.resize((_HASH_SIDE, _HASH_SIDE), Image.Resampling.LANCZOS)),
        brightness=mean,
        contrast=deviation,
        colorfulness=_colorfulness(_shrunk(rgb, _COLOUR_SIDE)),
        sharpness=_sharpness(luma),
    )


def perceptual_hashes(thumbnails: npt.NDArray[np.uint8]) -> list[str]:
    """64-bit DCT hashes, as `imagehash.phash` makes them.

    Each of the 8 × 8 lowest frequencies gives one bit: whether it lies above their median.

    Args:
        thumbnails: uint8[n, 32, 32], luma.

    Returns:
        n times 16 hex digits.
    """
    place, frequency = np.arange(_HASH_SIDE), np.arange(8)
    basis = 2 * np.cos(np.pi * np.outer(frequency, 2 * place + 1) / (2 * _HASH_SIDE))
    low = basis @ thumbnails.astype(np.float64) @ basis.T
    # The thumbnails are whole numbers; what lies below this is rounding, which must not decide bits.
    low = np.round(low, 6).reshape(len(thumbnails), 64)
    bits = low > np.median(low, axis=1, keepdims=True)
    return [packed.tobytes().hex() for packed in np.packbits(bits, axis=1)]


def pixel_table(image_ids: pa.Array, measured: Mapping[int, Measures | None]) -> pa.Table:
    """The part's `pixels.parquet`.

    Args:
        image_ids: of all the part's images.
        measured: by row, for the fetched images: the measures, or None where the image did not decode.
    """
    rows = [row for row, measures in measured.items() if measures is not None]
    found = [measures for measures in measured.values() if measures is not None]
    decoded = np.full(len(image_ids), None, object)
    decoded[list(measured)] = [measures is not None for measures in measured.values()]
    # Where each image's measures stand in `found`; null where it has none.
    at = np.full(len(image_ids), -1)
    at[rows] = np.arange(len(rows))
    index = pa.array(at, mask=at < 0)
    thumbnails = [measures.thumbnail for measures in found]
    hashes = perceptual_hashes(np.stack(thumbnails)) if found else []
    columns = {
        "image_id": image_ids,
        "decoded": pa.array(decoded, pa.bool_()),
        "phash": pa.array(hashes, pa.string()).take(index),
    }
    for name in ("brightness", "contrast", "colorfulness", "sharpness"):
        columns[name] = pa.array([getattr(measures, name) for measures in found], pa.float32()).take(index)
    return pa.table(columns, schema=PIXELS)


def _moments(values: npt.NDArray[np.int64], weights: npt.NDArray[np.float64]) -> tuple[float, float]:
    mean = float(values @ weights / weights.sum())
    return mean, float(np.sqrt((values - mean) ** 2 @ weights / weights.sum()))


def _shrunk(image: Image.Image, shorter_side: int) -> Image.Image:
    """The image with boxes of pixels averaged, its shorter side still at least that long where it was."""
    factor = min(image.size) // shorter_side
    return image.reduce(factor) if factor > 1 else image


def _colorfulness(rgb: Image.Image) -> float:
    red, green, blue = (np.asarray(band).ravel() for band in rgb.split())
    red_green = np.subtract(red, green, dtype=np.int16)
    # Twice the paper's (R + G) / 2 - B, so that it stays a whole number.
    yellow_blue = np.add(red, green, dtype=np.int16) - np.add(blue, blue, dtype=np.int16)
    (rg_mean, rg_deviation), (yb_mean, yb_deviation) = _spread(red_green), _spread(yellow_blue)
    return float(np.hypot(rg_deviation, yb_deviation / 2) + 0.3 * np.hypot(rg_mean, yb_mean / 2))


def _sharpness(luma: Image.Image) -> float:
    small = luma.resize((_SHARPNESS_SIDE, _SHARPNESS_SIDE), Image.Resampling.BILINEAR)
    y = np.asarray(small).astype(np.int16)
    laplacian = y[:-2, 1:-1] + y[2:, 1:-1] + y[1:-1, :-2] + y[1:-1, 2:] - 4 * y[1:-1, 1:-1]
    return _spread(laplacian.ravel())[1] ** 2


def _spread(values: npt.NDArray[np.int16]) -> tuple[float, float]:
    """Mean and standard deviation, from whole sums, which are exact."""
    exact = values.astype(np.float64)
    n, total, squares = len(exact), float(exact.sum()), float(np.einsum("i,i", exact, exact))
    return total / n, math.sqrt(max(0.0, n * squares - total * total)) / n
