"""JSON Lines: one object per line, whose keys are the columns."""

import json
from collections.abc import Generator, Iterator, Sequence
from typing import Any

from curate.errors import SourceError
from curate.plan.cells import JsonValues
from curate.plan.formats.contract import Chunk, Dialect, Format, Head, ListFile, Piece, check_width
from curate.plan.formats.text import batched, pieces, text


class JsonLines(Format):
    """Lines of JSON objects."""

    name = "jsonl"
    suffixes = ("jsonl",)
    values = JsonValues()

    def chunks(self, file: ListFile, dialect: Dialect, wanted: Sequence[str] | None) -> Generator[Chunk, None, None]:
        """See `Format`."""
        yield from self.read(file, dialect, wanted, Piece(0, None, 0, 0))

    def cut(self, file: ListFile, dialect: Dialect, captions: str | None) -> Iterator[Piece]:
        """See `Format`; only lines that may hold a list are parsed."""
        del dialect

        def pairs(line: str) -> int:
            if captions is None or "[" not in line:
                return 1
            return len(self.values.captions([(_object(line) or {}).get(captions)]).texts)

        with text(file) as lines:
            yield from pieces(file, lines, (line.strip() for line in lines), pairs)

    def read(
        self, file: ListFile, dialect: Dialect, wanted: Sequence[str] | None, piece: Piece
    ) -> Generator[Chunk, None, None]:
        """See `Format`."""
        del dialect
        with text(file, start=piece.start, stop=piece.stop) as lines:
            for batch in batched(line.strip() for line in lines):
                rows = [_object(line) for line in batch]
                read = [row or {} for row in rows]
                names = dict.fromkeys(key for row in read for key in row) if wanted is None else wanted
                check_width(file.path, len(names))
                columns = {name: [row.get(name) for row in read] for name in names}
                yield Chunk(len(rows), columns, {_NO_OBJECT: rows.count(None), **lines.take_cut()})

    def head(self, file: ListFile, dialect: Dialect) -> Head:
        """See `Format`."""
        head = super().head(file, dialect)
        if head.rows and not head.types:
            raise SourceError(f"{file.path} cannot be read: none of its first lines is a JSON object with keys")
        return head


_NO_OBJECT = "lines that are not JSON objects became empty rows"


def _object(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


FORMAT = JsonLines()
