"""A sample is a share of the rows, whatever the size of a part."""

import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.runs.sample import Sample


@given(
    st.floats(0, 1, exclude_min=True),
    st.lists(st.integers(0, 40), min_size=1, max_size=30).filter(any),
)
def test_the_first_parts_reach_the_share_of_rows_and_no_fewer_do(share, rows):
    sample = Sample.of(share, rows)
    exact = Fraction(Decimal(repr(share))) * sum(rows)
    assert sample.rows == max(1, math.floor(exact + Fraction(1, 2)))
    assert sum(rows[: sample.parts - 1]) < sample.rows <= sum(rows[: sample.parts])
    assert sum(rows[: sample.parts - 1]) + sample.last_rows == sample.rows
    assert sample.cuts == (sample.rows < sum(rows[: sample.parts]))
    assert (sample.n_parts, sample.n_rows) == (len(rows), sum(rows))


@pytest.mark.parametrize(
    ("share", "rows", "said"),
    [
        (0.07, [100] * 100, "the sample covers 700 of 10,000 rows, in 7 of 100 parts"),
        (0.1, [25], "the sample covers 3 of 25 rows, in 1 of 1 part, 3 rows of the last"),
        (0.001, [25], "the sample covers 1 of 25 rows, in 1 of 1 part, 1 row of the last"),
        (1.0, [7, 5], "the sample covers 12 of 12 rows, in 2 of 2 parts"),
    ],
)
def test_it_says_what_it_covers(share, rows, said):
    assert str(Sample.of(share, rows)) == said
