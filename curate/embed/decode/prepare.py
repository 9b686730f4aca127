"""What is done to a stored image before a model sees it: decoded once, prepared for each model, measured."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from curate.embed.decode.images import REDUCED, decode_at
from curate.embed.model.preprocess import Preprocess
from curate.embed.pixels.basic import Measures, measure
from curate.embed.pixels.contract import PixelMeasure, PixelModel, PixelScorer, Value

_ENOUGH = 2
"""Where images are decoded reduced, their shorter side keeps this many times the model's (benchmarks/decode.py)."""


@dataclass(frozen=True)
class Prepared:
    """A decoded image.

    Attributes:
        crops: as each model takes it, uint8[3, height, width]; then as each `PixelModel` does.
        measures: of its pixels, where they were asked for.
        values: what each `PixelMeasure` gives, in their order.
    """

    crops: Sequence[npt.NDArray[np.uint8]]
    measures: Measures | None
    values: Sequence[Sequence[Value]] = ()


@dataclass(frozen=True)
class Prepare:
    """Prepares an image. Can be pickled.

    Attributes:
        preprocesses: of the models.
        sides: the longer side of what each model takes.
        with_measures: whether its pixels are measured, too.
        is_exact: as open_clip does it, or near it (`preprocess.py`, `images.decode`).
        scorers: pixel scorers that other packages bring.
    """

    preprocesses: Sequence[Preprocess]
    sides: Sequence[int]
    with_measures: bool
    is_exact: bool
    scorers: Sequence[PixelScorer] = ()

    def __call__(self, data: bytes) -> Prepared | None:
        """The image, or None where the bytes cannot be decoded."""
        # A model's picture depends on that model alone, and the measures' on none: each is the same, whatever
        # else is computed with it.
        sides = [None if self.is_exact else max(REDUCED, _ENOUGH * side) for side in self.sides]
        further = [scorer.kind.side for scorer in self.scorers]
        pictures = decode_at(data, [*sides, *([REDUCED] if self.with_measures else []), *further])
        if pictures is None:
            return None
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
