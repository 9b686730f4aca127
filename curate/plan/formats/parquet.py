"""Parquet: typed columns, read one row group at a time, in chunks."""

import contextlib
from collections.abc import Generator, Iterator, Sequence

import pyarrow.parquet as pq

from curate.plan.cells import ArrowValues, plain_type
from curate.plan.formats import contract
from curate.plan.formats.contract import Chunk, Dialect, Format, Head, ListFile, readable


class Parquet(Format):
    """Parquet files."""

    name = "parquet"
    suffixes = ("parquet",)
    values = ArrowValues()
    compressible = False

    def chunks(self, file: ListFile, dialect: Dialect, wanted: Sequence[str] | None) -> Generator[Chunk, None, None]:
        """See `Format`."""
        del dialect
        with _opened(file) as opened:
            names = opened.schema_arrow.names
            columns = [name for name in names if wanted is None or name in wanted]
            # One row group at a time: a reader of several keeps those that it has passed in memory.
            for group in range(opened.num_row_groups):
                for batch in opened.iter_batches(contract.CHUNK_ROWS, row_groups=[group], columns=columns):
                    yield Chunk(batch.num_rows, dict(zip(batch.schema.names, batch.columns, strict=True)))

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
