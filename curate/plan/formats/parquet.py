"""Parquet: typed columns, read one row group at a time, in chunks."""

import contextlib
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from curate.plan.cells import ArrowValues, plain_type
from curate.plan.formats import contract
from curate.plan.formats.contract import Dialect, Head, ListFile, Piece, check_width, readable
from curate.plan.formats.limited import LimitedFormat


class Parquet(LimitedFormat):
    """Parquet files."""

    name = "parquet"
    suffixes = ("parquet",)
    values = ArrowValues()
    compressible = False

    def cut(self, file: ListFile, dialect: Dialect, captions: str | None) -> Iterator[Piece]:
        """See `Format`; between row groups, which the footer counts."""
        with _opened(file) as opened:
            start = rows = pairs = 0
            for group in range(opened.num_row_groups):
                in_group = opened.metadata.row_group(group).num_rows
                rows += in_group
                pairs += in_group if captions is None else self._pairs(file, dialect, group, captions)
                if rows >= contract.PIECE_ROWS:
                    yield Piece(start, group + 1, rows, pairs)
                    start, rows, pairs = group + 1, 0, 0
            if rows:
                yield Piece(start, None, rows, pairs)

    def batches(
        self, file: ListFile, wanted: Sequence[str] | None, piece: Piece, rows: int
    ) -> Iterator[pa.RecordBatch]:
        """See `LimitedFormat`."""
        with _opened(file) as opened:
            names = opened.schema_arrow.names
            columns = [name for name in names if wanted is None or name in wanted]
            # One row group at a time: a reader of several keeps those that it has passed in memory.
            for group in range(piece.start, opened.num_row_groups if piece.stop is None else piece.stop):
                yield from opened.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False)

    def head(self, file: ListFile, dialect: Dialect) -> Head:
        """See `Format`; from the footer."""
        del dialect
        with _opened(file) as opened:
            check_width(file.path, opened.metadata.num_columns)
            types = {column.name: plain_type(column.type) for column in opened.schema_arrow}
            return Head(opened.metadata.num_rows, types)

    def count(self, file: ListFile, dialect: Dialect) -> int:
        """See `Format`; from the footer."""
        return self.head(file, dialect).rows

    def _pairs(self, file: ListFile, dialect: Dialect, group: int, captions: str) -> int:
        """The number of pairs of a row group."""
        chunks = self.read(file, dialect, [captions], Piece(group, group + 1, 0, 0))
        return sum(len(self.values.captions(chunk.columns[captions]).texts) for chunk in chunks)


@contextlib.contextmanager
def _opened(file: ListFile) -> Iterator[pq.ParquetFile]:
    with readable(file.path), file.open() as opened:
        yield pq.ParquetFile(opened, buffer_size=1 << 20)


FORMAT = Parquet()
