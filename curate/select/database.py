"""The DuckDB database in which a funnel is computed, closed to everything else."""

from pathlib import Path

import duckdb


def connect(
    spill: Path | None = None, *, memory_limit: str = "1GB", threads: int | None = None
) -> duckdb.DuckDBPyConnection:
    """Opens a database whose statements may come from a recipe.

    SQL can reach no file, extension or Python variable, and can change no setting. Division by zero is NULL and times
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
    return con


def one_line(error: duckdb.Error) -> str:
    """DuckDB's message in one line, without the kind of error before it and the quoted statement after it."""
    text = str(error).split("\n\n")[0].split("\nLINE ")[0]
    return " ".join(text.partition("Error: ")[2].split() or text.split())


def quoted(name: str) -> str:
    """A column's name, quoted for SQL."""
    return '"' + name.replace('"', '""') + '"'
