"""Decodes lists of text lines and divides them into chunks and pieces, for the formats that consist of lines."""

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, TypeAlias, TypeVar

from curate.plan.formats import contract
from curate.plan.formats.compression import decompressed
from curate.plan.formats.contract import ListFile, Piece, readable

Row = TypeVar("Row", bound=Sized)

LONGEST = 4 << 20
"""Bytes of a line that are read; the rest of a longer line is skipped."""

CUT = f"lines of more than {LONGEST >> 20} MiB were cut"

CHUNK_BYTES = 16 << 20
"""Bytes of text, about, after which a chunk ends before it has `CHUNK_ROWS` rows."""

_BLOCK = 1 << 20
_BOM = b"\xef\xbb\xbf"


_Buffered: TypeAlias = "io.BufferedReader[Any]"


class Lines(Iterator[str]):
    """The lines of a list, decoded from UTF-8 with their ends; bytes that are not UTF-8 become U+FFFD.

    A line of any length takes no more memory than `LONGEST` bytes.

    Args:
        opened: the list's decompressed bytes, from `start` on.
        newline: the end of a line, as for `open`: a line feed alone, or where it is '' also a carriage return, or both.
        start: the number of bytes before the first line.
        stop: the position of the first line that is not read; None: all are read.

    Attributes:
        position: the number of bytes of the list up to the end of the last line that was read.
        cut: the number of lines that were cut, since `take_cut` was called.
    """

    def __init__(self, opened: _Buffered, newline: str, start: int = 0, stop: int | None = None) -> None:
        self.position = start
        self.cut = 0
        self._stop = stop
        self._lines = _any_end(opened) if newline == "" else _line_feeds(opened)

    def __next__(self) -> str:
        """The next line."""
        if self._stop is not None and self.position >= self._stop:
            raise StopIteration
        line, length = next(self._lines)
        if self.position == 0:
            line = line.removeprefix(_BOM)
        self.position += length
        self.cut += length > LONGEST
        return line.decode("utf-8", "replace")

    def take_cut(self) -> dict[str, int]:
        """The number of lines that were cut since the last call, by the sentence of a note."""
        cut, self.cut = self.cut, 0
        return {CUT: cut} if cut else {}


@contextlib.contextmanager
def text(file: ListFile, newline: str = "\n", start: int = 0, stop: int | None = None) -> Iterator[Lines]:
    """Opens a list as UTF-8, without its byte order mark.

    Args:
        file: a list of text, compressed or not.
        newline: as for `Lines`; by default a line feed alone, as captions may hold a carriage return.
        start: the byte at which reading begins, the first of a line; 0 where the list is compressed.
        stop: as for `Lines`.

    Raises:
        SourceError: the file cannot be read.
    """
    with readable(file.path), file.open() as opened:
        if start:
            opened.seek(start)
        raw = _Raw(decompressed(opened, file.compression))
        with io.BufferedReader(raw, _BLOCK) as buffered:
            yield Lines(buffered, newline, start, stop)


def batched(rows: Iterable[Row], weight: Callable[[Row], int] = len) -> Iterator[list[Row]]:
    """Yields lists of `CHUNK_ROWS` rows, or fewer where they are long; empty rows, from blank lines, are left out.

    Args:
        rows: in order.
        weight: the size of a row in memory, about, in bytes; a list of rows ends when they have `CHUNK_BYTES`.
    """
    batch: list[Row] = []
    held = 0
    for row in rows:
        if row:
            batch.append(row)
            held += weight(row)
            if len(batch) == contract.CHUNK_ROWS or held >= CHUNK_BYTES:
                yield batch
                batch, held = [], 0
    if batch:
        yield batch


def pieces(
    file: ListFile, lines: Lines, rows: Iterable[Row], pairs: Callable[[Row], int] | None = None
) -> Iterator[Piece]:
    """Cuts a list into pieces between two rows; a compressed one, which can only be read from its start, is one piece.

    Args:
        file: the list.
        lines: all of its lines.
        rows: made from the lines, each from no more lines than it consists of; empty ones are not counted.
        pairs: gives the number of pairs of a row; None: one.
    """
    start = count = n_pairs = 0
    for row in rows:
        if row:
            count += 1
            n_pairs += pairs(row) if pairs else 1
            if count >= contract.PIECE_ROWS and not file.compression:
                yield Piece(start, lines.position, count, n_pairs)
                start, count, n_pairs = lines.position, 0, 0
    if count:
        yield Piece(start, None, count, n_pairs)


def _line_feeds(opened: _Buffered) -> Iterator[tuple[bytes, int]]:
    """Yields the beginning of each line, and its length in bytes."""
    while line := opened.readline(LONGEST + 1):
        length = len(line)
        if length > LONGEST and not line.endswith(b"\n"):
            line = line[:LONGEST] + b"\n"
            while rest := opened.readline(_BLOCK):
                length += len(rest)
                if rest.endswith(b"\n"):
                    break
        yield line, length


def _any_end(opened: _Buffered) -> Iterator[tuple[bytes, int]]:
    """Yields the beginning of each line, which any of the three ends may end, and its length in bytes."""
    begun, length = b"", 0
    while block := opened.readline(_BLOCK):
        if block.endswith(b"\r") and opened.peek(1)[:1] == b"\n":
            block += opened.read(1)
        for line in block.splitlines(keepends=True) if b"\r" in block else (block,):
            length += len(line)
            begun += line[: max(0, LONGEST - len(begun))]
            if line.endswith((b"\n", b"\r")):
                yield (begun if length <= LONGEST else begun + b"\n"), length
                begun, length = b"", 0
    if length:
        yield begun, length


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
