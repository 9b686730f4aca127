"""Arrow IPC: typed columns, read one record batch at a time, from the file format and the stream format."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.errors import SourceError
from curate.plan.cells import ArrowValues, plain_type
from curate.plan.formats.contract import Dialect, Head, ListFile, Piece, check_width, readable
from curate.plan.formats.limited import LimitedFormat

_FILE = b"ARROW1"
"""The first bytes of the file format; anything else is read as a stream (as HuggingFace's datasets are stored)."""


class ArrowIpc(LimitedFormat):
    """Arrow's file format, which is Feather's second version, and its stream format.

    A record batch is held in memory as a whole. Buffers inside a file may be compressed with lz4 or zstd; the file as
    a whole may not, because the file format is read from its end.
    """

    name = "arrow"
    suffixes = ("arrow", "arrows", "feather", "ipc")
    values = ArrowValues()
    compressible = False

    def batches(
        self, file: ListFile, wanted: Sequence[str] | None, piece: Piece, rows: int
    ) -> Iterator[pa.RecordBatch]:
        """See `LimitedFormat`."""
        del piece
        for batch in _batches(file, wanted):
            yield from (batch.slice(start, rows) for start in range(0, batch.num_rows, rows))

    def head(self, file: ListFile, dialect: Dialect) -> Head:
        """See `Format`; from the schema and the first record batch that has rows."""
        with readable(file.path), file.open() as opened:
            schema = _reader(opened, None).schema
        names = schema.names
        check_width(file.path, len(names))
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise SourceError(f"{file.path}: two columns are named {twice[0]!r}")
        with contextlib.closing(self.chunks(file, dialect, names[:1])) as chunks:
            rows = next((chunk.rows for chunk in chunks if chunk.rows), 0)
        return Head(rows, {column.name: _stored(column, file.path) for column in schema})


def _batches(file: ListFile, wanted: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    """The record batches of a list with the wanted columns, or with the first column where none is wanted."""
    with readable(file.path), file.open() as opened:
        names = _reader(opened, None).schema.names
        fields = [number for number, name in enumerate(names) if wanted is None or name in wanted]
        opened.seek(0)
        reader = _reader(opened, fields or [0][: len(names)])
        for batch in map(reader.get_batch, range(reader.num_record_batches)) if _is_file(reader) else reader:
            # Arrow trusts the offsets and lengths in a file: without this check, invalid ones would crash the process.
            batch.validate()
            yield batch


def _is_file(reader: Any) -> bool:
    return isinstance(reader, pa.ipc.RecordBatchFileReader)


def _reader(opened: Any, fields: Sequence[int] | None) -> Any:
    """A reader of either format, for the given top-level columns, or for all."""
    options = pa.ipc.IpcReadOptions(included_fields=list(fields) if fields else None)
    is_file = opened.read(len(_FILE)) == _FILE
    opened.seek(0)
    source = pa.PythonFile(opened, "r")
    return pa.ipc.open_file(source, options=options) if is_file else pa.ipc.open_stream(source, options=options)


def _stored(column: pa.Field, path: str) -> pa.DataType:
    """The type that a column has after Parquet stored it: Arrow has types that Parquet lacks, such as seconds."""
    sink = io.BytesIO()
    try:
        pq.write_table(pa.schema([(column.name, plain_type(column.type))]).empty_table(), sink)
        return plain_type(pq.read_schema(sink).field(0).type)
    except pa.ArrowException as error:
        raise SourceError(f"{path}: column {column.name!r} is {column.type}, which Parquet cannot hold") from error


FORMAT = ArrowIpc()
