"""Short vectors whose products bound the cosines of long ones from above, so that most pairs need no long product.

For unit vectors x, y and an orthogonal R, x·y = (Rx)·(Ry). Split the rotated vectors into a head of h values and blocks
B of the rest. By Cauchy–Schwarz in each block,

    x·y ≤ head(x)·head(y) + Σ_B ‖x_B‖ ‖y_B‖,

which is the product of two vectors of h + (number of blocks) values, each of length 1 again. R is the basis of
principal components of a sample (of its second moments, not centred), largest first, which puts most of a vector's
length into its head (Panorama, arXiv 2510.00566, prunes searches for nearest neighbours by such a bound). Any R gives a
bound; a bad sample only makes it wide.

What arithmetic adds to the bound, for unit vectors of d values and short ones of m:

- R is computed, so it is orthogonal only to a defect ‖RᵀR − I‖, measured as the Frobenius norm, which is at least as
  large as the largest |xᵀ(I − RᵀR)y|; measuring it has errors below d² 2^-52.
- Unit vectors, rotation and norms are computed in float64: errors below 4 d^1.5 2^-53 in each short vector's length.
- Short vectors are stored as float32: each value changes by at most 2^-24 of itself, so the vector by 2^-24 of its
  length, and a product by twice that.
- A float32 product of m values, summed in any order, is off by at most m 2^-24 / (1 − m 2^-24) of both lengths.

`margin` is more than the sum by the error of m further values, which covers a bound that is compared as float32, and by
1e-6, which covers the rounding of similarities.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from curate.dedup.cosine import Vectors

HEADS = (16, 24, 32, 48, 64, 96, 128, 192, 256)
BLOCKS = 8
"""Blocks into which the rest is split; 16 exclude hardly more pairs and cost twice the width."""

_SAMPLE = 16_384
"""Vectors that the basis is fitted to; of them `_TRIED` on each side try what each head would exclude."""

_TRIED = 2_048
_CHUNK = 4_096

_LISTED, _WIDTH = 0.5, 0.03
_CANDIDATE, _CANDIDATE_WIDTH, _EXACT = 60.0, 0.4, 2_000.0
"""Nanoseconds of one core for each pair, and for each value of it, in a dense product; for each candidate whose longer
vectors are compared, and each of their values; for each cosine in float64. Measured on an AVX2 core at 512 dimensions.
They only choose the widths: other values give other widths and the same pairs."""


@dataclass(frozen=True)
class Basis:
    """An orthogonal basis, with the heads of the two kinds of short vectors.

    Args:
        rotation: float64 [d, d], orthonormal columns, the directions with most of the sample's length first.
        heads: head sizes of the first sieve, which compares all pairs, and of the second, which compares what the first
            leaves.
        defect: at least |xᵀ(I − RRᵀ)y| of any two unit vectors.
    """

    rotation: npt.NDArray[np.float64]
    heads: tuple[int, int]
    defect: float

    @classmethod
    def of(cls, rotation: npt.NDArray[np.float64], heads: tuple[int, int]) -> Self:
        """Returns the basis with its measured defect."""
        dim = len(rotation)
        defect = float(np.linalg.norm(_product(rotation, rotation.T) - np.eye(dim))) + dim**2 * 2.0**-52
        return cls(rotation, heads, defect)

    def margin(self, width: int) -> float:
        """Returns by how much a cosine may exceed the float32 product of short vectors of this width."""
        dim = len(self.rotation)
        return float((2 * width + 16) * 2.0**-24 + self.defect + 8 * dim**1.5 * 2.0**-53 + 1e-6)

    def shorten(self, vectors: Vectors) -> list[npt.NDArray[np.float32]]:
        """Returns the short vectors of each kind, float32 [n, head + blocks], of vectors float16 [n, d]."""
        rotated = _product(_unit(vectors), self.rotation)
        return [_short(rotated, head) for head in self.heads]


@dataclass(frozen=True)
class Sieve:
    """The short vectors of a set, in files of a local folder.

    Args:
        first: float32 [n, width], mapped: compared for all pairs.
        second: float32 [n, width], mapped: compared for the candidates of the first.
        bounds: the lowest product of each that a near pair may have.
    """

    first: npt.NDArray[np.float32]
    second: npt.NDArray[np.float32]
    bounds: tuple[float, float]

    @classmethod
    def of(cls, vectors: Vectors, floor: float, basis: Basis, scratch: Path) -> Self:
        """Shortens all vectors; holds some thousands in memory. Makes the folder `scratch` for the files."""
        widths = [head + _blocks(len(basis.rotation), head) for head in basis.heads]
        scratch.mkdir()
        files = [scratch / f"short-{number}" for number in range(len(widths))]
        with files[0].open("wb") as first, files[1].open("wb") as second:
            for start in range(0, len(vectors), _CHUNK):
                for file, short in zip((first, second), basis.shorten(vectors[start : start + _CHUNK]), strict=True):
                    file.write(short.tobytes())
        mapped = [
            np.empty((0, width), np.float32)
            if not len(vectors)
            # As a plain array: every slice of np.memmap costs some microseconds more.
            else np.asarray(np.memmap(file, np.float32, "r", shape=(len(vectors), width)))
            for file, width in zip(files, widths, strict=True)
        ]
        lowest = [floor - basis.margin(width) for width in widths]
        return cls(mapped[0], mapped[1], (lowest[0], lowest[1]))


def fit(vectors: Vectors, floor: float) -> Basis | None:
    """Returns the basis with which a search costs least, estimated on a sample; None where the plain product does.

    Args:
        vectors: float16 [n, d], finite and not zero, in random order.
        floor: the lowest cosine that counts.
    """
    count, dim = vectors.shape
    if count < 2 * _TRIED:
        return None
    rows = np.linspace(0, count - 1, min(count, _SAMPLE)).astype(np.int64)
    sample = _unit(vectors[rows])
    _, directions = torch.linalg.eigh(torch.from_numpy(_product(sample.T, sample)))
    rotation = np.ascontiguousarray(directions.numpy()[:, ::-1])
    tried = _product(sample[:: len(sample) // (2 * _TRIED)][: 2 * _TRIED], rotation)
    left, right = tried[0::2], tried[1::2]
    exact = float(np.mean(_product(left.astype(np.float32), right.T.astype(np.float32)) >= floor))
    heads = [head for head in HEADS if head < dim / 2]
    share = {
        head: float(np.mean(_product(_short(left, head), _short(right, head).T) >= floor - 1e-5)) for head in heads
    }
    # Rotating and shortening costs as much for each vector as these many dense products of pairs.
    once = 2 * dim * _WIDTH * 2 / count * dim
    costs = {
        (first, second): _LISTED
        + (first + BLOCKS) * _WIDTH
        + share[first] * (_CANDIDATE + (second + BLOCKS) * _CANDIDATE_WIDTH)
        + share[second] * _EXACT
        + once
        for first in heads
        for second in heads
        if first < second
    }
    plain = _LISTED + dim * _WIDTH + exact * _EXACT
    best = min(costs, key=lambda pair: costs[pair], default=None)
    return Basis.of(rotation, best) if best is not None and costs[best] < 0.9 * plain else None


def _unit(vectors: Vectors) -> npt.NDArray[np.float64]:
    wide = np.asarray(vectors, np.float64)
    unit: npt.NDArray[np.float64] = wide / np.sqrt(np.einsum("kd,kd->k", wide, wide))[:, None]
    return unit


def _product(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The matrix product, by torch: its threads are limited by the caller, and NumPy's are not."""
    product: npt.NDArray[Any] = (torch.from_numpy(left) @ torch.from_numpy(right)).numpy()
    return product


def _blocks(dim: int, head: int) -> int:
    return min(BLOCKS, dim - head)


def _short(rotated: npt.NDArray[np.float64], head: int) -> npt.NDArray[np.float32]:
    rest = rotated[:, head:]
    starts: Sequence[int] = np.linspace(0, rest.shape[1], _blocks(rotated.shape[1], head) + 1).astype(int)[:-1].tolist()
    lengths = np.sqrt(np.add.reduceat(rest * rest, starts, axis=1))
    return np.concatenate([rotated[:, :head], lengths], axis=1).astype(np.float32)
