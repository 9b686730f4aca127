"""Prepares a stored image: decodes it once, resizes and crops it for each model, measures its pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from curate.decoding.images import REDUCED, decode_at
from curate.embed.model.preprocess import Preprocess
from curate.embed.pixels.basic import Measures, measure
from curate.embed.pixels.contract import PixelMeasure, PixelModel, PixelScorer, Value

_ENOUGH = 2
"""The shorter side of an image that is decoded reduced is at least this many times the model's (benchmarks/decode.py).
"""


@dataclass(frozen=True)
class Prepared:
    """The results for one decoded image.

    Attributes:
        crops: the input of each model, uint8[3, height, width], then that of each `PixelModel`.
        measures: measures of its pixels, where they are needed.
        values: the values of each `PixelMeasure`, in their order.
    """

    crops: Sequence[npt.NDArray[np.uint8]]
    measures: Measures | None
    values: Sequence[Sequence[Value]] = ()


@dataclass(frozen=True)
class Prepare:
    """Prepares an image. Can be pickled.

    Attributes:
        preprocesses: the preprocessing of each model.
        sides: the longer side of each model's input, in pixels.
        with_measures: whether the pixels are measured.
        is_exact: whether pixels equal those of open_clip's preprocessing, or may differ slightly (`preprocess.py`,
            `decoding.images.decode`).
        scorers: pixel scorers besides the measures.
    """

    preprocesses: Sequence[Preprocess]
    sides: Sequence[int]
    with_measures: bool
    is_exact: bool
    scorers: Sequence[PixelScorer] = ()

    @property
    def shorter_sides(self) -> list[int | None]:
        """The shorter side at which an image is decoded for each model, for the measures and for each scorer.

        The size at which an image is decoded for a model depends on that model alone, and the size for measures on no
        model: each result is the same, whatever else is computed in the same call.
        """
        models = [None if self.is_exact else max(REDUCED, _ENOUGH * side) for side in self.sides]
        further = [scorer.kind.side for scorer in self.scorers]
        return [*models, *([REDUCED] if self.with_measures else []), *further]

    def __call__(self, data: bytes) -> Prepared | None:
        """Decodes an image in this process; returns its results, or None where the bytes cannot be decoded."""
        pictures = decode_at(data, self.shorter_sides)
        return None if pictures is None else self.of(pictures)

    def of(self, pictures: Sequence[Image.Image]) -> Prepared:
        """Returns the results for a decoded image, given its picture for each of `shorter_sides`."""
        taken = iter(pictures)
        crops = [preprocess(next(taken), exact=self.is_exact) for preprocess in self.preprocesses]
        measures = measure(next(taken)) if self.with_measures else None
        values = []
        for scorer in self.scorers:
            picture = next(taken).convert("RGB")
            if isinstance(scorer.kind, PixelModel):
                crops.append(scorer.kind.crop(picture, scorer.keys))
            elif isinstance(scorer.kind, PixelMeasure):
                values.append(scorer.kind.measure(picture, scorer.keys))
        return Prepared(crops, measures, values)
