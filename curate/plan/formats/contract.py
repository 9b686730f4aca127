"""The contract of a list format, between the plan pass and a format's module."""

import contextlib
import io
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import pyarrow as pa

from curate.credentials import redacted
from curate.errors import SourceError
from curate.plan.cells import Cells, Values
from curate.store import Store, access_errors

CHUNK_ROWS = 16_384
"""Rows of a list that are held in memory at a time."""

MOST_COLUMNS = 10_000
"""Columns of a list; of a list of JSON objects, those of a chunk."""

PIECE_ROWS = 1_000_000
"""Rows of a piece of a list, about."""


@dataclass(frozen=True)
class ListFile:
    """One file of a list, with the format and compression that its name states.

    Args:
        path: of the file, for messages: a URL without its signature.
        format: the one that its suffix names.
        compression: Arrow's name of the compression of the whole file, or None.
        endpoint: the S3 server, as for `Store`.
        signed: the URL with its signature, where it has one; never printed or stored.
    """

    path: str
    format: "Format"
    compression: str | None
    endpoint: str | None
    signed: str | None = field(default=None, repr=False, compare=False)

    @property
    def store(self) -> Store:
        """The file as a store's root."""
        return Store(self.signed or self.path, self.endpoint)

    def open(self) -> io.BufferedIOBase:
        """Opens the file; its bytes are not decompressed."""
        opened: io.BufferedIOBase = self.store.fs.open(self.store.url, "rb")
        return opened


@dataclass(frozen=True)
class Dialect:
    """The keys of a recipe that say how csv and tsv are written.

    Args:
        header: whether lists begin with a line of column names, where the format itself does not state names.
        quoted: whether cells may be enclosed in double quotes; None: the format's default.
    """

    header: bool = True
    quoted: bool | None = None


@dataclass(frozen=True)
class Head:
    """The columns of a list, read from its footer or its first rows.

    Args:
        rows: the number of rows in the list, or of those that were read; 0 where the list is empty.
        types: the columns' types by name, as the plan stores them.
    """

    rows: int
    types: Mapping[str, pa.DataType]


@dataclass(frozen=True)
class Chunk:
    """Some rows of a list.

    Args:
        rows: the number of rows.
        columns: by column name, a cell for each row.
        unusual: counts of rows that were changed or that may have been meant otherwise, by the sentence of a note.
    """

    rows: int
    columns: Mapping[str, Cells]
    unusual: Mapping[str, int] = field(default_factory=dict)


def check_width(path: str, columns: int) -> None:
    """Raises SourceError where a list has more than `MOST_COLUMNS` columns."""
    if columns > MOST_COLUMNS:
        raise SourceError(f"{path} has {columns:,} columns; a list may have {MOST_COLUMNS:,}")


@dataclass(frozen=True)
class Piece:
    """Successive rows of a list that can be read without those before them.

    Args:
        start: where it begins, in the format's own unit: a byte of the file, or the number of a row group.
        stop: where the next piece begins; None: it reaches to the end of the list.
        rows: the number of rows of the list.
        pairs: the number of rows of the plan, one for each caption of a row.
    """

    start: int
    stop: int | None
    rows: int
    pairs: int


class Format(ABC):
    """A list format: the suffixes of its files, and their reader.

    A module of `curate.plan.formats` offers one as `FORMAT` (or several, as a tuple); another package brings one
    through an entry point of the group `curate.formats`. Bytes that are not UTF-8 become U+FFFD. A row that cannot be
    read becomes an empty row, so that every row of a list is counted.

    Attributes:
        name: of the format, in messages.
        suffixes: of its files' names, in small letters and without a dot.
        values: converts its cells into columns.
        compressible: whether its files may also be compressed as a whole (`.csv.gz`).
        has_header: whether `source.header` says if its files begin with column names; without them the names are '0',
            '1', …
        only_urls: whether it has the single column `url`, whatever `source.url` names.
    """

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    values: ClassVar[Values]
    compressible: ClassVar[bool] = True
    has_header: ClassVar[bool] = False
    only_urls: ClassVar[bool] = False

    @abstractmethod
    def chunks(self, file: ListFile, dialect: Dialect, wanted: Sequence[str] | None) -> Generator[Chunk, None, None]:
        """Reads a list in chunks of at most `CHUNK_ROWS` rows.

        Args:
            file: of this format.
            dialect: the recipe's.
            wanted: the columns to return; None: all. A column that a row lacks is null in that row; a column that the
                list lacks may be left out.

        Raises:
            SourceError: the file cannot be read.
        """

    def head(self, file: ListFile, dialect: Dialect) -> Head:
        """The columns of a list; by default they are inferred from its first chunk. Raises SourceError."""
        with contextlib.closing(self.chunks(file, dialect, None)) as chunks:
            first = next(chunks, None)
        if first is None:
            return Head(0, {})
        return Head(first.rows, {name: self.values.inferred(cells) for name, cells in first.columns.items()})

    def count(self, file: ListFile, dialect: Dialect) -> int:
        """The number of rows; by default the list is read through. Raises SourceError."""
        return sum(chunk.rows for chunk in self.chunks(file, dialect, ()))

    def cut(self, file: ListFile, dialect: Dialect, captions: str | None) -> Iterator[Piece]:
        """Cuts a list into pieces of about `PIECE_ROWS` rows, in order; by default the list is one piece.

        Args:
            file: of this format.
            dialect: the recipe's.
            captions: the column of captions where a cell may hold several; None: every row is one pair.

        Raises:
            SourceError: the file cannot be read.
        """
        if captions is None:
            rows = pairs = self.count(file, dialect)
        else:
            rows = pairs = 0
            for chunk in self.chunks(file, dialect, [captions]):
                rows += chunk.rows
                pairs += len(self.values.captions(chunk.columns[captions]).texts)
        if rows:
            yield Piece(0, None, rows, pairs)

    def read(
        self, file: ListFile, dialect: Dialect, wanted: Sequence[str] | None, piece: Piece
    ) -> Generator[Chunk, None, None]:
        """Reads a piece that `cut` gave, in chunks, as `chunks` does; a format that overrides one overrides both."""
        assert (piece.start, piece.stop) == (0, None), "this format's lists are one piece"
        yield from self.chunks(file, dialect, wanted)


@contextlib.contextmanager
def readable(path: str) -> Iterator[None]:
    """Turns a reader's exceptions about a file into one line with the file's name.

    Raises:
        MemoryError: the memory of this process does not suffice.
        SourceError: the file is damaged, missing, not readable for this user, or not in the format of its suffix.
    """
    try:
        yield
    except MemoryError:
        raise
    except (*access_errors(path), EOFError, pa.ArrowException) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        reason = " ".join(redacted(reason).split()) or type(error).__name__
        raise SourceError(f"{redacted(path)} cannot be read: {reason}") from error
