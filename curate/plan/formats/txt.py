"""Plain text: one URL per line, no captions."""

from collections.abc import Generator, Sequence

from curate.plan.cells import TextValues
from curate.plan.formats.contract import Chunk, Dialect, Format, ListFile
from curate.plan.formats.text import batched, text


class Txt(Format):
    """Lines of URLs."""

    name = "txt"
    suffixes = ("txt",)
    values = TextValues()
    only_urls = True

    def chunks(self, file: ListFile, dialect: Dialect, wanted: Sequence[str] | None) -> Generator[Chunk, None, None]:
        """See `Format`."""
        del dialect, wanted
        with text(file) as lines:
            for urls in batched(line.rstrip("\r\n") for line in lines):
                yield Chunk(len(urls), {"url": urls})


FORMAT = Txt()
