"""The exact search among vectors: finds all pairs with a cosine at or above a floor, tile by tile.

Candidates are found with a margin that no rounding error can exceed; each candidate's cosine is then computed again in
float64. Stored values are float16 of magnitude at most 1. Their products are whole multiples of 2^-48, and a sum of
them below 16 fits into float64's 53 bits, so the dot products are exact in any order of summation. The result does not
depend on how candidates are found: on tile size, threads, BLAS, device, or the sample of a sieve.

On a CPU, candidates are found by short vectors (`curate.dedup.sieve`) where a sample says that this costs less; else,
and on a GPU, by the float32 product of whole vectors.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from curate.dedup.sieve import Basis, Sieve, fit

Indices = npt.NDArray[np.int64]
Found = tuple[Indices, Indices, npt.NDArray[np.float64]]

DIGITS = 6
"""Similarities are rounded to this many decimals, and compared with the floor after that."""

_EXACT_VALUES = 1 << 16
"""Float64 values of one side that are held at a time while exact cosines are computed: they stay in the cache."""

_ROWS, _COLUMNS = 512, 1024
"""Vectors on the two sides of a product of short vectors: its 2 MB stay in the cache while they are looked through."""

_GATHERED = 256
"""Candidates that are compared at a time by their longer short vectors."""


def near_pairs(
    vectors: npt.NDArray[np.float16],
    floor: float,
    tile: int,
    device: torch.device,
    scratch: Path,
    *,
    threads: int = 1,
    choose: Callable[[npt.NDArray[np.float16], float], Basis | None] = fit,
) -> Iterator[Found]:
    """Yields all pairs i < j whose cosine, rounded to 1e-6, is at least the floor.

    Memory: two tiles of vectors, for each thread one block of products, and the pairs found in one row of tiles.

    Args:
        vectors: float16 [n, dim], finite and not zero, in random order; read a tile at a time.
        floor: the lowest cosine that counts.
        tile: vectors in one side of a tile.
        device: computes the products.
        scratch: a local folder, for short vectors: up to 2 kB a vector.
        threads: threads that compare short vectors; products of whole vectors use torch's own.
        choose: chooses the basis of short vectors, or none; called on a CPU only.

    Yields:
        (i, j, similarity) of one row of tiles, ascending by (i, j); the rows of tiles are in ascending order, too.
    """
    basis = choose(vectors, floor) if device.type == "cpu" else None
    if basis is None:
        found = _by_whole_vectors(vectors, floor, tile, device)
    else:
        found = _by_short_vectors(Sieve.of(vectors, floor, basis, scratch), tile, threads)
    for i, j in found:
        similarity = cosine(vectors, i, j)
        near = similarity >= floor
        i, j, similarity = i[near], j[near], similarity[near]
        order = np.lexsort((j, i))
        yield i[order], j[order], similarity[order]


def _by_whole_vectors(
    vectors: npt.NDArray[np.float16], floor: float, tile: int, device: torch.device
) -> Iterator[tuple[Indices, Indices]]:
    """Yields the candidates of each row of tiles, by the float32 product of whole vectors."""
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
        yield np.concatenate(rows), np.concatenate(columns)


def _by_short_vectors(sieve: Sieve, tile: int, threads: int) -> Iterator[tuple[Indices, Indices]]:
    """Yields the candidates of each row of tiles, by both kinds of short vectors."""
    count = len(sieve.first)

    def candidates(block: tuple[slice, slice]) -> tuple[Indices, Indices]:
        left, right = block
        i, j = _sifted(sieve, left, right)
        return i[i < j], j[i < j]

    # torch's own threads cost more for products of this size than they save.
    own = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for top in range(0, count, tile):
                rows = list(_slices(top, min(top + tile, count), _ROWS))
                blocks = [(left, right) for right in _slices(top, count, _COLUMNS) for left in rows]
                found = list(pool.map(candidates, blocks))
                yield np.concatenate([i for i, _ in found]), np.concatenate([j for _, j in found])
    finally:
        torch.set_num_threads(own)


def _sifted(sieve: Sieve, left: slice, right: slice) -> tuple[Indices, Indices]:
    """The pairs of two ranges that neither kind of short vectors excludes."""
    first = torch.from_numpy(np.array(sieve.first[left])) @ torch.from_numpy(np.array(sieve.first[right])).T
    width = first.shape[1]
    at = np.flatnonzero(first.numpy() >= sieve.bounds[0])
    i, j = at // width + left.start, at % width + right.start
    products = np.empty(len(at), np.float32)
    for start in range(0, len(at), _GATHERED):
        chunk = slice(start, start + _GATHERED)
        np.einsum("kd,kd->k", sieve.second[i[chunk]], sieve.second[j[chunk]], out=products[chunk])
    left_over = products >= sieve.bounds[1]
    return i[left_over], j[left_over]


def _slices(start: int, stop: int, step: int) -> Iterator[slice]:
    return (slice(at, min(at + step, stop)) for at in range(start, stop, step))


def _at_least(products: torch.Tensor, bound: float) -> Indices:
    """The (row, column) of each value at or above `bound`, int64 [k, 2]."""
    # Most rows hold no such value, and a maximum costs a seventh of comparing and listing every value.
    peaked = (products.amax(dim=1) >= bound).nonzero().flatten()
    found = (products[peaked] >= bound).nonzero()
    found[:, 0] = peaked[found[:, 0]]
    listed: Indices = found.cpu().numpy()
    return listed


def cosine(vectors: npt.NDArray[np.float16], i: Indices, j: Indices) -> npt.NDArray[np.float64]:
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
