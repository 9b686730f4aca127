"""Sorts rows by part through files on the local disk, so that a list of any length needs little memory."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.store import Store

BUCKET_ROWS = 200_000
"""Rows of one bucket, which is read back as a whole; a bucket holds at least one part."""

BUFFER_BYTES = 64 << 20
"""Bytes of rows, over all buckets, that wait in memory before they are written."""


def of_bucket(number: int, n_parts: int, part_size: int) -> range:
    """The parts of a bucket; an empty range where there are not so many buckets."""
    each = parts_each(part_size)
    return range(number * each, min((number + 1) * each, n_parts))


def parts_each(part_size: int) -> int:
    """The number of parts in a bucket."""
    return max(1, BUCKET_ROWS // part_size)


def read_bucket(store: Store, name: str, number: int, schema: pa.Schema) -> pa.Table:
    """The rows of one bucket of a file that `Buckets.write` wrote, in the order in which they were added."""
    start, end = np.frombuffer(store.read_range(name, 8 * number, 8 * number + 16), "<u8").tolist()
    if start == end:
        return schema.empty_table()
    return _streams(pa.BufferReader(store.read_range(name, start, end)), schema)


def _streams(file: Any, schema: pa.Schema) -> pa.Table:
    """The rows of successive Arrow streams."""
    tables = [schema.empty_table()]
    while file.tell() < file.size():
        tables.append(pa.ipc.open_stream(file).read_all())
    return pa.concat_tables(tables)


class Buckets:
    """Local files, each of which holds the rows of a few successive parts.

    Every added row is appended to the file of its part; the files are read back after the last row was added.

    Args:
        folder: an empty local folder.
        schema: of the rows.
        n_parts: how many parts there are.
        part_size: rows of one part, on average.
    """

    def __init__(self, folder: Path, schema: pa.Schema, n_parts: int, part_size: int) -> None:
        self._folder = folder
        self._schema = schema
        self._n_parts = n_parts
        self._parts_each = parts_each(part_size)
        self._waiting: list[pa.Table] = []
        self._buckets: list[npt.NDArray[np.int64]] = []

    def add(self, rows: pa.Table, parts: npt.NDArray[np.int64]) -> None:
        """Takes rows and the part of each."""
        self._waiting.append(rows)
        self._buckets.append(parts // self._parts_each)
        if self.waiting_bytes > BUFFER_BYTES:
            self._write()

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the rows that wait in memory."""
        return sum(table.nbytes for table in self._waiting)

    def read(self) -> Iterator[tuple[range, pa.Table]]:
        """Yields each bucket's parts and rows, in the order of parts; a bucket's file is deleted once it is read."""
        self._write()
        for number, first in enumerate(range(0, self._n_parts, self._parts_each)):
            parts = range(first, min(first + self._parts_each, self._n_parts))
            path = self._folder / str(number)
            table = self._schema.empty_table()
            if path.exists():
                with pa.OSFile(str(path), "rb") as file:
                    table = _streams(file, self._schema)
                path.unlink()
            yield parts, table

    def write(self, path: Path) -> None:
        """Writes all buckets to one local file, of which `read_bucket` reads one; their own files are deleted.

        The file begins with the offset of each bucket and of its own end, 8 bytes each (little-endian).
        """
        self._write()
        n_buckets = -(-self._n_parts // self._parts_each)
        offsets = [8 * (n_buckets + 1)]
        with path.open("wb") as joined:
            joined.seek(offsets[0])
            for number in range(n_buckets):
                bucket = self._folder / str(number)
                if bucket.exists():
                    with bucket.open("rb") as file:
                        shutil.copyfileobj(file, joined, 1 << 20)
                    bucket.unlink()
                offsets.append(joined.tell())
            joined.seek(0)
            joined.write(np.array(offsets, "<u8").tobytes())

    def _write(self) -> None:
        """Appends the waiting rows to the buckets' files, as one Arrow stream each; no file stays open."""
        if not self._waiting:
            return
        bucket = np.concatenate(self._buckets)
        order = np.argsort(bucket, kind="stable")
        rows = pa.concat_tables(self._waiting).take(pa.array(order)).combine_chunks()
        self._waiting.clear()
        self._buckets.clear()
        bucket = bucket[order]
        starts = np.flatnonzero(np.diff(bucket, prepend=-1))
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(bucket)], strict=True):
            with (
                (self._folder / str(bucket[start])).open("ab") as file,
                pa.ipc.new_stream(file, self._schema, options=options) as stream,
            ):
                stream.write_table(rows.slice(start, end - start))
