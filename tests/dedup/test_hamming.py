"""The search among hashes of 64 and 256 bits, by words and among all pairs, against brute force."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.account import Account
from curate.dedup import hamming

WAYS = ["words", "all"]


@st.composite
def near_lists(draw: st.DrawFn, bits: int) -> list[int]:
    """Hashes of which many are a few bits from one another, anywhere in them."""
    found = draw(st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=4))
    for _ in range(draw(st.integers(0, 25))):
        flips = draw(st.sets(st.integers(0, bits - 1), max_size=18 if bits == 64 else 70))
        found.append(draw(st.sampled_from(found)) ^ sum(1 << bit for bit in flips))
    return found


def brute_force(hashes: list[int], within: int) -> list[tuple[int, int, int]]:
    pairs = itertools.combinations(range(len(hashes)), 2)
    differing = ((i, j, (hashes[i] ^ hashes[j]).bit_count()) for i, j in pairs)
    return [pair for pair in differing if pair[2] <= within]


def searched(hashes: list[int], within: int, bits: int, way: str) -> list[tuple[int, int, int]]:
    """The pairs of all hashes; those between two halves of them are among them."""
    numbers = [[value >> shift & (2**64 - 1) for shift in range(0, bits, 64)] for value in hashes]
    array = np.array(numbers, np.uint64).reshape(len(hashes), bits // 64)
    with pytest.MonkeyPatch.context() as patch:
        # A candidate that costs nothing: words are always worthwhile, but where there is no pair.
        patch.setattr(hamming, "_CANDIDATE_COST", 1e9 if way == "all" else 1e-9)
        array = array[:, 0] if bits == 64 else array
        found = accounted(array, None, within)
        cut = len(hashes) // 2
        across = [(i, j + cut, differing) for i, j, differing in accounted(array[:cut], array[cut:], within)]
    assert across == [pair for pair in found if pair[0] < cut <= pair[1]]
    return found


def accounted(left: hamming.Hashes, right: hamming.Hashes | None, within: int) -> list[tuple[int, int, int]]:
    account = Account()
    found = list(hamming.near_hashes(left, right, within, account))
    assert account.pairs == (math.comb(len(left), 2) if right is None else len(left) * len(right))
    pairs = [pair for of in found for pair in zip(*(column.tolist() for column in of), strict=True)]
    assert account.compared == len(pairs)
    return pairs


@given(data=st.data(), candidates=st.sampled_from([1, 700, 1 << 20]))
@settings(deadline=None)
@pytest.mark.parametrize(("bits", "most"), [(64, 16), (256, 34)])
def test_looking_up_words_finds_every_pair_within_once_and_in_order(
    bits: int, most: int, data: st.DataObject, candidates: int
) -> None:
    hashes, within = data.draw(near_lists(bits)), data.draw(st.integers(0, most))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hamming, "_CANDIDATES", candidates)
        assert searched(hashes, within, bits, "words") == brute_force(hashes, within)


@given(data=st.data(), rows=st.sampled_from([3, 32]), columns=st.sampled_from([7, 4096]))
@settings(deadline=None, max_examples=40)
@pytest.mark.parametrize("bits", [64, 256])
def test_comparing_all_finds_every_pair_within_once_and_in_order(
    bits: int, data: st.DataObject, rows: int, columns: int
) -> None:
    hashes, within = data.draw(near_lists(bits)), data.draw(st.integers(0, bits))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hamming, "_ROWS", rows)
        patch.setattr(hamming, "_COLUMNS", columns)
        assert searched(hashes, within, bits, "all") == brute_force(hashes, within)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("within", [0, 1, 3, 4, 6, 7, 8, 10])
def test_differences_that_spread_over_the_words_in_every_way(within: int, way: str) -> None:
    # 0 against hashes with so many bits set, or one more, divided among the four words in every way.
    ways = [spread for spread in itertools.product(range(within + 2), repeat=4) if within <= sum(spread) <= within + 1]
    hashes = [0, *(sum(((1 << bits) - 1) << 16 * word for word, bits in enumerate(spread)) for spread in ways)]
    near = [sum(spread) <= within for spread in ways]
    found = [pair[1] for pair in searched(hashes, within, 64, way) if pair[0] == 0]
    assert found == [1 + place for place, is_near in enumerate(near) if is_near]


@pytest.mark.parametrize("within", [15, 16, 31, 32, 47, 48, 50])
def test_differences_in_the_fewest_words_and_in_all_sixteen_of_256_bits(within: int) -> None:
    rng = np.random.default_rng(within)
    hashes = [0]
    for differing in [within, within + 1] * 8:
        # Spread evenly, the hardest case for words; then crowded into the first or the last words.
        each, more = divmod(differing, 16)
        bits = rng.permutation([each + 1] * more + [each] * (16 - more)).tolist()
        hashes.append(sum(((1 << count) - 1) << 16 * word for word, count in enumerate(bits)))
    hashes += [(1 << within) - 1, ((1 << within) - 1) << (256 - within), (1 << within + 1) - 1]
    for way in WAYS if within < 48 else ["all"]:
        assert searched(hashes, within, 256, way) == brute_force(hashes, within)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("bits", [64, 256])
@pytest.mark.parametrize("hashes", [[], [5], [5] * 40])
def test_few_hashes_and_equal_ones(hashes: list[int], bits: int, way: str) -> None:
    assert searched(hashes, 3, bits, way) == brute_force(hashes, 3)


def test_the_way_is_chosen_by_the_number_of_candidates() -> None:
    def way(bits: int, within: int, count: int) -> str:
        numbers = np.random.default_rng(0).integers(0, 2**64, (count, bits // 64), np.uint64)
        taken: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(hamming, "_among_all", lambda *_: taken.append("all") or [])
            patch.setattr(hamming, "_by_words", lambda *_: taken.append("words") or [])
            assert accounted(numbers, None, within) == []
        return taken[0]

    assert way(256, 31, 20_000) == way(64, 8, 20_000) == "words"
    assert way(256, 60, 20_000) == way(256, 31, 100) == "all"


def test_both_ways_find_the_same_pairs_of_many_hashes() -> None:
    rng = np.random.default_rng(1)
    hashes = rng.integers(0, 2**64, (3000, 4), np.uint64)
    copies = hashes[rng.integers(0, 3000, 1500)]
    for row in copies:
        for bit in rng.integers(0, 256, rng.integers(0, 45)):
            row[bit // 64] ^= np.uint64(1 << int(bit % 64))
    hashes = np.concatenate([hashes, copies])
    values = [sum(int(number) << 64 * place for place, number in enumerate(row)) for row in hashes]
    by_words, among_all = (searched(values, 31, 256, way) for way in WAYS)
    assert by_words == among_all
    assert len(by_words) > 900
