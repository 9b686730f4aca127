"""CSV and TSV: cells of text between commas or tabs, with or without double quotes.

The two dialects, and the rows that are counted because they may have been meant otherwise:

    quoted (RFC 4180: csv unless the recipe says otherwise)
        a cell may be enclosed in double quotes and then hold separators, line ends and "" for a quote
        counted: rows whose quoted cell spans lines, has text after its end, or has no end
    not quoted (tsv unless the recipe says otherwise)
        one line is one row, a quote is a character
        counted: cells that begin and end with a quote
    both
        the first row sets the number of columns; other rows are filled up with nulls or cut
        counted: rows with fewer columns, rows with more
"""

import contextlib
import csv
import itertools
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, ClassVar

from curate.errors import SourceError
from curate.plan.cells import TextValues
from curate.plan.formats.contract import Chunk, Dialect, Format, ListFile, Piece, check_width
from curate.plan.formats.text import Lines, batched, pieces, text

_HINT = "; where quotes are plain characters, say source.quoted: false"
FEWER = "rows with fewer columns than the first were filled up with nulls"
MORE = "rows with more columns than the first were cut"
SPANNING = f"rows have a quoted cell that spans lines{_HINT}"
STRAY = f"rows have a quoted cell with text after its end, or without an end; its quotes were left out{_HINT}"
ENDLESS = f"rows have a quoted cell of more than 128 KiB; the lines of the cell became one empty row{_HINT}"
WRAPPED = "rows have a cell in double quotes, which count as text; where quotes enclose cells, say source.quoted: true"


class _Delimited(Format):
    values = TextValues()
    has_header = True
    separator: ClassVar[str]
    quoted: ClassVar[bool]
    """Whether cells may be enclosed in quotes where the recipe does not say."""

    def chunks(self, file: ListFile, dialect: Dialect, wanted: Sequence[str] | None) -> Generator[Chunk, None, None]:
        """See `Format`. Also raises SourceError where two columns have the same name."""
        yield from self.read(file, dialect, wanted, Piece(0, None, 0, 0))

    def cut(self, file: ListFile, dialect: Dialect, captions: str | None) -> Iterator[Piece]:
        """See `Format`; quoted lists are parsed, as only the parser knows which line ends end a row."""
        del captions
        with self._lines(file, dialect) as lines:
            rows = self._rows(lines, dialect, Counter())
            if dialect.header:
                next((row for row in rows if row), None)
            yield from pieces(file, lines, rows)

    def read(
        self, file: ListFile, dialect: Dialect, wanted: Sequence[str] | None, piece: Piece
    ) -> Generator[Chunk, None, None]:
        """See `Format`. Also raises SourceError where two columns have the same name."""
        names: list[str] | None = None
        if piece.start:
            # The first row gives the names, or at least their number; its peculiarities are counted with its own piece.
            with self._lines(file, dialect) as lines:
                first = next((row for row in self._rows(lines, dialect, Counter()) if row), [])
            names = _names(first, file) if dialect.header else _numbers(first, file)
        with self._lines(file, dialect, piece) as lines:
            unusual: Counter[str] = Counter()
            rows = self._rows(lines, dialect, unusual)
            if names is None and dialect.header:
                names = _names(next((row for row in rows if row), []), file)
            for batch in batched(rows, _weight):
                if names is None:
                    names = _numbers(batch[0], file)
                width = len(names)
                widths = Counter(map(len, batch))
                if len(widths) > 1 or width not in widths:
                    unusual[FEWER] = sum(times for cells, times in widths.items() if cells < width)
                    unusual[MORE] = sum(times for cells, times in widths.items() if cells > width)
                    batch = [(row + [None] * width)[:width] for row in batch]
                columns = dict(zip(names, zip(*batch, strict=True), strict=True))
                blank = (None,) * len(batch)
                named = columns if wanted is None else {name: columns.get(name, blank) for name in wanted}
                # A copy, as the counts of the next chunk start from 0.
                yield Chunk(len(batch), named, {**unusual, **lines.take_cut()})
                unusual.clear()

    def _is_quoted(self, dialect: Dialect) -> bool:
        return self.quoted if dialect.quoted is None else dialect.quoted

    def _lines(
        self, file: ListFile, dialect: Dialect, piece: Piece | None = None
    ) -> contextlib.AbstractContextManager[Lines]:
        # Line ends inside quoted cells are content and must not be translated.
        newline = "" if self._is_quoted(dialect) else "\n"
        return text(file, newline, piece.start, piece.stop) if piece else text(file, newline)

    def _rows(self, lines: Lines, dialect: Dialect, unusual: Counter[str]) -> Iterator[list[Any]]:
        return (_quoted if self._is_quoted(dialect) else _unquoted)(lines, self.separator, unusual)


class Csv(_Delimited):
    """Comma-separated values, quoted by default."""

    name = "csv"
    suffixes = ("csv",)
    separator = ","
    quoted = True


class Tsv(_Delimited):
    """Tab-separated values, not quoted by default, as in CC3M, CC12M and LAION."""

    name = "tsv"
    suffixes = ("tsv",)
    separator = "\t"
    quoted = False


def _names(first: Sequence[str | None], file: ListFile) -> list[str]:
    check_width(file.path, len(first))
    names = [name or "" for name in first]
    if len(set(names)) < len(names):
        twice = min(name for name, times in Counter(names).items() if times > 1)
        raise SourceError(f"{file.path}: two columns are named {twice!r}")
    return names


def _numbers(first: Sequence[str | None], file: ListFile) -> list[str]:
    check_width(file.path, len(first))
    return [str(number) for number in range(len(first))]


def _weight(row: Sequence[str | None]) -> int:
    """The bytes of a row in memory, about: Python's text has a head of some 50 bytes, and a pointer in the row."""
    return 64 * len(row) + sum(map(len, filter(None, row)))


def _unquoted(lines: Iterable[str], separator: str, unusual: Counter[str]) -> Iterator[list[Any]]:
    for line in lines:
        line = line.rstrip("\r\n")
        if line:
            cells = line.split(separator)
            if '"' in line:
                unusual[WRAPPED] += any(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in cells)
            yield cells


def _quoted(lines: Iterable[str], separator: str, unusual: Counter[str]) -> Iterator[list[Any]]:
    ahead, behind = itertools.tee(lines)
    # The strict reader raises on stray quotes; a lenient one drops them silently.
    strict = csv.reader(ahead, delimiter=separator, strict=True)
    cells: list[Any]
    read = 0
    while True:
        try:
            cells = next(strict)
        except StopIteration:
            return
        except csv.Error:
            refused = list(itertools.islice(behind, strict.line_num - read))
            lenient = csv.reader(itertools.chain(refused, ahead), delimiter=separator)
            try:
                cells = next(lenient)
            except csv.Error:
                # The cell exceeds csv's field limit (128 KiB); the reader continues with the next line.
                cells = [None]
                unusual[ENDLESS] += 1
            else:
                unusual[STRAY] += 1
                unusual[SPANNING] += lenient.line_num > 1
            more = lenient.line_num - len(refused)
        else:
            more = strict.line_num - read
            if more > 1:
                unusual[SPANNING] += 1
        for _ in range(more):
            next(behind)
        read = strict.line_num
        yield cells


FORMAT = (Csv(), Tsv())
