"""The exact search among vectors: finds all pairs with a cosine at or above a floor, tile by tile.

A float32 product of two tiles finds the candidates, with a margin that its rounding error cannot exceed; each
candidate's cosine is then computed again in float64. Stored values are float16 of magnitude at most 1. Their products
are whole multiples of 2^-48, and a sum of them below 16 fits into float64's 53 bits, so the dot products are exact in
any order of summation. The result does not depend on tile size, threads, BLAS or device.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

Found = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]

DIGITS = 6
"""Similarities are rounded to this many decimals, and compared with the floor after that."""

_EXACT_VALUES = 1 << 22
"""Float64 values of one side that are held at a time while exact cosines are computed (32 MB)."""


def near_pairs(vectors: npt.NDArray[np.float16], floor: float, tile: int, device: torch.device) -> Iterator[Found]:
    """Yields all pairs i < j whose cosine, rounded to 1e-6, is at least the floor.

    Memory: two tiles of float32 vectors, one tile × tile block of products, and the pairs found in one row
    of tiles.

    Args:
        vectors: float16 [n, dim], finite and not zero; read a tile at a time.
        floor: the lowest cosine that counts.
        tile: vectors in one side of a tile.
        device: computes the products.

    Yields:
        (i, j, similarity) of one row of tiles, ascending by (i, j); the rows of tiles are in ascending order, too.
    """
    count, dim = vectors.shape
    # The rounding error of a float32 dot product of unit vectors is at most dim · 2^-24 in any order of summation,
    # and as much again for the two norms; 1e-6 covers the rounding of the result.
    bound = floor - (2 * dim + 16) * 2.0**-24 - 1e-6
    for top in range(0, count, tile):
        left = _unit(vectors[top : top + tile], device)
        rows, columns = [], []
        for start in range(top, count, tile):
            right = left if start == top else _unit(vectors[start : start + tile], device)
            above = _at_least(left @ right.T, bound)
            i, j = above[:, 0] + top, above[:, 1] + start
            rows.append(i[i < j])
            columns.append(j[i < j])
        i, j = np.concatenate(rows), np.concatenate(columns)
        similarity = cosine(vectors, i, j)
        near = similarity >= floor
        i, j, similarity = i[near], j[near], similarity[near]
        order = np.lexsort((j, i))
        yield i[order], j[order], similarity[order]


def _at_least(products: torch.Tensor, bound: float) -> npt.NDArray[np.int64]:
    """The (row, column) of each value at or above `bound`, int64 [k, 2]."""
    # Most rows hold no such value, and a maximum costs a seventh of comparing and listing every value.
    peaked = (products.amax(dim=1) >= bound).nonzero().flatten()
    found = (products[peaked] >= bound).nonzero()
    found[:, 0] = peaked[found[:, 0]]
    listed: npt.NDArray[np.int64] = found.cpu().numpy()
    return listed


def cosine(
    vectors: npt.NDArray[np.float16], i: npt.NDArray[np.int64], j: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """The cosines of vectors[i[k]] and vectors[j[k]], rounded to 1e-6."""
    similarity = np.empty(len(i), dtype=np.float64)
    step = max(1, _EXACT_VALUES // max(1, vectors.shape[1]))
    for start in range(0, len(i), step):
        chunk = slice(start, start + step)
        left, right = vectors[i[chunk]].astype(np.float64), vectors[j[chunk]].astype(np.float64)
        norms = _dot(left, left) * _dot(right, right)
        similarity[chunk] = _dot(left, right) / np.sqrt(norms)
    rounded: npt.NDArray[np.float64] = np.round(similarity, DIGITS)
    return rounded


def _dot(left: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(np.einsum("kd,kd->k", left, right))


def _unit(vectors: npt.NDArray[np.float16], device: torch.device) -> torch.Tensor:
    # A copy, as torch warns about arrays that cannot be written, such as this read-only map.
    stored: torch.Tensor = torch.from_numpy(np.array(vectors)).to(device).float()
    unit: torch.Tensor = stored / stored.norm(dim=1, keepdim=True)
    return unit
