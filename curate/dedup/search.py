"""The exact search among vectors: finds all pairs with a cosine at or above a floor, tile by tile.

Candidates are found with a margin that no rounding error can exceed; each candidate's cosine is then computed again, in
float64 (`curate.dedup.cosine`). The result does not depend on how candidates are found: on tile size, threads, BLAS,
device, or the sample of a sieve.

On a CPU, candidates are found by short vectors (`curate.dedup.sieve`) where a sample says that this costs less; else,
and on a GPU, by the float32 product of whole vectors.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from curate.account import Account
from curate.dedup.cosine import Indices, Vectors, cosine, dot, margin
from curate.dedup.sieve import Basis, Sieve, fit

Found = tuple[Indices, Indices, npt.NDArray[np.float64]]

_NONE = np.empty(0, np.int64)

_ROWS, _COLUMNS = 512, 1024
"""Vectors on the two sides of a product of short vectors: its 2 MB stay in the cache while they are looked through."""

_GATHERED = 256
"""Candidates that are compared at a time by their longer short vectors."""

_PARTS, _COUNTED = 4_000, 4_096
"""Whole multiples of what part of 1 stand for the values of a vector that is counted, and vectors that are counted at a
time."""


def near_pairs(
    left: Vectors,
    right: Vectors | None,
    floor: float,
    tile: int,
    device: torch.device,
    scratch: Path,
    account: Account,
    *,
    threads: int = 1,
    choose: Callable[[Vectors, float], Basis | None] = fit,
) -> Iterator[Found]:
    """Yields all pairs whose cosine, rounded to 1e-6, is at least the floor.

    Memory: two tiles of vectors, for each thread one block of products, and the pairs found in one row of tiles.

    Args:
        left: float16 [n, dim], finite and not zero, in random order; read a tile at a time.
        right: another set, as `left`, of which each is paired with each of `left`; None: the pairs i < j of `left`.
        floor: the lowest cosine that counts.
        tile: vectors in one side of a tile.
        device: computes the products.
        scratch: a local folder, for short vectors: up to 2 kB a vector.
        account: is told what happens to every pair.
        threads: threads that compare short vectors; products of whole vectors use torch's own.
        choose: chooses the basis of short vectors, or none; called on a CPU only.

    Yields:
        (i, j, similarity) of one row of tiles, ascending by (i, j); the rows of tiles are in ascending order, too.
    """
    basis = choose(left, floor) if device.type == "cpu" else None
    if basis is None:
        found = _by_whole_vectors(left, right, floor, tile, device, account)
    else:
        sieves = [Sieve.of(left, floor, basis, scratch / "left")]
        sieves += [] if right is None else [Sieve.of(right, floor, basis, scratch / "right")]
        found = _by_short_vectors(sieves, tile, threads, account)
    others = left if right is None else right
    for i, j in found:
        account.compared += len(i)
        similarity = cosine(left, others, i, j)
        near = similarity >= floor
        i, j, similarity = i[near], j[near], similarity[near]
        order = np.lexsort((j, i))
        yield i[order], j[order], similarity[order]


def near_counts(vectors: Vectors, sample: Vectors, floor: float) -> Indices:
    """Returns about how many of `sample` have a cosine at or above the floor with each of `vectors`.

    Unit vectors are rounded to whole multiples of 1/4000, whose float32 products are whole numbers below 2^24 and exact
    in any order of summation, so the counts are the same on every machine. A cosine may be off by 1e-3.

    Args:
        vectors: float16 [n, dim], finite and not zero; dim below 36,000.
        sample: float16 [m, dim], likewise.
        floor: the lowest cosine that counts.
    """
    counts = np.zeros(len(vectors), np.int64)
    few = [_whole_numbers(sample[start : start + _COUNTED]).T for start in range(0, len(sample), _COUNTED)]
    for start in range(0, len(vectors), _COUNTED):
        rows = _whole_numbers(vectors[start : start + _COUNTED])
        for others in few:
            counts[start : start + len(rows)] += ((rows @ others) >= floor * _PARTS**2).sum(dim=1).numpy()
    return counts


def _whole_numbers(vectors: Vectors) -> torch.Tensor:
    wide = np.asarray(vectors, np.float64)
    unit = wide / np.sqrt(dot(wide, wide))[:, None]
    return torch.from_numpy(np.rint(unit * _PARTS).astype(np.float32))


def _by_whole_vectors(
    left: Vectors, right: Vectors | None, floor: float, tile: int, device: torch.device, account: Account
) -> Iterator[tuple[Indices, Indices]]:
    """Yields the candidates of each row of tiles, by the float32 product of whole vectors."""
    dim = left.shape[1]
    others = left if right is None else right
    bound = floor - margin(dim)
    account.state("float32", values=dim, below=bound)
    for top in range(0, len(left), tile):
        rows = slice(top, min(top + tile, len(left)))
        here = _unit(left[rows], device)
        found_i, found_j = [], []
        for columns in _slices(top if right is None else 0, len(others), tile):
            there = here if right is None and columns.start == top else _unit(others[columns], device)
            above = _at_least(here @ there.T, bound)
            i, j = _wanted(above[:, 0] + top, above[:, 1] + columns.start, right)
            account.exclude("float32", _pairs(rows, columns, right) - len(i))
            found_i.append(i)
            found_j.append(j)
        yield np.concatenate([_NONE, *found_i]), np.concatenate([_NONE, *found_j])


def _by_short_vectors(
    sieves: Sequence[Sieve], tile: int, threads: int, account: Account
) -> Iterator[tuple[Indices, Indices]]:
    """Yields the candidates of each row of tiles, by both kinds of short vectors.

    Args:
        sieves: of the only set, or of both.
        tile: vectors in one row of tiles.
        threads: threads that compare.
        account: is told what happens to every pair.
    """
    left, right = sieves[0], sieves[-1]
    other = None if len(sieves) == 1 else right.first
    names = ("short", "longer")
    for name, width, bound in zip(names, (left.first.shape[1], left.second.shape[1]), left.bounds, strict=True):
        account.state(name, values=width, below=bound)

    held = threading.local()

    def candidates(block: tuple[slice, slice]) -> tuple[Indices, Indices, int]:
        rows, columns = block
        near, far = (torch.from_numpy(np.array(side)) for side in (left.first[rows], right.first[columns]))
        width, count = len(far), len(near) * len(far)
        # To ask for memory at each product would cost a fifth more.
        if not hasattr(held, "products"):
            held.products, held.passed = torch.empty(_ROWS * _COLUMNS), np.empty(_ROWS * _COLUMNS, np.bool_)
        first = torch.mm(near, far.T, out=held.products[:count].view(len(near), width))
        at = np.flatnonzero(np.greater_equal(first.numpy().ravel(), left.bounds[0], out=held.passed[:count]))
        i, j = _wanted(at // width + rows.start, at % width + columns.start, other)
        products = np.empty(len(i), np.float32)
        for start in range(0, len(i), _GATHERED):
            chunk = slice(start, start + _GATHERED)
            np.einsum("kd,kd->k", left.second[i[chunk]], right.second[j[chunk]], out=products[chunk])
        is_left = products >= left.bounds[1]
        return i[is_left], j[is_left], len(i)

    # torch's own threads cost more for products of this size than they save.
    own = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for top in range(0, len(left.first), tile):
                rows = list(_slices(top, min(top + tile, len(left.first)), _ROWS))
                blocks = [
                    (some, columns)
                    for columns in _slices(top if other is None else 0, len(right.first), _COLUMNS)
                    for some in rows
                    if _pairs(some, columns, other)
                ]
                found = list(pool.map(candidates, blocks))
                for (some, columns), (i, _, passed) in zip(blocks, found, strict=True):
                    account.exclude("short", _pairs(some, columns, other) - passed)
                    account.exclude("longer", passed - len(i))
                yield (
                    np.concatenate([_NONE, *(i for i, _, _ in found)]),
                    np.concatenate([_NONE, *(j for _, j, _ in found)]),
                )
    finally:
        torch.set_num_threads(own)


def _pairs(rows: slice, columns: slice, right: object | None) -> int:
    """The number of pairs of two ranges; where there is one set only, of those i < j."""
    if right is not None:
        return len(range(rows.start, rows.stop)) * len(range(columns.start, columns.stop))
    i = np.arange(rows.start, rows.stop)
    above: Indices = np.maximum(columns.stop - np.maximum(i + 1, columns.start), 0)
    return int(above.sum())


def _wanted(i: Indices, j: Indices, right: object | None) -> tuple[Indices, Indices]:
    """The pairs; where there is one set only, those i < j."""
    return (i, j) if right is not None else (i[i < j], j[i < j])


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


def _unit(vectors: Vectors, device: torch.device) -> torch.Tensor:
    # A copy, as torch warns about arrays that cannot be written, such as this read-only map.
    stored: torch.Tensor = torch.from_numpy(np.array(vectors)).to(device).float()
    unit: torch.Tensor = stored / stored.norm(dim=1, keepdim=True)
    return unit
