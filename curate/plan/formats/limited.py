"""Reads typed lists in child processes with a limit on memory, because Arrow expands pages and dictionaries by itself.

A page of 5 kB may become gigabytes when it is decompressed, and a dictionary of one long text a text for every row. A
child process may allocate `MEMORY` bytes; where that is not enough, the list is read in smaller batches, and where not
even single rows fit, the error names the list. A child ends when it has had no work for `IDLE` seconds.
"""

import atexit
import json
import os
import pickle
import resource
import select
import struct
import subprocess
import sys
from abc import abstractmethod
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc

from curate.errors import SourceError
from curate.plan.formats import contract
from curate.plan.formats.contract import Chunk, Dialect, Format, ListFile, Piece

MEMORY = 512 << 20
"""Bytes that a child may allocate besides what it needs to start."""

IDLE = 10.0
"""Seconds without work after which a child ends."""

_FRAME = 32 << 20
"""Bytes of a batch, about, that is passed on; larger ones are divided."""

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from curate.plan.formats.limited import serve; serve()"
)
_LENGTH = struct.Struct("<Q")
_BATCH, _END, _ERROR = b"B", b"E", b"X"


class LimitedFormat(Format):
    """A format whose lists are read in a child process."""

    def chunks(self, file: ListFile, dialect: Dialect, wanted: Sequence[str] | None) -> Generator[Chunk, None, None]:
        """See `Format`."""
        yield from self.read(file, dialect, wanted, Piece(0, None, 0, 0))

    def read(
        self, file: ListFile, dialect: Dialect, wanted: Sequence[str] | None, piece: Piece
    ) -> Generator[Chunk, None, None]:
        """See `Format`."""
        del dialect
        for batch in _answers((MEMORY, _FRAME, contract.CHUNK_ROWS, self, file, wanted, piece), file.path):
            yield Chunk(batch.num_rows, dict(zip(batch.schema.names, batch.columns, strict=True)))

    @abstractmethod
    def batches(
        self, file: ListFile, wanted: Sequence[str] | None, piece: Piece, rows: int
    ) -> Iterator[pa.RecordBatch]:
        """Reads a piece in batches of at most so many rows; called in the child process.

        Raises:
            SourceError: the file cannot be read.
            MemoryError: a batch does not fit the memory.
        """


class _Child:
    """A child process, which answers one request at a time."""

    def __init__(self) -> None:
        # Threads of libraries would need memory of their own; the pool is malloc, whose requests the limit refuses.
        alone = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ARROW_IO_THREADS"), "1")
        self.process = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **alone, "ARROW_DEFAULT_MEMORY_POOL": "system"},
            start_new_session=True,
        )
        assert self.process.stdin
        assert self.process.stdout
        self.requests: IO[bytes] = self.process.stdin
        self.answers: IO[bytes] = self.process.stdout

    def end(self) -> str:
        """Ends the process; returns how it ended, with the last line of its traceback."""
        self.process.kill()
        _, told = self.process.communicate()
        lines = told.decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {self.process.returncode}"


_idle: list[_Child] = []


@atexit.register
def end_idle() -> None:
    """Ends the child that waits for work, if there is one."""
    while _idle:
        _idle.pop().end()


def _answers(request: tuple[Any, ...], path: str) -> Iterator[pa.RecordBatch]:
    """Yields the batches of one request, from an idle child or a new one."""
    child, kind, content = _asked(pickle.dumps(request))
    is_idle = False
    try:
        while kind == _BATCH:
            with pa.ipc.open_stream(content) as stream:
                yield from stream
            kind, content = _received(child.answers)
        if kind == _ERROR:
            is_idle = True
            raise SourceError(content.decode())
        if kind != _END:
            raise SourceError(f"{_too_large(path, MEMORY)}: the process that read it ended ({child.end()})")
        is_idle = True
    finally:
        if is_idle and not _idle:
            _idle.append(child)
        else:
            child.end()


def _asked(request: bytes) -> tuple[_Child, bytes, bytes]:
    """Sends a request; returns the child and its first answer."""
    while _idle:
        child = _idle.pop()
        try:
            _send(child.requests, b"", request)
            kind, content = _received(child.answers)
        except BrokenPipeError:
            kind = b""
        # An idle child may have ended by itself.
        if kind:
            return child, kind, content
        child.end()
    child = _Child()
    _send(child.requests, b"", request)
    return child, *_received(child.answers)


