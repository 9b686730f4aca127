"""A part's rows as the funnel takes them."""

from collections.abc import Collection
from dataclasses import dataclass

import pyarrow as pa

from curate.columns import BEFORE, PairColumns, predicate_view, reasons_before
from curate.columns import read as read_columns
from curate.store import Inputs


@dataclass(frozen=True)
class PartRows:
    """One part, row for row with its plan.

    Args:
        pair_ids: fixed_size_binary[16].
        source_rows: int64.
        before: the reason that a row has before any step, or null for the rows that the steps see.
        columns: the wanted ones, as predicates see them.
    """

    pair_ids: pa.Array
    source_rows: pa.ChunkedArray
    before: pa.Array
    columns: pa.Table


def read(inputs: Inputs, columns: PairColumns, part: int, wanted: Collection[str]) -> PartRows:
    """A part's rows with the wanted columns.

    Raises:
        BrokenResult: a table's rows are not those of the plan.
    """
    pairs = read_columns(inputs, columns, part, ["pair_id", "source_row", *BEFORE, *wanted])
    return PartRows(
        pairs["pair_id"].combine_chunks(),
        pairs["source_row"],
        reasons_before(pairs),
        predicate_view(pairs.select(list(wanted))),
    )
