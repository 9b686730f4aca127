"""The exact search among 64-bit hashes: finds all pairs that differ in few bits, by multi-index hashing.

A hash is cut into 4 words of 16 bits. Where two hashes differ in at most r = 4a + b bits (0 ≤ b < 4), one of the first
b + 1 words differs in at most a bits, or one of the others in at most a - 1. Otherwise at least
(b + 1)(a + 1) + (3 - b)a = r + 1 bits would differ. So the search looks up, for each word, the hashes whose word
differs in no more bits than that, and compares them in full (Norouzi, Punjani and Fleet: Fast search in Hamming space
with multi-index hashing, CVPR 2012).
"""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import numpy.typing as npt

from curate.duplicates import Account

BITS = 64

_WORDS, _WORD_BITS = 4, 16

_CANDIDATES = 1 << 22
"""Candidate pairs that are compared at a time; a single hash may have more."""

Found = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]


def near_hashes(
    left: npt.NDArray[np.uint64], right: npt.NDArray[np.uint64] | None, within: int, account: Account
) -> Iterator[Found]:
    """Yields all pairs whose hashes differ in at most `within` bits.

    Memory: about 50 bytes for each hash, and the candidates that are compared at a time.

    Args:
        left: uint64 [n].
        right: uint64 [m], another set, each of which is paired with each of `left`; None: the pairs i < j of `left`.
        within: 0 to 64.
        account: is told how many pairs were compared in full.

    Yields:
        (i, j, differing bits) as arrays, ascending by (i, j) within and across the yielded arrays.
    """
    others = left if right is None else right
    index = [_Word(others, word, radius) for word, radius in enumerate(_radii(within)) if radius >= 0]
    most = np.zeros(len(left), np.int64)
    for word in index:
        most += word.candidates(left)
    before = np.concatenate([[0], np.cumsum(most)])
    account.bounds["words"] = {"bits": _WORD_BITS, "radii": [word.radius for word in index]}
    compared = start = 0
    while start < len(left):
        stop = int(np.searchsorted(before, before[start] + _CANDIDATES, "right")) - 1
        stop = max(stop, start + 1)
        found, candidates = _near_of(left, others, index, slice(start, stop), within, is_one=right is None)
        compared += candidates
        yield found
        start = stop
    account.compared += compared
    account.exclude("words", _pairs(len(left), len(others), is_one=right is None) - compared)


def _pairs(left: int, right: int, *, is_one: bool) -> int:
    return left * (left - 1) // 2 if is_one else left * right


def _radii(within: int) -> list[int]:
    """The number of bits in which each word may differ; -1 for a word that need not be looked up."""
    a, b = divmod(within, _WORDS)
    return [a if word <= b else a - 1 for word in range(_WORDS)]


class _Word:
    """An index of the hashes by one of their words.

    Args:
        hashes: uint64 [n].
        word: its number, from 0 for the lowest bits.
        radius: the number of bits in which it may differ.
    """

    def __init__(self, hashes: npt.NDArray[np.uint64], word: int, radius: int) -> None:
        self.radius = radius
        self._shift = np.uint64(_WORD_BITS * word)
        values = self.of(hashes)
        self._order = np.argsort(values, kind="stable").astype(np.uint32 if len(hashes) < 1 << 32 else np.int64)
        counts = np.bincount(values, minlength=1 << _WORD_BITS)
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        flips = (bits for number in range(radius + 1) for bits in combinations(range(_WORD_BITS), number))
        self._masks = [np.uint16(sum(1 << bit for bit in bits)) for bits in flips]

    def of(self, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint16]:
        """The word of each hash."""
        return ((hashes >> self._shift) & np.uint64(0xFFFF)).astype(np.uint16)

    def candidates(self, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """For each hash, the number of indexed hashes whose word differs from its own in at most `radius` bits."""
        values = self.of(hashes)
        found = np.zeros(len(values), np.int64)
        for mask in self._masks:
            found += self._starts[(values ^ mask).astype(np.int64) + 1] - self._starts[values ^ mask]
        return found

    def look_up(
        self, hashes: npt.NDArray[np.uint64], first: int
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Yields pairs of arrays (i, j): hashes, numbered from `first`, and their candidates among those indexed."""
        rows, values = np.arange(first, first + len(hashes)), self.of(hashes)
        for mask in self._masks:
            bucket = (values ^ mask).astype(np.int64)
            begin = self._starts[bucket]
            counts = self._starts[bucket + 1] - begin
            i = np.repeat(rows, counts)
            # Within each run of one hash: 0, 1, 2, … from where its bucket begins.
            place = np.arange(len(i)) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(begin, counts)
            yield i, self._order[place].astype(np.int64)


def _near_of(
    left: npt.NDArray[np.uint64],
    right: npt.NDArray[np.uint64],
    index: list[_Word],
    some: slice,
    within: int,
    *,
    is_one: bool,
) -> tuple[Found, int]:
    """The near pairs (i, j) with i in a range, and the number of pairs that were compared in full."""
    pieces: list[Found] = []
    compared = 0
    for number, word in enumerate(index):
        for i, j in word.look_up(left[some], some.start):
            if is_one:
                later = j > i
                i, j = i[later], j[later]
            differ = left[i] ^ right[j]
            # A pair that several words find is compared for the first of them only.
            is_first = np.ones(len(i), bool)
            for earlier in index[:number]:
                is_first &= np.bitwise_count(earlier.of(differ)) > earlier.radius
            compared += int(np.count_nonzero(is_first))
            bits = np.bitwise_count(differ)
            near = is_first & (bits <= within)
            pieces.append((i[near], j[near], bits[near].astype(np.int64)))
    i, j, bits = (np.concatenate(columns) for columns in zip(*pieces, strict=True))
    order = np.lexsort((j, i))
    return (i[order], j[order], bits[order]), compared
