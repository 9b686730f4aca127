"""Which parts and rows `--sample` covers: the first ones, to the row.

A row's part and its place there follow from a hash of its URL, so the first rows of the first parts are a random sample
of the list.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from itertools import accumulate

from curate.errors import counted


@dataclass(frozen=True)
class Sample:
    """What a sample covers.

    Attributes:
        parts: how many parts, the first ones.
        n_parts: parts of the plan.
        rows: how many rows.
        n_rows: rows of the plan.
        last_rows: how many rows of the last of these parts, the first ones.
        cuts: whether that part has more.
    """

    parts: int
    n_parts: int
    rows: int
    n_rows: int
    last_rows: int
    cuts: bool

    @classmethod
    def of(cls, share: float, rows_of_parts: Sequence[int]) -> "Sample":
        """The fewest parts whose rows reach the share of all rows (halves rounded up, one row at least).

        Args:
            share: over 0 and up to 1.
            rows_of_parts: of every part of the plan.
        """
        n_rows = sum(rows_of_parts)
        rows = max(1, int((Decimal(repr(share)) * n_rows).to_integral_value(ROUND_HALF_UP)))
        last, up_to = next((part, up_to) for part, up_to in enumerate(accumulate(rows_of_parts)) if up_to >= rows)
        last_rows = rows - (up_to - rows_of_parts[last])
        return cls(last + 1, len(rows_of_parts), rows, n_rows, last_rows, cuts=up_to > rows)

    def __str__(self) -> str:
        """In one line: how many rows and parts, and of how many."""
        of_last = f", {counted(self.last_rows, 'row')} of the last" if self.cuts else ""
        return (
            f"the sample covers {self.rows:,} of {counted(self.n_rows, 'row')}, "
            f"in {self.parts:,} of {counted(self.n_parts, 'part')}{of_last}"
        )
