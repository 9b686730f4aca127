"""Decodes lists of text lines and divides them into chunks, for the formats that consist of lines."""

import contextlib
import io
from collections.abc import Iterator
from typing import Any, TypeVar

from curate.plan.formats import contract
from curate.plan.formats.compression import decompressed
from curate.plan.formats.contract import ListFile, readable

Row = TypeVar("Row")


@contextlib.contextmanager
def text(file: ListFile, newline: str = "\n") -> Iterator[io.TextIOWrapper]:
    """Opens a list as UTF-8, without its byte order mark; bytes that are not UTF-8 become U+FFFD.

    Args:
        file: a list of text, compressed or not.
        newline: the end of a line, as for `open`; by default a line feed alone, as captions may hold a carriage return.

    Raises:
        SourceError: the file cannot be read.
    """
    with readable(file.path), file.open() as opened:
        raw = _Raw(decompressed(opened, file.compression))
        with io.TextIOWrapper(io.BufferedReader(raw, 1 << 20), "utf-8-sig", "replace", newline) as lines:
            yield lines


def batched(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """Yields lists of `CHUNK_ROWS` rows; empty rows, which come from blank lines, are left out."""
    batch: list[Row] = []
    for row in rows:
        if row:
            batch.append(row)
            if len(batch) == contract.CHUNK_ROWS:
                yield batch
                batch = []
    if batch:
        yield batch


class _Raw(io.RawIOBase):
    """Wraps an Arrow stream as the raw file that Python's text layer reads from."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
