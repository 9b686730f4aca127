"""What a list format is: the contract between the plan pass and a format's module."""

import contextlib
import io
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import pyarrow as pa

from curate.errors import SourceError
from curate.plan.cells import Cells, Values
from curate.store import Store, access_errors

CHUNK_ROWS = 16_384
"""Rows held at once of a list, whatever its length."""


@dataclass(frozen=True)
class ListFile:
    """One file of a list, with what its name says about it.

    Args:
        path: where it lies.
        format: what its suffix stands for.
        compression: Arrow's name of the compression around it, or None.
        endpoint: the S3 server, as for `Store`.
    """

    path: str
    format: "Format"
    compression: str | None
    endpoint: str | None

    def open(self) -> io.BufferedIOBase:
        """Opens the bytes as they lie there, compressed where they are."""
        opened: io.BufferedIOBase = Store(self.path, self.endpoint).fs.open(self.path, "rb")
        return opened


@dataclass(frozen=True)
class Dialect:
    """What a recipe says about how lists are written.

    Args:
        header: whether lists whose format states no column names begin with a line of them.
        quoted: whether cells may stand in double quotes; None: as is usual in the format.
    """

    header: bool = True
    quoted: bool | None = None


@dataclass(frozen=True)
class Head:
    """What is known of a list without reading it through.

    Args:
        rows: how many rows there are, or how many were looked at; 0 where the list is empty.
        types: the columns' types by name, as the plan stores them.
    """

    rows: int
    types: Mapping[str, pa.DataType]


@dataclass(frozen=True)
class Chunk:
    """Some rows of a list.

    Args:
        rows: how many.
        columns: the cells by column, each of `rows` cells.
        unusual: counts of rows that were not as one expects, by what they are and what was done with them, in the
            words of a note.
    """

    rows: int
    columns: Mapping[str, Cells]
    unusual: Mapping[str, int] = field(default_factory=dict)


class Format(ABC):
    """A list format: what its files are called, and how they are read.

    A module of `curate.plan.formats` offers one as `FORMAT` (or several, as a tuple); another package brings one
    through an entry point of the group `curate.formats`. Bytes that are no UTF-8 become U+FFFD; a row that cannot be
    read is still a row, an empty one, so that every row of a list is accounted for.

    Attributes:
        name: of the format, as messages say it.
        suffixes: the file names' last words, in small letters and without a dot.
        values: how its cells become columns.
        compressible: whether its files may also be compressed as a whole (`.csv.gz`).
        has_header: whether `source.header` decides if its files begin with column names; without, names are '0', '1', …
        only_urls: whether it has the single column `url`, whatever the recipe calls the others'.
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
            dialect: what the recipe says.
            wanted: the columns to return; one that a row does not have may be null in it, one that the list does not
                have may be missing. None: every column.

        Raises:
            SourceError: the file cannot be read.
        """

    def head(self, file: ListFile, dialect: Dialect) -> Head:
        """The columns of a list; by default inferred from its first chunk. Raises SourceError."""
        with contextlib.closing(self.chunks(file, dialect, None)) as chunks:
            first = next(chunks, None)
        if first is None:
            return Head(0, {})
        return Head(first.rows, {name: self.values.inferred(cells) for name, cells in first.columns.items()})

    def count(self, file: ListFile, dialect: Dialect) -> int:
        """The number of rows; by default the list is read through. Raises SourceError."""
        return sum(chunk.rows for chunk in self.chunks(file, dialect, ()))


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
