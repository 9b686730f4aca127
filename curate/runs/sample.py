"""Computes the parts and rows that `--sample` covers: the first ones, exact to the row.

A hash of its URL decides a row's part and its place in the part, so the first rows of the first parts are a random
sample of the list.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from itertools import accumulate

from curate.errors import counted


@dataclass(frozen=True)
class Sample:
    """The parts and rows that a sample covers.

    Attributes:
        parts: the number of covered parts, which are the first ones.
        n_parts: parts of the plan.
        rows: the number of covered rows.
        n_rows: rows of the plan.
        last_rows: the number of covered rows in the last covered part, which are the first ones.
        cuts: whether that part has further rows.
    """

    parts: int
    n_parts: int
    rows: int
    n_rows: int
    last_rows: int
    cuts: bool

    @classmethod
    def of(cls, share: float, rows_of_parts: Sequence[int]) -> "Sample":
        """The sample with this share of all rows (halves rounded up, at least one row), over as few parts as possible.

        Args:
            share: above 0 and at most 1.
            rows_of_parts: the number of rows of every part of the plan.
        """
        n_rows = sum(rows_of_parts)
        rows = max(1, int((Decimal(repr(share)) * n_rows).to_integral_value(ROUND_HALF_UP)))
        last, up_to = next((part, up_to) for part, up_to in enumerate(accumulate(rows_of_parts)) if up_to >= rows)
        last_rows = rows - (up_to - rows_of_parts[last])
        return cls(last + 1, len(rows_of_parts), rows, n_rows, last_rows, cuts=up_to > rows)

    def __str__(self) -> str:
        """One line with the numbers of covered rows and parts."""
        of_last = f", {counted(self.last_rows, 'row')} of the last" if self.cuts else ""
        return (
            f"the sample covers {self.rows:,} of {counted(self.n_rows, 'row')}, "
            f"in {self.parts:,} of {counted(self.n_parts, 'part')}{of_last}"
        )
