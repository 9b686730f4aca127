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

import csv
import itertools
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, ClassVar

from curate.errors import SourceError
from curate.plan.cells import TextValues
from curate.plan.formats.contract import Chunk, Dialect, Format, ListFile
from curate.plan.formats.text import batched, text

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
        quoted = self.quoted if dialect.quoted is None else dialect.quoted
        # Line ends inside quoted cells are content and must not be translated.
        with text(file, newline="" if quoted else "\n") as lines:
            unusual: Counter[str] = Counter()
            rows = (_quoted if quoted else _unquoted)(lines, self.separator, unusual)
            names: list[str] | None = None
            if dialect.header:
                names = [name or "" for name in next((row for row in rows if row), [])]
                twice = sorted({name for name in names if names.count(name) > 1})
                if twice:
                    raise SourceError(f"{file.path}: two columns are named {twice[0]!r}")
            for batch in batched(rows):
                if names is None:
                    names = [str(number) for number in range(len(batch[0]))]
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
                yield Chunk(len(batch), named, dict(unusual))
                unusual.clear()


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
