"""The built-in pixel measures, which need no model: the columns of `schema.PIXELS`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from curate.phash import perceptual_hashes, reduced, shrunk, thumbnail
from curate.schema import PIXELS

_SHARPNESS_SIDE = 224
_COLOUR_SIDE = 128


@dataclass(frozen=True)
class Measures:
    """The measures of one image.

    Attributes:
        thumbnail: luma at 32 × 32 pixels, uint8, from which the hash is computed.
        brightness: mean of luma, 0 to 255.
        contrast: standard deviation of luma.
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

    `image` is the picture that `decoding.images.decode` returns for a shorter side of `REDUCED`, and is shrunk further
    where it is large (`phash.reduced`). So the measures depend on the stored image alone, and the work is bounded.
    """
    rgb = reduced(image)
    luma = rgb.convert("L")
    levels = np.asarray(luma.histogram(), np.float64)
    mean, deviation = _moments(np.arange(256), levels)
    return Measures(
        thumbnail=thumbnail(luma),
        brightness=mean,
        contrast=deviation,
        colorfulness=_colorfulness(shrunk(rgb, _COLOUR_SIDE)),
        sharpness=_sharpness(luma),
    )


def pixel_table(image_ids: pa.Array, measured: Mapping[int, Measures | None]) -> pa.Table:
    """Returns the table `pixels.parquet` of a part.

    Args:
        image_ids: the ids of all the part's images.
        measured: by row, for the fetched images: the measures, or None where the image could not be decoded.
    """
    rows = [row for row, measures in measured.items() if measures is not None]
    present = [measures for measures in measured.values() if measures is not None]
    decoded = np.full(len(image_ids), None, object)
    decoded[list(measured)] = [measures is not None for measures in measured.values()]
    # The position of each image's measures in `present`; null where it has none.
    at = np.full(len(image_ids), -1)
    at[rows] = np.arange(len(rows))
    index = pa.array(at, mask=at < 0)
    thumbnails = [measures.thumbnail for measures in present]
    hashes = perceptual_hashes(np.stack(thumbnails)) if present else []
    columns = {
        "image_id": image_ids,
        "decoded": pa.array(decoded, pa.bool_()),
        "phash": pa.array(hashes, pa.string()).take(index),
    }
    for name in ("brightness", "contrast", "colorfulness", "sharpness"):
        columns[name] = pa.array([getattr(measures, name) for measures in present], pa.float32()).take(index)
    return pa.table(columns, schema=PIXELS)


def _moments(values: npt.NDArray[np.int64], weights: npt.NDArray[np.float64]) -> tuple[float, float]:
    mean = float(values @ weights / weights.sum())
    return mean, float(np.sqrt((values - mean) ** 2 @ weights / weights.sum()))


def _colorfulness(rgb: Image.Image) -> float:
    red, green, blue = (np.asarray(band).ravel() for band in rgb.split())
    red_green = np.subtract(red, green, dtype=np.int16)
    # Twice the paper's (R + G) / 2 - B, so that it is a whole number.
    yellow_blue = np.add(red, green, dtype=np.int16) - np.add(blue, blue, dtype=np.int16)
    (rg_mean, rg_deviation), (yb_mean, yb_deviation) = _spread(red_green), _spread(yellow_blue)
    return float(np.hypot(rg_deviation, yb_deviation / 2) + 0.3 * np.hypot(rg_mean, yb_mean / 2))


def _sharpness(luma: Image.Image) -> float:
    small = luma.resize((_SHARPNESS_SIDE, _SHARPNESS_SIDE), Image.Resampling.BILINEAR)
    y = np.asarray(small).astype(np.int16)
    laplacian = y[:-2, 1:-1] + y[2:, 1:-1] + y[1:-1, :-2] + y[1:-1, 2:] - 4 * y[1:-1, 1:-1]
    return _spread(laplacian.ravel())[1] ** 2


def _spread(values: npt.NDArray[np.int16]) -> tuple[float, float]:
    """Returns mean and standard deviation, computed from sums of whole numbers, which are exact."""
    exact = values.astype(np.float64)
    n, total, squares = len(exact), float(exact.sum()), float(np.einsum("i,i", exact, exact))
    return total / n, math.sqrt(max(0.0, n * squares - total * total)) / n
