"""The exact search among hashes of 64 or 256 bits: finds all pairs that differ in few bits.

A hash is cut into w words of 16 bits. Where two hashes differ in at most r = wa + b bits (0 ≤ b < w), one of the first
b + 1 words differs in at most a bits, or one of the others in at most a - 1. Otherwise at least
(b + 1)(a + 1) + (w - 1 - b)a = r + 1 bits would differ. So the search looks up, for each word, the hashes whose word
differs in no more bits than that, and compares them in full (Norouzi, Punjani and Fleet: Fast search in Hamming space
with multi-index hashing, CVPR 2012).

With more bits, words are looked up in more spellings and find more hashes. Where this costs more than a comparison of
all pairs, as a sample of the hashes says, all pairs are compared. Both ways find the same pairs.
"""

from collections.abc import Iterator
from itertools import combinations
from math import comb

import numpy as np
import numpy.typing as npt

from curate.account import Account

_WORD_BITS = 16

_WORDS = 64 // _WORD_BITS
"""Words in each number of a hash."""

_CANDIDATES = 1 << 20
"""Candidate pairs and looked-up words that are held at a time; a single hash may have more."""

_SAMPLE = 1024
"""Hashes by which the number of candidates is estimated."""

_CANDIDATE_COST = 8
"""A candidate's comparison takes as long as that of this many pairs in a comparison of all (measured)."""

_FEW = 16
"""Few pairs of a tile: fewer than one in this many."""

_ROWS, _COLUMNS = 32, 4096
"""Hashes on the two sides of a tile of a comparison of all pairs: its 1 MB stays in the cache."""

Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]
Found = tuple[Indices, Indices, Indices]

_NONE = np.empty(0, np.int64)


