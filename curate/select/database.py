"""The DuckDB database in which a funnel is computed, closed to everything else."""

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from duckdb.func import ARROW

from curate.duplicates import COMPARED

BATCH_BYTES = 4_000_000
"""Bytes of text in one batch of rows, where it has more than one row."""


def connect(
    spill: Path | None = None, *, memory_limit: str = "1GB", threads: int | None = None
) -> duckdb.DuckDBPyConnection:
    """Opens a database whose statements may come from a recipe.

    SQL can reach no file, extension or Python variable, and can change no setting; it has a function for the digests of
    each thing that kinds of duplicates compare (`Compared.sql`). Division by zero is NULL and times
    are UTC, so a predicate's value depends on its row alone.

    Args:
        spill: a local folder for data that does not fit into memory; None: everything has to fit.
        memory_limit: as DuckDB writes it (`1GB`).
        threads: of DuckDB; by default one per core. Results do not depend on their number.
    """
    con = duckdb.connect(
        ":memory:",
        config={
            "memory_limit": memory_limit,
            "temp_directory": str(spill) if spill else "",
            "autoload_known_extensions": "false",
            "autoinstall_known_extensions": "false",
            # Every statement that needs an order has its own ORDER BY.
            "preserve_insertion_order": "false",
            **({"threads": str(threads)} if threads else {}),
        },
    )
    con.execute("SET ieee_floating_point_ops = false")
    con.execute("SET error_on_division_by_zero = false")
    con.execute("SET TimeZone = 'UTC'")
    con.execute("SET python_enable_replacements = false")
    con.execute("SET enable_progress_bar = false")
    con.execute("SET enable_external_access = false")
    con.execute("SET lock_configuration = true")
    for compared in COMPARED:
        if compared.digests is not None:
            name = compared.sql.partition("(")[0]
            con.create_function(name, compared.digests, ["VARCHAR"], "VARCHAR", type=ARROW)
    return con


def in_batches(table: pa.Table) -> pa.Table:
    """Returns a table in batches with at most `BATCH_BYTES` of text, or one row.

    DuckDB computes an expression batch by batch, 2,048 rows at most, and looks at its memory limit in between. The
    texts that a function makes of a batch are bounded by the texts in it (`curate.select.predicate_size`).
    """
    sizes = np.zeros(table.num_rows, np.int64)
    for column in table.columns:
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            sizes += pc.fill_null(pc.cast(pc.binary_length(column), pa.int64()), 0).to_numpy()
    ends = np.cumsum(sizes)
    batches, start = [], 0
    while start < table.num_rows:
        read = ends[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(ends, read + BATCH_BYTES, side="right")))
        batches += table.slice(start, end - start).combine_chunks().to_batches()
        start = end
    return pa.Table.from_batches(batches, table.schema)


def one_line(error: duckdb.Error) -> str:
    """DuckDB's message in one line, without the kind of error before it and the quoted statement after it."""
    text = str(error).split("\n\n")[0].split("\nLINE ")[0]
    return " ".join(text.partition("Error: ")[2].split() or text.split())


def quoted(name: str) -> str:
    """A column's name, quoted for SQL."""
    return '"' + name.replace('"', '""') + '"'
