"""Decodes and prepares a part's images ahead of the models, in threads or in processes."""

import contextlib
import pickle
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from curate.embed.decode.prepare import Prepare, Prepared
from curate.embed.decode.process import Decoder

_TOGETHER = 8
"""Images per task of a thread or process: many enough that the overhead of a task is small."""

Rows = list[tuple[int, Prepared | None]]


class Decoding:
    """A pool of threads that decode; they live until `close`.

    Args:
        workers: number of threads.
        in_processes: each thread has a process do the work (`process.py` says when that is faster).
        in_turns: the next images are begun only once all images before them have been taken, so the threads are idle
            while the caller computes. For a caller that computes on the same cores; run at the same time, both would
            wait for each other.
    """

    def __init__(self, workers: int, *, in_processes: bool = False, in_turns: bool = False) -> None:
        self._in_processes = in_processes
        self._in_turns = in_turns
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        # Started now, so that they are ready when the model is loaded.
        self._idle = deque(Decoder() for _ in range(workers if in_processes else 0))

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
            RuntimeError: a process died.
        """
        pickled = pickle.dumps(prepare) if self._in_processes else b""
        window: deque[Future[Rows]] = deque()

        def together(chunk: list[tuple[int, bytes]]) -> Rows:
            rows, images = zip(*chunk, strict=True)
            ready = self._by_process(pickled, images) if pickled else [prepare(image) for image in images]
            return list(zip(rows, ready, strict=True))

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
        while self._idle:
            self._idle.pop().close()

    def _by_process(self, prepare: bytes, images: tuple[bytes, ...]) -> list[Prepared | None]:
        try:
            decoder = self._idle.pop()
        except IndexError:
            # Some processes have died, so fewer are left than there are threads.
            decoder = Decoder()
        with contextlib.ExitStack() as failing:
            # After any error, the next bytes from its socket may still belong to these images, so the process is ended.
            failing.callback(decoder.close)
            prepared = decoder(prepare, images)
            failing.pop_all()
        self._idle.append(decoder)
        return prepared