def near_hashes(left: Hashes, right: Hashes | None, within: int, account: Account) -> Iterator[Found]:
    """Yields all pairs whose hashes differ in at most `within` bits.

    Memory: about 50 bytes for each hash of 64 bits, 230 for one of 256, and what is compared at a time.

    Args:
        left: uint64 [n], or [n, numbers] for hashes of several numbers.
        right: another set, as `left`, each of which is paired with each of `left`; None: the pairs i < j of `left`.
        within: bits, 0 to 64 times the numbers.
        account: is told what happens to every pair. A pair that is compared and differs in more bits counts as
            excluded, as several words may find it.

    Yields:
        (i, j, differing bits) as arrays, ascending by (i, j) within and across the yielded arrays.
    """
    left = left[:, None] if left.ndim == 1 else left
    right = right[:, None] if right is not None and right.ndim == 1 else right
    index = _worthwhile_index(left, right, within)
    if index is None:
        bound, pieces = "bits", _among_all(left, right, within)
        account.state(bound, within=within)
    else:
        bound, pieces = "words", _by_words(left, right, index, within)
        account.state(bound, bits=_WORD_BITS, radii=[word.radius for word in index])
    near = 0
    for found in pieces:
        near += len(found[0])
        yield found
    count = len(left)
    account.compared += near
    account.exclude(bound, (count * (count - 1) // 2 if right is None else count * len(right)) - near)


def near_counts(hashes: Hashes, sample: Hashes, within: int) -> Indices:
    """Returns how many hashes of `sample` differ from each of `hashes` in at most `within` bits."""
    rows, columns = (np.ascontiguousarray(some.T) for some in (hashes, sample))
    counts = np.zeros(len(hashes), np.int64)
    for top in range(0, len(hashes), _ROWS):
        for start in range(0, len(sample), _COLUMNS):
            differ = np.zeros((rows[0, top : top + _ROWS].size, columns[0, start : start + _COLUMNS].size), np.uint16)
            for own, others in zip(rows[:, top : top + _ROWS], columns[:, start : start + _COLUMNS], strict=True):
                differ += np.bitwise_count(np.bitwise_xor.outer(own, others))
            counts[top : top + len(differ)] += np.count_nonzero(differ <= within, axis=1)
    return counts


def _worthwhile_index(left: Hashes, right: Hashes | None, within: int) -> "list[_Word] | None":
    """The index by words; None where it takes less time to compare all pairs, by a sample of the hashes."""
    radii = _radii(within, left.shape[1] * _WORDS)
    most = (len(left) / 2 if right is None else len(right)) / _CANDIDATE_COST
    if sum(comb(_WORD_BITS, bits) for radius in radii for bits in range(radius + 1)) >= most:
        return None
    others = left if right is None else right
    index = [_Word(others, word, radius) for word, radius in enumerate(radii) if radius >= 0]
    sample = left[np.linspace(0, len(left) - 1, min(_SAMPLE, len(left))).astype(np.int64)]
    work = sum(int(word.work(sample).sum()) for word in index)
    return index if work < most * len(sample) else None


def _by_words(left: Hashes, right: Hashes | None, index: "list[_Word]", within: int) -> Iterator[Found]:
    work = np.zeros(len(left), np.int64)
    for word in index:
        work += word.work(left)
    before = np.concatenate([[0], np.cumsum(work)])
    start = 0
    while start < len(left):
        stop = int(np.searchsorted(before, before[start] + _CANDIDATES, "right")) - 1
        stop = max(stop, start + 1)
        yield _near_of(left, right, index, slice(start, stop), within)
        start = stop


def _among_all(left: Hashes, right: Hashes | None, within: int) -> Iterator[Found]:
    rows = np.ascontiguousarray(left.T)
    columns = rows if right is None else np.ascontiguousarray(right.T)
    for top in range(0, len(left), _ROWS):
        pieces = []
        for start in range(top if right is None else 0, columns.shape[1], _COLUMNS):
            i, j, bits = _near_in(rows[:, top : top + _ROWS], columns[:, start : start + _COLUMNS], within)
            i, j = i + top, j + start
            wanted = slice(None) if right is not None else j > i
            pieces.append((i[wanted], j[wanted], bits[wanted]))
        yield _sorted(pieces)


def _near_in(rows: Hashes, others: Hashes, within: int) -> Found:
    """The near pairs of a tile; hashes are [numbers, n]."""
    numbers = len(rows)
    # Sums of 256 bits do not fit into the 8 that `bitwise_count` returns.
    bits = np.zeros((rows.shape[1], others.shape[1]), np.uint16)
    compared = 0
    # Once the first numbers leave few pairs, the others are compared for these alone.
    while compared < numbers and np.count_nonzero(bits <= within) * _FEW > bits.size:
        bits += np.bitwise_count(np.bitwise_xor.outer(rows[compared], others[compared]))
        compared += 1
    i, j = np.nonzero(bits <= within)
    exact = bits[i, j].astype(np.int64)
    for number in range(compared, numbers):
        exact += np.bitwise_count(rows[number, i] ^ others[number, j])
    near = exact <= within
    return i[near], j[near], exact[near]


def _radii(within: int, words: int) -> list[int]:
    """The number of bits in which each word may differ; -1 for a word that need not be looked up."""
    a, b = divmod(within, words)
    return [a if word <= b else a - 1 for word in range(words)]


class _Word:
    """An index of the hashes by one of their words.

    Args:
        hashes: uint64 [n, numbers].
        word: its number, from 0 for the lowest bits of the first number.
        radius: the number of bits in which it may differ.
    """

    def __init__(self, hashes: Hashes, word: int, radius: int) -> None:
        self.radius = radius
        self._number, place = divmod(word, _WORDS)
        self._shift = np.uint64(_WORD_BITS * place)
        values = self.of(hashes)
        self._order = np.argsort(values, kind="stable").astype(np.uint32 if len(hashes) < 1 << 32 else np.int64)
        counts = np.bincount(values, minlength=1 << _WORD_BITS)
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        flips = (bits for number in range(radius + 1) for bits in combinations(range(_WORD_BITS), number))
        self._masks = np.array([sum(1 << bit for bit in bits) for bits in flips], np.uint16)

    def of(self, hashes: Hashes) -> npt.NDArray[np.uint16]:
        """The word of each hash."""
        return ((hashes[:, self._number] >> self._shift) & np.uint64(0xFFFF)).astype(np.uint16)

    def work(self, hashes: Hashes) -> Indices:
        """For each hash, the number of words to look up, and of indexed hashes that they find."""
        values = self.of(hashes)
        found = np.full(len(values), len(self._masks), np.int64)
        for mask in self._masks:
            found += self._starts[(values ^ mask).astype(np.int64) + 1] - self._starts[values ^ mask]
        return found

    def look_up(self, hashes: Hashes, first: int) -> tuple[Indices, Indices]:
        """Returns arrays (i, j): hashes, numbered from `first`, and those whose word differs in few enough bits."""
        buckets = (self.of(hashes)[:, None] ^ self._masks).astype(np.int64).ravel()
        begin = self._starts[buckets]
        counts = self._starts[buckets + 1] - begin
        i = np.repeat(np.repeat(np.arange(first, first + len(hashes)), len(self._masks)), counts)
        # Within each bucket: 0, 1, 2, … from where it begins.
        place = np.arange(len(i)) + np.repeat(begin - np.cumsum(counts) + counts, counts)
        return i, self._order[place].astype(np.int64)


def _near_of(left: Hashes, right: Hashes | None, index: list[_Word], some: slice, within: int) -> Found:
    """The near pairs (i, j) with i in a range."""
    pieces: list[Found] = []
    for number, word in enumerate(index):
        i, j = word.look_up(left[some], some.start)
        if right is None:
            later = j > i
            i, j = i[later], j[later]
        differ = left[i] ^ (left if right is None else right)[j]
        bits = np.bitwise_count(differ).sum(axis=1, dtype=np.int64)
        near = bits <= within
        i, j, differ, bits = i[near], j[near], differ[near], bits[near]
        # A pair that several words find is kept for the first of them only.
        first = np.ones(len(i), bool)
        for earlier in index[:number]:
            first &= np.bitwise_count(earlier.of(differ)) > earlier.radius
        pieces.append((i[first], j[first], bits[first]))
    return _sorted(pieces)


def _sorted(pieces: list[Found]) -> Found:
    pieces = [(_NONE, _NONE, _NONE), *pieces]
    i, j, bits = (np.concatenate(columns) for columns in zip(*pieces, strict=True))
    order = np.lexsort((j, i))
    return i[order], j[order], bits[order]
