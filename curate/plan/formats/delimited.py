"""CSV and TSV: cells of text, separated by commas (quoted as in RFC 4180) or by tabs (unquoted)."""

import csv
import io
from collections.abc import Generator, Iterator, Sequence
from typing import Any

from curate.errors import SourceError
from curate.plan.cells import TextValues
from curate.plan.formats.contract import Chunk, Dialect, Format, ListFile
from curate.plan.formats.text import batched, text


class _Delimited(Format):
    values = TextValues()
    has_header = True

    def chunks(self, file: ListFile, dialect: Dialect, wanted: Sequence[str] | None) -> Generator[Chunk, None, None]:
        """See `Format`. Raises SourceError also where two columns have one name."""
        # csv wants its line ends untouched.
        with text(file, newline="" if self.name == "csv" else "\n") as lines:
            rows = _quoted(lines) if self.name == "csv" else _tabbed(lines)
            names: list[str] | None = None
            if dialect.header:
                names = next((row for row in rows if row), [])
                twice = sorted({name for name in names if names.count(name) > 1})
                if twice:
                    raise SourceError(f"{file.path}: two columns are named {twice[0]!r}")
            for batch in batched(rows):
                if names is None:
                    names = [str(number) for number in range(len(batch[0]))]
                width = len(names)
                ragged = sum(len(row) != width for row in batch)
                if ragged:
                    batch = [(row + [None] * width)[:width] for row in batch]
                columns = dict(zip(names, zip(*batch, strict=True), strict=True))
                blank = (None,) * len(batch)
                named = columns if wanted is None else {name: columns.get(name, blank) for name in wanted}
                yield Chunk(
                    len(batch), named, {"lines that are not as the others were filled up, cut or left empty": ragged}
                )


class Csv(_Delimited):
    """Comma-separated values."""

    name = "csv"
    suffixes = ("csv",)


class Tsv(_Delimited):
    """Tab-separated values."""

    name = "tsv"
    suffixes = ("tsv",)


def _tabbed(lines: io.TextIOWrapper) -> Iterator[list[Any]]:
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


FORMAT = (Csv(), Tsv())
