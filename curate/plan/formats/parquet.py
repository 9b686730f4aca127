"""Parquet: typed columns, read one row group at a time, in chunks."""

import contextlib
from collections.abc import Generator, Iterator, Sequence

import pyarrow.parquet as pq

from curate.plan.cells import ArrowValues, plain_type
from curate.plan.formats import contract
from curate.plan.formats.contract import Chunk, Dialect, Format, Head, ListFile, Piece, readable


class Parquet(Format):
    """Parquet files."""

    name = "parquet"
    suffixes = ("parquet",)
    values = ArrowValues()
    compressible = False

    def chunks(self, file: ListFile, dialect: Dialect, wanted: Sequence[str] | None) -> Generator[Chunk, None, None]:
        """See `Format`."""
        yield from self.read(file, dialect, wanted, Piece(0, None, 0, 0))

    def cut(self, file: ListFile, dialect: Dialect, captions: str | None) -> Iterator[Piece]:
        """See `Format`; between row groups, which the footer counts."""
        del dialect
        with _opened(file) as opened:
            start = rows = pairs = 0
            for group in range(opened.num_row_groups):
                in_group = opened.metadata.row_group(group).num_rows
                rows += in_group
                pairs += in_group if captions is None else self._pairs(opened, group, captions)
                if rows >= contract.PIECE_ROWS:
                    yield Piece(start, group + 1, rows, pairs)
                    start, rows, pairs = group + 1, 0, 0
            if rows:
                yield Piece(start, None, rows, pairs)

    def read(
        self, file: ListFile, dialect: Dialect, wanted: Sequence[str] | None, piece: Piece
    ) -> Generator[Chunk, None, None]:
        """See `Format`."""
        del dialect
        with _opened(file) as opened:
            names = opened.schema_arrow.names
            columns = [name for name in names if wanted is None or name in wanted]
            # One row group at a time: a reader of several keeps those that it has passed in memory.
            for group in range(piece.start, opened.num_row_groups if piece.stop is None else piece.stop):
                for batch in opened.iter_batches(contract.CHUNK_ROWS, row_groups=[group], columns=columns):
                    yield Chunk(batch.num_rows, dict(zip(batch.schema.names, batch.columns, strict=True)))

    def _pairs(self, opened: pq.ParquetFile, group: int, captions: str) -> int:
        """The number of pairs of a row group."""
        batches = opened.iter_batches(contract.CHUNK_ROWS, row_groups=[group], columns=[captions])
        return sum(len(self.values.captions(batch.column(0)).texts) for batch in batches)

    def head(self, file: ListFile, dialect: Dialect) -> Head:
        """See `Format`; from the footer."""
        del dialect
        with _opened(file) as opened:
            types = {column.name: plain_type(column.type) for column in opened.schema_arrow}
            return Head(opened.metadata.num_rows, types)

    def count(self, file: ListFile, dialect: Dialect) -> int:
        """See `Format`; from the footer."""
        return self.head(file, dialect).rows


@contextlib.contextmanager
def _opened(file: ListFile) -> Iterator[pq.ParquetFile]:
    with readable(file.path), file.open() as opened:
        yield pq.ParquetFile(opened, buffer_size=1 << 20)


FORMAT = Parquet()
