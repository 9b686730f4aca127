"""The list formats: from a file's bytes to chunks of columns.

    format    rows                     column names
    -------   ----------------------   ------------------------------------------------------
    parquet   as they are              its schema's
    csv       RFC 4180, quoted         the first line's; `header: false` numbers them from 0
    tsv       one line each, unquoted  likewise (CC3M and CC12M have no header and no quoting)
    jsonl     one object each          the objects' keys
    txt       one URL each             none

Each but parquet also as `.gz` and `.zst`. Blank lines are no rows. Bytes that are no UTF-8 become U+FFFD. A
line that cannot be read (no JSON object; a quoted cell without an end) is still a row, an empty one, so that
every line of a list is accounted for.
"""

import contextlib
import csv
import io
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.errors import SourceError, nearest
from curate.store import Store, access_errors

FORMATS = ("parquet", "csv", "tsv", "jsonl", "txt")
COMPRESSIONS = {"gz": "gzip", "zst": "zstd"}

CHUNK_ROWS = 16_384
"""Rows held at once of a list, whatever its length."""


@dataclass(frozen=True)
class ListFile:
    """One file of a list, with what its name says about it."""

    path: str
    format: str
    compression: str | None
    endpoint: str | None

    @classmethod
    def at(cls, path: str, endpoint: str | None = None) -> "ListFile":
        """The list at a path or URL.

        Raises:
            SourceError: its name ends in no known suffix.
        """
        kind, compression = _suffixes(path)
        if not is_list(path):
            if kind == "tar":
                raise SourceError(f"{path} is no list; for tars of samples say source.kind: samples")
            known = [f".{name}" for name in FORMATS]
            hint = nearest(f".{kind}", known)
            raise SourceError(
                f"{path}: a list ends in {', '.join(known)}, and all but .parquet in .gz or .zst after that"
                f"{hint if 'did you mean' in hint else ''}"
            )
        return cls(path, kind, compression, endpoint)

    def open(self) -> io.BufferedIOBase:
        """The bytes as they lie there."""
        opened: io.BufferedIOBase = Store(self.path, self.endpoint).fs.open(self.path, "rb")
        return opened


def is_list(path: str) -> bool:
    """Whether a name ends as a list's does."""
    kind, compression = _suffixes(path)
    return kind in FORMATS and not (compression and kind == "parquet")


def _suffixes(path: str) -> tuple[str, str | None]:
    """A name's last suffix but for that of a compression, and Arrow's name of the compression."""
    *_, before, last = ["", "", *path.rsplit("/", 1)[-1].lower().split(".")]
    return (before, COMPRESSIONS[last]) if last in COMPRESSIONS else (last, None)


@dataclass(frozen=True)
class Chunk:
    """Some rows of a text list: equally long lists of cells by column, and how many rows could not be read."""

    rows: int
    columns: Mapping[str, Sequence[Any]]
    unreadable: int


@contextlib.contextmanager
def readable(path: str) -> Iterator[None]:
    """Turns what a reader says about a broken file into one line with the file's name.

    Raises:
        SourceError: the file is not what its suffix says, damaged, missing or closed to us.
    """
    try:
        yield
    except (*access_errors(path), EOFError, pa.ArrowException) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise SourceError(f"{path} cannot be read: {' '.join(reason.split()) or type(error).__name__}") from error


@contextlib.contextmanager
def parquet(file: ListFile) -> Iterator[pq.ParquetFile]:
    """A parquet list, opened so that a row group is read in pieces and not as a whole."""
    with readable(file.path), file.open() as opened:
        yield pq.ParquetFile(opened, buffer_size=1 << 20)


