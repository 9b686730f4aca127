"""Reads the rows of a part for the funnel."""

from collections.abc import Collection
from dataclasses import dataclass

import pyarrow as pa

from curate.columns import PairColumns, predicate_view, reasons_before
from curate.columns import read as read_columns
from curate.schema import NOT_SAMPLED
from curate.store import Inputs


@dataclass(frozen=True)
class PartRows:
    """The rows of one part, in the order of its plan.

    Args:
        pair_ids: fixed_size_binary[16].
        source_rows: int64.
        before: the reason for which a row is dropped before all steps; null for the rows that the steps see.
        columns: the wanted columns, with their types in predicates.
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
        columns: the run's.
        part: the number of the part.
        wanted: the columns to read.
        sampled: the number of rows, from the first, that a sample covers; None for all.

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
