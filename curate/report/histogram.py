"""Counts a similarity in fine bins, and lays the counts out as stacked bars."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from curate.errors import short
from curate.report.text import count

FINE = 0.001
"""Width of a counted bin: 2,000 bins cover the range of a cosine, whatever the number of pairs."""

_BINS = round(2 / FINE)
_STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)

BARS = 80
"""Bars in a drawing, at most."""

TICKS = 6
"""Labels along an axis, at most."""


@dataclass
class Histogram:
    """The number of pairs per bin of a cosine, and per stack.

    Attributes:
        stacks: the number of kinds of pairs that are counted separately.
        counts: int64[stacks, bins of width FINE from -1 to 1].
        missing: pairs without a value.
    """

    stacks: int
    counts: npt.NDArray[np.int64] = field(init=False)
    missing: int = 0

    def __post_init__(self) -> None:
        self.counts = np.zeros((self.stacks, _BINS), np.int64)

    def add(self, values: npt.NDArray[np.floating], stack: npt.NDArray[np.integer]) -> None:
        """Counts values; NaN counts as missing, values that rounding moved beyond ±1 count in the outermost bin.

        Args:
            values: float[rows].
            stack: int[rows], each below `stacks`.
        """
        has_value = ~np.isnan(values)
        self.missing += int((~has_value).sum())
        bins = np.clip(_bin(values[has_value].astype(np.float64)), 0, _BINS - 1)
        flat = np.bincount(stack[has_value].astype(np.int64) * _BINS + bins, minlength=self.counts.size)
        self.counts += flat.reshape(self.counts.shape)

    def quantile(self, share: float, stack: int | None = None) -> float | None:
        """The value that this share of the pairs is below, to within FINE; None where there are no pairs."""
        counts = self.counts.sum(axis=0) if stack is None else self.counts[stack]
        total = int(counts.sum())
        if not total:
            return None
        reached = int(np.searchsorted(np.cumsum(counts), max(1, share * total)))
        return float((reached + 0.5) * FINE - 1)


@dataclass(frozen=True)
class Bar:
    """A bar: its place along the axis and its stacked blocks, for an SVG with lengths in percent.

    Attributes:
        x: left edge, percent of the width.
        width: percent of the width.
        blocks: (stack, y, height) in percent of the height, y from the top.
        says: a description of the bar, for its tooltip.
    """

    x: float
    width: float
    blocks: Sequence[tuple[int, float, float]]
    says: str


@dataclass(frozen=True)
class Mark:
    """A labelled place on an axis, in percent of its length."""

    at: float
    label: str


@dataclass(frozen=True)
class Drawing:
    """A histogram ready to be drawn: bars, ticks of both axes (y from the top), threshold lines."""

    bars: Sequence[Bar]
    x_ticks: Sequence[Mark]
    y_ticks: Sequence[Mark]
    thresholds: Sequence[Mark]
    bin_width: float


def draw(histogram: Histogram, names: Sequence[str], thresholds: Sequence[float]) -> Drawing | None:
    """Returns the layout of a histogram's drawing; None where nothing was counted.

    Args:
        histogram: the counts.
        names: the name of each stack, the lowest first.
        thresholds: values to mark with a line.
    """
    used = np.flatnonzero(histogram.counts.sum(axis=0))
    if not used.size:
        return None
    marked = [int(_bin(np.float64(line))) for line in thresholds]
    first, last = min([int(used[0]), *marked]), max([int(used[-1]), *marked]) + 1
    merged = next(round(step / FINE) for step in _STEPS if (last - first) * FINE / step <= BARS - 1)
    # Bars are aligned to the threshold, so that it never divides a bar.
    anchor = marked[0] if marked else _bin(np.float64(0))
    first -= int(first - anchor) % merged
    last += (first - last) % merged
    low, span = first * FINE - 1, (last - first) * FINE
    padded = np.pad(histogram.counts, ((0, 0), (merged, merged)))[:, first + merged : last + merged]
    heights = padded.reshape(histogram.stacks, -1, merged).sum(axis=2)
    top, y_ticks = _scale(int(heights.sum(axis=0).max()))
    n_bars = heights.shape[1]
    bars = []
    for position in np.flatnonzero(heights.sum(axis=0)):
        left = low + position * merged * FINE
        parts = [(stack, int(number)) for stack, number in enumerate(heights[:, position]) if number]
        bars.append(
            Bar(
                x=round(100 * position / n_bars, 3),
                width=round(100 / n_bars, 3),
                blocks=_stack(parts, top),
                says=f"{left:.3f} to {left + merged * FINE:.3f}: "
                + ", ".join(f"{count(number)} {names[stack]}" for stack, number in parts),
            )
        )
    step = next((step for step in _STEPS if span / step <= TICKS), _STEPS[-1])
    ticks = np.arange(np.ceil(round(low / step, 6)), np.floor(round((low + span) / step, 6)) + 1) * step
    return Drawing(
        bars=bars,
        x_ticks=[Mark(round(100 * (tick - low) / span, 3), f"{tick + 0.0:.4g}") for tick in ticks.round(6)],
        y_ticks=y_ticks,
        thresholds=[Mark(round(100 * (line - low) / span, 3), short(line)) for line in thresholds],
        bin_width=merged * FINE,
    )


def _bin(values: npt.NDArray[np.float64] | np.float64) -> npt.NDArray[np.int64]:
    """Returns the bins of values; a small offset keeps values on an edge from being rounded into the bin below."""
    return np.floor((values + 1) / FINE + 1e-6).astype(np.int64)


def _stack(parts: Sequence[tuple[int, int]], top: int) -> list[tuple[int, float, float]]:
    blocks, below = [], 0
    for stack, number in parts:
        below += number
        blocks.append((stack, round(100 - 100 * below / top, 3), round(100 * number / top, 3)))
    return blocks


def _scale(highest: int) -> tuple[int, list[Mark]]:
    """Returns the top of the y axis, a round number not below the highest bar, and its round ticks."""
    step = next(digit * 10**power for power in range(19) for digit in (1, 2, 5) if highest <= 4 * digit * 10**power)
    top = -(-highest // step) * step
    return top, [Mark(round(100 - 100 * at / top, 3), count(at)) for at in range(step, top + 1, step)]