def _send(pipe: IO[bytes], kind: bytes, content: bytes) -> None:
    pipe.write(_LENGTH.pack(len(content)) + kind)
    pipe.write(content)
    pipe.flush()


def _received(pipe: IO[bytes]) -> tuple[bytes, bytes]:
    """The next answer's kind and content; empty where the child has ended."""
    head = pipe.read(_LENGTH.size + 1)
    if len(head) <= _LENGTH.size:
        return b"", b""
    (length,) = _LENGTH.unpack(head[: _LENGTH.size])
    content = pipe.read(length)
    return (head[_LENGTH.size :], content) if len(content) == length else (b"", b"")


def serve() -> None:
    """Runs in the child process: answers requests until the parent ends or sends none for `IDLE` seconds."""
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    pa.set_cpu_count(1)
    limited = False
    while select.select([requests], [], [], IDLE)[0] and (head := requests.read(_LENGTH.size)):
        request = pickle.loads(requests.read(*_LENGTH.unpack(head)))  # noqa: S301 - our parent's
        memory, frame, rows, of_format, file, wanted, piece = request
        if not limited:
            limited = True
            _limit(memory)
        try:
            for batch in _divided(of_format, file, wanted, piece, rows, frame):
                sink = pa.BufferOutputStream()
                with pa.ipc.new_stream(sink, batch.schema) as stream:
                    stream.write_batch(batch)
                _send(answers, _BATCH, sink.getvalue())
            _send(answers, _END, b"")
        except SourceError as error:
            _send(answers, _ERROR, str(error).encode())
        except MemoryError:
            _send(
                answers, _ERROR, f"{_too_large(file.path, memory)}: a page, a record batch or a row is larger".encode()
            )


def _too_large(path: str, memory: int) -> str:
    return f"{path} cannot be read with {memory >> 20} MiB of memory"


def _limit(memory: int) -> None:
    """Limits the memory of this process, which has loaded its libraries; only Linux has such a limit."""
    status = Path("/proc/self/statm")
    if not status.exists():
        return
    pages = int(status.read_text().split()[5])
    data = pages * resource.getpagesize() + memory
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (data if hard == resource.RLIM_INFINITY else min(data, hard), hard))


def _divided(
    of_format: LimitedFormat, file: ListFile, wanted: Sequence[str] | None, piece: Piece, rows: int, frame: int
) -> Iterator[pa.RecordBatch]:
    """Yields the batches of a piece; after a lack of memory, the rows that are left in smaller batches."""
    sizes = [rows, *(size for size in (512, 16, 1) if size < rows)]
    given = 0
    for size in sizes:
        passed = 0
        try:
            for batch in of_format.batches(file, wanted, piece, size):
                left = batch.slice(max(0, given - passed))
                passed += batch.num_rows
                if left.num_rows:
                    for part in _parts(left, frame):
                        yield part
                        given += part.num_rows
        except MemoryError:
            if size == sizes[-1]:
                raise
        else:
            return


def _parts(batch: pa.RecordBatch, frame: int) -> Iterator[pa.RecordBatch]:
    """Divides a batch until its parts are small, and decodes dictionaries."""
    if batch.num_rows > 1 and sum(map(_bytes, batch.columns)) > frame:
        half = batch.num_rows // 2
        yield from _parts(batch.slice(0, half), frame)
        yield from _parts(batch.slice(half), frame)
        return
    columns = [
        column.dictionary_decode() if pa.types.is_dictionary(column.type) else column for column in batch.columns
    ]
    yield pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _bytes(column: pa.Array) -> int:
    """The bytes of a column, without a dictionary."""
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    types, kind = pa.types, column.dictionary.type
    if types.is_string(kind) or types.is_binary(kind) or types.is_large_string(kind) or types.is_large_binary(kind):
        lengths = pc.binary_length(column.dictionary).take(column.indices)
        return int(pc.sum(lengths, min_count=0).as_py())
    return int(column.dictionary.nbytes / max(1, len(column.dictionary)) * len(column))
