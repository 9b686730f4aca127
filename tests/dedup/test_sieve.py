"""Short vectors: their products bound cosines from above, whatever the basis, and a search by them finds every pair."""

import math
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.account import Account
from curate.dedup import search
from curate.dedup.cosine import cosine
from curate.dedup.search import near_pairs
from curate.dedup.sieve import Basis, Sieve, fit

CPU = torch.device("cpu")


def orthogonal(rng: np.random.Generator, dim: int) -> npt.NDArray[np.float64]:
    return np.linalg.qr(rng.standard_normal((dim, dim)))[0]


def spread(rng: np.random.Generator, count: int, dim: int, decay: float) -> npt.NDArray[np.float16]:
    """Vectors whose directions differ in length by a power law, around a mean; a tenth are near another one."""
    lengths = np.arange(1, dim + 1) ** -decay
    vectors = rng.standard_normal((count, dim)) * lengths @ orthogonal(rng, dim) / np.linalg.norm(lengths)
    vectors += 0.5 * orthogonal(rng, dim)[0]
    some = count // 10
    vectors[:some] = vectors[some : 2 * some] + 0.05 * rng.standard_normal((some, dim)) / np.sqrt(dim)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def pairs(vectors: npt.NDArray[np.float16], floor: float, folder: Path, **more: object) -> list[tuple[int, int, float]]:
    tile = int(str(more.pop("tile", 4096)))
    """The pairs of all vectors, which are also those between two parts of them; every pair is accounted for."""
    found = searched(vectors, None, floor, tile, folder, **more)
    cut = len(vectors) // 3
    across = searched(vectors[:cut], vectors[cut:], floor, tile, folder, **more)
    assert [(i, j + cut, cosine) for i, j, cosine in across] == [pair for pair in found if pair[0] < cut <= pair[1]]
    return found


def searched(
    left: npt.NDArray[np.float16],
    right: npt.NDArray[np.float16] | None,
    floor: float,
    tile: int,
    folder: Path,
    **more: object,
) -> list[tuple[int, int, float]]:
    account = Account()
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        found = list(near_pairs(left, right, floor, tile, CPU, Path(scratch), account, **more))  # type: ignore[arg-type]
    assert account.pairs == (math.comb(len(left), 2) if right is None else len(left) * len(right))
    return [pair for columns in found for pair in zip(*(column.tolist() for column in columns), strict=True)]


def brute(vectors: npt.NDArray[np.float16], floor: float) -> list[tuple[int, int, float]]:
    i, j = np.triu_indices(len(vectors), 1)
    similarity = cosine(vectors, vectors, i, j)
    near = similarity >= floor
    return list(zip(i[near].tolist(), j[near].tolist(), similarity[near].tolist(), strict=True))


@given(
    dim=st.integers(3, 70),
    decay=st.floats(0, 2),
    bend=st.sampled_from([0.0, 1e-9, 1e-4]),
    scale=st.sampled_from([1.0, 2.0**-9, 60_000.0]),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_a_short_product_and_its_margin_are_never_below_the_cosine(
    dim: int, decay: float, bend: float, scale: float, seed: int, data: st.DataObject
) -> None:
    """Also by a basis that is not quite orthogonal, whose defect is measured."""
    rng = np.random.default_rng(seed)
    vectors = spread(rng, 40, dim, decay)
    vectors[3] = vectors[2]
    vectors[4] = -vectors[2]
    vectors[5] = np.eye(dim)[0]
    vectors = (vectors.astype(np.float64) * scale).astype(np.float16)
    vectors = vectors[np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)]
    rotation = orthogonal(rng, dim) + bend * rng.standard_normal((dim, dim)) / dim
    head = data.draw(st.integers(0, dim - 1))
    basis = Basis.of(rotation, (head, data.draw(st.integers(head, dim - 1))))
    wide = vectors.astype(np.float64)
    lengths = np.sqrt((wide * wide).sum(axis=1))
    cosines = wide @ wide.T / np.outer(lengths, lengths)
    for short in basis.shorten(vectors):
        assert short.dtype == np.float32
        assert (short @ short.T + basis.margin(short.shape[1]) >= cosines).all()


def test_the_defect_of_a_basis_is_in_its_margin() -> None:
    """Two short vectors of a basis that halves a direction: their product is far below the cosine."""
    halved = Basis.of(np.diag([1.0, 0.5]), (1, 1))
    (short, _) = halved.shorten(np.array([[0, 1], [0, 1]], np.float16))
    assert short[0] @ short[1] < 0.3
    assert short[0] @ short[1] + halved.margin(2) >= 1


@pytest.mark.parametrize("floor", [0.5, 0.9])
@pytest.mark.parametrize(("tile", "threads"), [(4096, 1), (300, 3), (7, 2)])
def test_all_pairs_are_found_by_any_basis(floor: float, tile: int, threads: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(tile)
    vectors = spread(rng, 700 if tile > 7 else 90, 32, 0.7)
    expected = brute(vectors, floor)
    assert len(expected) > 5
    for heads in ((1, 2), (6, 20), (30, 31)):
        basis = Basis.of(orthogonal(rng, 32), heads)
        found = pairs(vectors, floor, tmp_path, tile=tile, threads=threads, choose=lambda *_, basis=basis: basis)
        assert found == expected


def test_pairs_at_the_floor_are_told_apart_exactly(tmp_path: Path) -> None:
    """The floor is each of the cosines in turn, and the next one above it."""
    rng = np.random.default_rng(5)
    vectors = spread(rng, 60, 16, 0.5)
    basis = Basis.of(orthogonal(rng, 16), (4, 9))
    for _, _, similarity in brute(vectors, 0.8)[::7]:
        for floor in (similarity, similarity + 1e-6):
            assert pairs(vectors, floor, tmp_path, choose=lambda *_: basis) == brute(vectors, floor)


def test_the_fitted_sieve_leaves_few_candidates_and_misses_none(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    vectors = spread(rng, 6_000, 256, 0.9)
    basis = fit(vectors, 0.95)
    assert basis is not None
    sieve = Sieve.of(vectors, 0.95, basis, tmp_path / "sieve")
    candidates = sum(len(i) for i, _ in search._by_short_vectors([sieve], 4096, 2, Account()))
    whole = pairs(vectors, 0.95, tmp_path, choose=lambda *_: None)
    assert pairs(vectors, 0.95, tmp_path, threads=2) == whole
    assert len(whole) >= 500
    assert candidates < 4 * len(whole)


def test_where_short_vectors_exclude_nothing_the_plain_product_is_used() -> None:
    rng = np.random.default_rng(2)
    even = rng.standard_normal((5_000, 24))
    assert fit((even / np.linalg.norm(even, axis=1, keepdims=True)).astype(np.float16), 0.2) is None
    assert fit(np.ones((5_000, 24), np.float16), 0.9) is None
    assert fit(spread(rng, 300, 256, 0.9), 0.9) is None
