"""A part's rows as the funnel takes them."""

from collections.abc import Collection
from dataclasses import dataclass

import pyarrow as pa

from curate.columns import PairColumns, predicate_view, reasons_before
from curate.columns import read as read_columns
from curate.schema import NOT_SAMPLED
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


def read(
    inputs: Inputs, columns: PairColumns, part: int, wanted: Collection[str], sampled: int | None = None
) -> PartRows:
    """A part's rows with the wanted columns.

    Args:
        inputs: the run's folders.
        columns: those of the run.
        part: which part.
        wanted: the columns to read.
        sampled: how many rows of the part are decided on, the first ones; None for all.

    Raises:
        BrokenResult: a table's rows are not those of the plan.
    """
    pairs = read_columns(inputs, columns, part, ["pair_id", "source_row", *columns.before(), *wanted])
    before = reasons_before(pairs)
    if sampled is not None and sampled < len(before):
        beyond = pa.array([NOT_SAMPLED] * (len(before) - sampled), before.type)
        before = pa.concat_arrays([before.slice(0, sampled), beyond])
    return PartRows(
        pairs["pair_id"].combine_chunks(),
        pairs["source_row"],
        before,
        predicate_view(pairs.select(list(wanted))),
    )