def batches(opened: pq.ParquetFile, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """A parquet list's columns in batches of at most `CHUNK_ROWS` rows."""
    # One row group at a time: over several, the reader holds on to those it has passed.
    for group in range(opened.num_row_groups):
        yield from opened.iter_batches(CHUNK_ROWS, row_groups=[group], columns=columns)


def chunks(file: ListFile, header: bool, wanted: Sequence[str] | None = None) -> Generator[Chunk, None, None]:
    """A text list in chunks of `CHUNK_ROWS` rows.

    Args:
        file: a csv, tsv, jsonl or txt file.
        header: whether csv and tsv begin with a line of names.
        wanted: the columns to return, null where a row has none; by default every one.

    Raises:
        SourceError: the file cannot be read, or names two columns alike.
    """
    with readable(file.path), file.open() as opened, _text(file, opened) as lines:
        if file.format == "jsonl":
            yield from _objects(lines, wanted)
        elif file.format == "txt":
            for urls in _batched(line.rstrip("\r\n") for line in lines):
                yield Chunk(len(urls), {"url": urls}, 0)
        else:
            yield from _cells(file, lines, header, wanted)


def count(file: ListFile, header: bool) -> int:
    """The number of rows; parquet says it, other lists are read through."""
    if file.format == "parquet":
        with parquet(file) as opened:
            return int(opened.metadata.num_rows)
    return sum(chunk.rows for chunk in chunks(file, header, wanted=()))


def _text(file: ListFile, opened: io.BufferedIOBase) -> io.TextIOWrapper:
    stream: Any = pa.PythonFile(opened, "r")
    if file.compression:
        stream = pa.CompressedInputStream(stream, file.compression)
    # csv wants its line ends untouched; elsewhere a line ends at \n alone, as captions may hold a bare \r.
    newline = "" if file.format == "csv" else "\n"
    return io.TextIOWrapper(io.BufferedReader(_Raw(stream), 1 << 20), "utf-8-sig", "replace", newline)


class _Raw(io.RawIOBase):
    """An Arrow stream as Python's text layer takes it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _batched(rows: Iterator[Any]) -> Iterator[list[Any]]:
    """Lists of `CHUNK_ROWS` rows, empty ones left out."""
    batch: list[Any] = []
    for row in rows:
        if row:
            batch.append(row)
            if len(batch) == CHUNK_ROWS:
                yield batch
                batch = []
    if batch:
        yield batch


def _objects(lines: io.TextIOWrapper, wanted: Sequence[str] | None) -> Iterator[Chunk]:
    for batch in _batched(line.strip() for line in lines):
        rows = [_object(line) for line in batch]
        read = [row or {} for row in rows]
        names = dict.fromkeys(key for row in read for key in row) if wanted is None else wanted
        yield Chunk(len(rows), {name: [row.get(name) for row in read] for name in names}, rows.count(None))


def _object(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _cells(file: ListFile, lines: io.TextIOWrapper, header: bool, wanted: Sequence[str] | None) -> Iterator[Chunk]:
    rows = _quoted(lines) if file.format == "csv" else _tabbed(lines)
    names: list[str] | None = None
    if header:
        names = next((row for row in rows if row), [])
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SourceError(f"{file.path}: two columns are named {twice[0]!r}")
    for batch in _batched(rows):
        if names is None:
            names = [str(number) for number in range(len(batch[0]))]
        width = len(names)
        ragged = sum(len(row) != width for row in batch)
        if ragged:
            batch = [(row + [None] * width)[:width] for row in batch]
        columns = dict(zip(names, zip(*batch, strict=True), strict=True))
        blank = (None,) * len(batch)
        named = columns if wanted is None else {name: columns.get(name, blank) for name in wanted}
        yield Chunk(len(batch), named, ragged)


def _tabbed(lines: io.TextIOWrapper) -> Iterator[list[str]]:
    for line in lines:
        line = line.rstrip("\r\n")
        if line:
            yield line.split("\t")


def _quoted(lines: io.TextIOWrapper) -> Iterator[list[Any]]:
    reader = csv.reader(lines)
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error:
            # A quote without an end runs to csv's field limit (128 KiB), then the reader starts afresh.
            yield [None]
