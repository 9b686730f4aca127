"""Plain text: one URL per line, no captions."""

from collections.abc import Generator, Iterator, Sequence

from curate.plan.cells import TextValues
from curate.plan.formats.contract import Chunk, Dialect, Format, ListFile, Piece
from curate.plan.formats.text import batched, pieces, text


class Txt(Format):
    """Lines of URLs."""

    name = "txt"
    suffixes = ("txt",)
    values = TextValues()
    only_urls = True

    def chunks(self, file: ListFile, dialect: Dialect, wanted: Sequence[str] | None) -> Generator[Chunk, None, None]:
        """See `Format`."""
        yield from self.read(file, dialect, wanted, Piece(0, None, 0, 0))

    def cut(self, file: ListFile, dialect: Dialect, captions: str | None) -> Iterator[Piece]:
        """See `Format`."""
        del dialect, captions
        with text(file) as lines:
            yield from pieces(file, lines, (line.rstrip("\r\n") for line in lines))

    def read(
        self, file: ListFile, dialect: Dialect, wanted: Sequence[str] | None, piece: Piece
    ) -> Generator[Chunk, None, None]:
        """See `Format`."""
        del dialect, wanted
        with text(file, start=piece.start, stop=piece.stop) as lines:
            for urls in batched(line.rstrip("\r\n") for line in lines):
                yield Chunk(len(urls), {"url": urls}, lines.take_cut())


FORMAT = Txt()
