"""Reads a part's tables, captions and tar in a thread, ahead of the worker."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Generic, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from curate.errors import BrokenResult
from curate.store import Inputs
from curate.stored_images import COLUMNS, read_all

_CHUNK = 8 << 20
_CHUNKS = 16
"""Bytes of a chunk of members, and chunks that are read ahead: 128 MB of a part."""

_Members = list[tuple[int, bytes]]
T = TypeVar("T")


class Reading(Generic[T]):
    """The reading of one part. Images are read as stored bytes; nothing is decoded here.

    Args:
        part: number of the part.
        inputs: the folders `plan` and `fetch`.
        reader: an executor with one thread, which does the reading.
        tokenize: tokenizes the part's captions, in the reader's thread.
    """

    def __init__(self, part: int, inputs: Inputs, reader: Executor, tokenize: Callable[[pa.ChunkedArray], T]) -> None:
        self.part = part
        self._inputs = inputs
        self._reader = reader
        self._tokenize = tokenize
        self._lock = threading.Lock()
        self._is_closed = False
        self._tables: Future[tuple[pa.Table, pa.Table, T]] | None = None
        self._members: Iterator[tuple[int, bytes]] = iter(())
        self._chunks: deque[Future[_Members]] = deque()
        self._following: Reading[T] | None = None

    def begin(self, following: "Reading[T] | None" = None) -> None:
        """Begins to read, unless that was done before.

        Args:
            following: the reading that begins once this one has reached its end.
        """
        with self._lock:
            self._following = following
            if self._tables or self._is_closed:
                return
            self._tables = self._reader.submit(self._read_tables)
            self._chunks.extend(self._reader.submit(self._read_chunk) for _ in range(_CHUNKS))

    def tables(self) -> tuple[pa.Table, pa.Table, T]:
        """Returns the part's images, its pairs without the repeated ones, and these pairs' captions, tokenized.

        Raises:
            BrokenResult: images and pairs do not match.
        """
        assert self._tables, "begin comes first"
        return self._tables.result()

    def members(self) -> Iterator[tuple[int, bytes]]:
        """Yields row and bytes of every fetched image, as `read_all` does."""
        while chunk := self._chunks.popleft().result():
            self._chunks.append(self._reader.submit(self._read_chunk))
            yield from chunk

    def close(self) -> None:
        """Discards the bytes that were read, and stops reading."""
        with self._lock:
            self._is_closed = True
            self._following = None
        for chunk in self._chunks:
            chunk.cancel()
        self._chunks.clear()
        # In the reader's thread, which may be using the iterator.
        self._reader.submit(self._stop)

    def _read_tables(self) -> tuple[pa.Table, pa.Table, T]:
        fetch = self._inputs["fetch"]
        images = fetch.table("images.parquet", self.part, ["image_id", *COLUMNS])
        columns = ["pair_id", "image_id", "caption", "repeated"]
        plan = self._inputs["plan"].table("pairs.parquet", self.part, columns)
        if not images["image_id"].equals(pa.chunked_array([plan["image_id"].unique()])):
            raise BrokenResult(f"{fetch.path}: the images of part {self.part} are not those of its plan")
        self._members = read_all(fetch, self.part, images)
        pairs = plan.filter(pc.invert(plan["repeated"]))
        return images, pairs, self._tokenize(pairs["caption"])

    def _read_chunk(self) -> _Members:
        """Returns the next chunk of members; empty at the end."""
        chunk: _Members = []
        size = 0
        for member in self._members:
            chunk.append(member)
            size += len(member[1])
            if size >= _CHUNK:
                return chunk
        with self._lock:
            following, self._following = self._following, None
        if following:
            following.begin()
        return chunk

    def _stop(self) -> None:
        self._members = iter(())
