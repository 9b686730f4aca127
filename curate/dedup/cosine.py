"""Cosines in float64 of vectors that are stored as float16, the same on every machine.

Stored values are float16 of magnitude at most 1. Their products are whole multiples of 2^-48, and a sum of them below
16 fits into float64's 53 bits, so the dot products are exact in any order of summation.
"""

import numpy as np
import numpy.typing as npt

DIGITS = 6
"""Similarities are rounded to this many decimals, and compared with a floor after that."""

_VALUES = 1 << 16
"""Float64 values of one side that are held at a time: they stay in the cache."""

Vectors = npt.NDArray[np.float16]
Indices = npt.NDArray[np.int64]


def cosine(left: Vectors, right: Vectors, i: Indices, j: Indices) -> npt.NDArray[np.float64]:
    """The cosines of left[i[k]] and right[j[k]], rounded to 1e-6."""
    similarity = np.empty(len(i), dtype=np.float64)
    step = max(1, _VALUES // max(1, left.shape[1]))
    for start in range(0, len(i), step):
        chunk = slice(start, start + step)
        one, other = left[i[chunk]].astype(np.float64), right[j[chunk]].astype(np.float64)
        norms = dot(one, one) * dot(other, other)
        similarity[chunk] = dot(one, other) / np.sqrt(norms)
    rounded: npt.NDArray[np.float64] = np.round(similarity, DIGITS)
    return rounded


def cosines(left: Vectors, right: Vectors) -> npt.NDArray[np.float64]:
    """Returns the cosine of each of `left` and each of `right`, rounded to 1e-6, by the float64 product: the oracle."""
    near, far = np.asarray(left, np.float64), np.asarray(right, np.float64)
    norms = np.outer(dot(near, near), dot(far, far))
    rounded: npt.NDArray[np.float64] = np.round(near @ far.T / np.sqrt(norms), DIGITS)
    return rounded


def reach(left: Vectors, right: Vectors, least: float) -> npt.NDArray[np.bool_]:
    """Returns whether the cosine of each of `left` and each of `right`, rounded to 1e-6, is at least `least`.

    Float32 products decide all but those within `margin` of `least`, whose cosines are computed in float64.
    """
    products = _unit(left) @ _unit(right).T
    off = margin(left.shape[1])
    reached: npt.NDArray[np.bool_] = products >= least + off
    i, j = np.nonzero((products >= least - off) & ~reached)
    reached[i, j] = cosine(left, right, i, j) >= least
    return reached


def margin(dim: int) -> float:
    """Returns by how much a float32 product of unit vectors may differ from their cosine, rounded to 1e-6.

    The rounding error of the product is at most dim · 2^-24 in any order of summation, and as much again that of the
    two norms; 1e-6 covers the rounding of the result.
    """
    return float((2 * dim + 16) * 2.0**-24 + 1e-6)


def _unit(vectors: Vectors) -> npt.NDArray[np.float32]:
    wide = np.asarray(vectors, np.float32)
    unit: npt.NDArray[np.float32] = wide / np.sqrt(np.einsum("kd,kd->k", wide, wide))[:, None]
    return unit


def dot(left: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns the dot product of left[k] and right[k] for each k."""
    return np.asarray(np.einsum("kd,kd->k", left, right))
