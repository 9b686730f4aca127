"""Sorts rows by part through files on the local disk, so that a list of any length needs little memory."""

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate.errors import SourceError
from curate.store import Store

BUCKET_ROWS = 200_000
"""Rows of one bucket, which is read back as a whole; a bucket holds at least one part."""

MOST_BYTES = 192 << 20
"""Bytes of rows that are sorted at a time; a part of more is refused."""

_OFFSETS = np.dtype([("offset", "<u8"), ("bytes", "<u8")])

BUFFER_BYTES = 64 << 20
"""Bytes of rows, over all buckets, that wait in memory before they are written."""


def of_bucket(number: int, n_parts: int, part_size: int) -> range:
    """The parts of a bucket; an empty range where there are not so many buckets."""
    each = parts_each(part_size)
    return range(number * each, min((number + 1) * each, n_parts))


def parts_each(part_size: int) -> int:
    """The number of parts in a bucket."""
    return max(1, BUCKET_ROWS // part_size)


@dataclass(frozen=True)
class Stored:
    """One bucket of a file that `Buckets.write` wrote.

    Args:
        data: its rows as Arrow streams, compressed.
        bytes: of the rows in memory.
    """

    data: bytes
    bytes: int

    @classmethod
    def read(cls, store: Store, name: str, number: int) -> "Stored":
        """Reads a bucket, without decompressing it."""
        at = number * _OFFSETS.itemsize
        here, following = np.frombuffer(store.read_range(name, at, at + 2 * _OFFSETS.itemsize), _OFFSETS).tolist()
        return cls(store.read_range(name, here[0], following[0]) if following[0] > here[0] else b"", here[1])

    def tables(self) -> Iterator[pa.Table]:
        """The rows, in the order in which they were added."""
        return _streams(pa.BufferReader(self.data))


def by_parts(
    tables: Callable[[], Iterable[pa.Table]], schema: pa.Schema, parts: range, n_bytes: int
) -> Iterator[tuple[range, pa.Table]]:
    """Yields the rows of a bucket at once, or where they take more than `MOST_BYTES`, of one part at a time.

    Args:
        tables: gives the rows of the bucket, in order; called once, or once for each part.
        schema: of the rows, whose first column is their part.
        parts: of the bucket.
        n_bytes: bytes of all rows.

    Raises:
        SourceError: the rows of one part take more than `MOST_BYTES`.
    """
    if n_bytes <= MOST_BYTES:
        yield parts, pa.concat_tables([schema.empty_table(), *tables()])
        return
    for part in parts:
        of_part = [schema.empty_table()]
        held = 0
        for table in tables():
            of_part.append(table.filter(pc.equal(table.column(0), part)))
            held += of_part[-1].nbytes
            if held > MOST_BYTES:
                raise SourceError(
                    f"{schema.names[0]} {part} of the plan has more than {MOST_BYTES >> 20} MB: rows of the lists are "
                    "long, or many have the same URL or uid; lower part_size, leave columns out with "
                    "source.keep_columns, or correct the lists"
                )
        yield range(part, part + 1), pa.concat_tables(of_part)


def _streams(file: Any) -> Iterator[pa.Table]:
    """The rows of successive Arrow streams."""
    while file.tell() < file.size():
        yield pa.ipc.open_stream(file).read_all()


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
        self._bytes: dict[int, int] = {}
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
        """Yields parts with their rows, in the order of parts; a bucket's file is deleted once it is read.

        Raises:
            SourceError: the rows of one part take more than `MOST_BYTES`.
        """
        self._write()
        for number, first in enumerate(range(0, self._n_parts, self._parts_each)):
            parts = range(first, min(first + self._parts_each, self._n_parts))
            path = self._folder / str(number)

            def tables(path: Path = path) -> Iterator[pa.Table]:
                if path.exists():
                    with pa.OSFile(str(path), "rb") as file:
                        yield from _streams(file)

            yield from by_parts(tables, self._schema, parts, self._bytes.get(number, 0))
            path.unlink(missing_ok=True)

    def write(self, path: Path) -> None:
        """Writes all buckets to one local file, of which `read_bucket` reads one; their own files are deleted.

        The file begins with the offset of each bucket and the bytes of its rows in memory, then its own length.
        """
        self._write()
        n_buckets = -(-self._n_parts // self._parts_each)
        offsets = np.zeros(n_buckets + 1, _OFFSETS)
        with path.open("wb") as joined:
            joined.seek(offsets.nbytes)
            for number in range(n_buckets):
                offsets[number] = joined.tell(), self._bytes.get(number, 0)
                bucket = self._folder / str(number)
                if bucket.exists():
                    with bucket.open("rb") as file:
                        shutil.copyfileobj(file, joined, 1 << 20)
                    bucket.unlink()
            offsets[-1] = joined.tell(), 0
            joined.seek(0)
            joined.write(offsets.tobytes())

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
                of_bucket = rows.slice(start, end - start)
                number = int(bucket[start])
                self._bytes[number] = self._bytes.get(number, 0) + of_bucket.nbytes
                stream.write_table(of_bucket)
