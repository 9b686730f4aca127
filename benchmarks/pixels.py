"""Measures the time of the pixel columns, now and when they were measured at full size (version 1).

    python benchmarks/pixels.py --photos FOLDER [--rounds 5]

One thread, milliseconds per decoded picture, the fastest of some rounds. `before` is version 1 of the pixels pass,
which computed each column from every pixel at the stored size: colourfulness over the whole picture, sharpness from a
bicubic resize. `shift` is the median over the pictures of |after - before| / before, and `same_hash` the share of
unchanged hashes. `pdq` is the PDQ hash, which is computed only where a step reads it. The large pictures are 2 × 2
photographs side by side, enlarged to 1600 × 1600. The last line is one JSON object.

Measured on two cores of an AMD EPYC, 140 photographs of ImageNet (most 500 × 375), Pillow 13:

              decode  before  after   colorfulness  sharpness  contrast  same hash
    photos      1.9     3.4    2.0      0.012         0.37       0         1.00
    large      18.3    44.8    5.5      0.022         0.37       0.005     0.94

Most of the remaining time is the resize for the hash (Lanczos, 0.8 ms for a photo), which imagehash prescribes.
Sharpness has another scale than before, as a bilinear resize blurs more than a bicubic one.

`pdq`, measured later on the same machine while others worked on it (`after` came to 3.3 and 8.1): 1.7 for a photo and
13.4 for a large one. Nearly all of the latter is the reference's shrinking to 512 pixels, which smaller pictures do
not need.
"""

import argparse
import io
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from curate.decoding.images import REDUCED, decode
from curate.embed.pixels.basic import Measures, measure
from curate.embed.pixels.kinds.pdq import hash_and_quality
from curate.phash import perceptual_hashes

COLUMNS = ("brightness", "contrast", "colorfulness", "sharpness")


def main() -> None:
    """Measures and prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=Path, required=True, help="a folder of JPEG photographs")
    parser.add_argument("--rounds", type=int, default=5, help="the best counts (5)")
    arguments = parser.parse_args()
    singles = [path.read_bytes() for path in sorted(arguments.photos.glob("*.jpg"))]
    result = {}
    for name, stored in (("photos", singles), ("large", large(singles))):
        whole, reduced = [opened(data, None) for data in stored], [opened(data, REDUCED) for data in stored]
        before, after = [at_full_size(image) for image in whole], [measure(image) for image in reduced]
        hashes = [perceptual_hashes(np.stack([measures.thumbnail for measures in of])) for of in (before, after)]

        def time_of(work: Callable[[Any], object], over: Sequence[object]) -> float:
            return best(lambda: [work(one) for one in over], arguments.rounds, len(over))

        result[name] = {
            "pictures": len(stored),
            "decode": time_of(decode, stored),
            "before": time_of(at_full_size, whole),
            "after": time_of(measure, reduced),
            "pdq": time_of(hash_and_quality, reduced),
            "shift": {column: shift(before, after, column) for column in COLUMNS},
            "same_hash": round(float(np.mean([a == b for a, b in zip(*hashes, strict=True)])), 3),
        }
        print(name, json.dumps(result[name]))
    print(json.dumps(result))


def opened(data: bytes, shorter_side: int | None) -> Image.Image:
    """Returns the decoded picture in RGB, as fetch stores it."""
    image = decode(data, shorter_side)
    assert image
    return image.convert("RGB")


def large(singles: list[bytes]) -> list[bytes]:
    """Returns pictures of four photographs side by side, enlarged."""
    found = []
    for at in range(0, len(singles) - 3, 4):
        canvas = Image.new("RGB", (1600, 1600))
        for place, data in enumerate(singles[at : at + 4]):
            canvas.paste(opened(data, None).resize((800, 800)), (800 * (place % 2), 800 * (place // 2)))
        sink = io.BytesIO()
        canvas.save(sink, "JPEG", quality=95)
        found.append(sink.getvalue())
    return found


def at_full_size(rgb: Image.Image) -> Measures:
    """Computes the columns as version 1 did."""
    luma = rgb.convert("L")
    values = np.arange(256)
    levels = np.asarray(luma.histogram(), np.float64)
    mean = float(values @ levels / levels.sum())
    r, g, b = (np.asarray(rgb)[..., channel].astype(np.int16) for channel in range(3))
    red_green, yellow_blue = r - g, r + g - 2 * b
    deviations = np.array([red_green.std(), yellow_blue.std() / 2])
    means = np.array([red_green.mean(), yellow_blue.mean() / 2])
    y = np.asarray(luma.resize((224, 224), Image.Resampling.BICUBIC)).astype(np.int16)
    laplacian = y[:-2, 1:-1] + y[2:, 1:-1] + y[1:-1, :-2] + y[1:-1, 2:] - 4 * y[1:-1, 1:-1]
    return Measures(
        thumbnail=np.asarray(luma.resize((32, 32), Image.Resampling.LANCZOS)),
        brightness=mean,
        contrast=float(np.sqrt((values - mean) ** 2 @ levels / levels.sum())),
        colorfulness=float(np.hypot(*deviations) + 0.3 * np.hypot(*means)),
        sharpness=float(laplacian.var()),
    )


def shift(before: list[Measures], after: list[Measures], column: str) -> float:
    """Returns the median relative change of a column."""
    a, b = (column_of(measures, column) for measures in (before, after))
    return round(float(np.median(abs(b - a) / np.maximum(a, 1e-9))), 4)


def column_of(measures: list[Measures], column: str) -> npt.NDArray[np.float64]:
    """Returns one column as an array."""
    return np.array([getattr(measure, column) for measure in measures])


def best(work: Callable[[], object], rounds: int, count: int) -> float:
    """Returns the milliseconds per picture in the fastest of some rounds."""
    took = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        took.append(time.perf_counter() - start)
    return round(min(took) / count * 1000, 3)


if __name__ == "__main__":
    main()
