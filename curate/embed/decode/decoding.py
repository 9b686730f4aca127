"""Decodes and prepares a part's images ahead of the models, in processes that can be ended."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice

from curate.decoding.pool import Decoders, Lost
from curate.embed.decode import decode_job, prepare_job
from curate.embed.decode.prepare import Prepare, Prepared

_TOGETHER = 8
"""Images per task of a thread: many enough that the overhead of a task is small."""

Rows = list[tuple[int, Prepared | None]]
Decode = Callable[[Sequence[bytes]], Iterator[Prepared | None]]


class Decoding:
    """A pool of threads, each with a process that decodes for it; they live until `close`.

    An image that its process cannot end with (`decoding/limits.py`) is like one that cannot be decoded.

    Args:
        workers: number of threads and processes.
        in_processes: the processes resize and measure as well, which the threads do otherwise. Such processes import
            torch and take seconds to start; `prepare_job.py` says when that is faster.
        in_turns: the next images are begun only once all images before them have been taken, so the threads are idle
            while the caller computes. For a caller that computes on the same cores; run at the same time, both would
            wait for each other.
    """

    def __init__(self, workers: int, *, in_processes: bool = False, in_turns: bool = False) -> None:
        self._in_processes = in_processes
        self._in_turns = in_turns
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._decoders = Decoders(prepare_job.NAME if in_processes else decode_job.NAME, workers)
        if in_processes:
            # So that they are ready when the model is loaded.
            self._decoders.start()

    def prepared(
        self, prepare: Prepare, members: Iterator[tuple[int, bytes]], ahead: int
    ) -> Iterator[tuple[int, Prepared | None]]:
        """Prepares a part's images. Without `in_turns`, the first ones are begun at once.

        Args:
            prepare: decodes and prepares one image.
            members: row and bytes of each image.
            ahead: the most images that are prepared before the caller takes them.

        Yields:
            The row and the image, None where it cannot be decoded, in the order of the members.

        Raises:
            DecodingFault: a process could not be started, or a scorer of another package raised an exception there.
        """
        decode = self._by_process(prepare) if self._in_processes else self._by_thread(prepare)
        window: deque[Future[Rows]] = deque()

        def together(chunk: list[tuple[int, bytes]]) -> Rows:
            rows, images = zip(*chunk, strict=True)
            return list(zip(rows, decode(images), strict=True))

        def fill() -> None:
            while len(window) * _TOGETHER < ahead and (chunk := list(islice(members, _TOGETHER))):
                window.append(self._threads.submit(together, chunk))

        def results() -> Iterator[tuple[int, Prepared | None]]:
            try:
                while True:
                    if not window:
                        fill()
                    if not window:
                        return
                    chunk = window.popleft().result()
                    if not self._in_turns:
                        fill()
                    yield from chunk
            finally:
                for future in window:
                    future.cancel()

        if not self._in_turns:
            fill()
        return results()

    def close(self) -> None:
        """Ends threads and processes."""
        self._threads.shutdown(cancel_futures=True)
        self._decoders.close()

    def _by_process(self, prepare: Prepare) -> Decode:
        parameters = prepare_job.parameters(prepare)

        def decode(images: Sequence[bytes]) -> Iterator[Prepared | None]:
            with closing(self._decoders.each(parameters, images, prepare_job.read)) as results:
                for image in results:
                    yield None if isinstance(image, Lost) else image

        return decode

    def _by_thread(self, prepare: Prepare) -> Decode:
        parameters = decode_job.parameters(prepare.shorter_sides)

        def decode(images: Sequence[bytes]) -> Iterator[Prepared | None]:
            with closing(self._decoders.each(parameters, images, decode_job.read)) as results:
                for pictures in results:
                    yield None if pictures is None or isinstance(pictures, Lost) else prepare.of(pictures)

        return decode
