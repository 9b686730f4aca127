"""Finds the parts of a pair by its id: small sorted tables that the plan writes beside its parts.

A row's part follows from its URL, so an id alone does not determine it. Each table covers a range of ids and holds the
first 8 bytes of an id, as a number, and the part of its row; a look-up reads one table, seldom two.
"""

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.plan.buckets import Buckets
from curate.store import Folder, Outputs, parquet_bytes

ROWS = 1_000_000
"""Rows of one table, on average: 12 MB in memory."""

SCHEMA = pa.schema([("table", pa.int64()), ("id", pa.uint64()), ("part", pa.int32())])


class IdIndex:
    """Collects ids with their parts, and writes the tables once all are there.

    Args:
        folder: an empty local folder, for what does not fit the memory.
        total: the number of rows of the plan.
    """

    def __init__(self, folder: Path, total: int) -> None:
        self._n = n_tables(total)
        self.buckets = Buckets(folder, SCHEMA, self._n, ROWS)

    def add(self, pair_ids: pa.ChunkedArray, parts: npt.NDArray[np.int64]) -> None:
        """Takes rows: 16-byte ids, and the part of each."""
        ids = _numbers(pair_ids.combine_chunks().to_pylist())
        tables = _table_of(ids, self._n)
        columns = [pa.array(tables), pa.array(ids), pa.array(parts.astype(np.int32))]
        self.buckets.add(pa.Table.from_arrays(columns, schema=SCHEMA), tables)

    def write(self, out: Outputs) -> None:
        """Writes `ids-000000.parquet`, …: columns id and part, sorted by both, each combination once."""
        for numbers, rows in self.buckets.read():
            for number in numbers:
                put_index_table(out, number, parquet_bytes(index_table(rows, number)))


def n_tables(total: int) -> int:
    """The number of tables for a plan of so many rows."""
    return math.ceil(total / ROWS)


def index_table(rows: pa.Table, number: int) -> pa.Table:
    """One table of the index, from all rows of its bucket: columns id and part, sorted, each combination once."""
    of_table = rows.filter(pc.equal(rows["table"], number)).select(["id", "part"])
    distinct = of_table.group_by(["id", "part"]).aggregate([])
    return distinct.sort_by([("id", "ascending"), ("part", "ascending")])


def put_index_table(out: Outputs, number: int, parquet: bytes) -> None:
    """Writes one table of the index to the outputs of the plan."""
    rows = pq.read_metadata(pa.BufferReader(parquet)).num_rows
    out.put(_role(number), parquet, name=f"ids/table-{number:06d}.{out.attempt}.parquet", rows=rows)


def parts_of(plan: Folder, prefix: str) -> list[int] | None:
    """Returns the parts that may hold rows of a pair, ascending; None where the plan has no index.

    Args:
        plan: the folder of the plan.
        prefix: the first 8 to 32 hex digits of the pair's id.
    """
    n = sum(role.startswith("ids-") for role in plan.marker().files)
    if not n:
        return None
    low, high = (int(prefix[:16].ljust(16, digit), 16) for digit in "0f")
    first, last = _table_of(np.array([low, high], np.uint64), n).tolist()
    found: set[int] = set()
    for number in range(first, last + 1):
        table = plan.table(_role(number))
        ids = table["id"].to_numpy()
        start, end = np.searchsorted(ids, np.uint64(low)), np.searchsorted(ids, np.uint64(high), side="right")
        found |= set(table["part"].slice(start, end - start).to_pylist())
    return sorted(found)


def _numbers(ids: Iterable[bytes]) -> npt.NDArray[np.uint64]:
    """The first 8 bytes of each id."""
    return np.frombuffer(b"".join(ids), dtype=">u8")[::2].astype(np.uint64)


def _table_of(ids: npt.NDArray[np.uint64], n: int) -> npt.NDArray[np.int64]:
    """The table of each id, of n that divide the range of ids evenly."""
    return ((ids >> np.uint64(32)) * np.uint64(n) >> np.uint64(32)).astype(np.int64)


def _role(number: int) -> str:
    return f"ids-{number:06d}.parquet"
