"""Images of a part, decoded ahead of whoever takes them: in threads, or in processes behind threads."""

import contextlib
import pickle
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from curate.embed.decode.prepare import Prepare, Prepared
from curate.embed.decode.process import Decoder

_TOGETHER = 8
"""Images that are handed over at a time: what is done once for all of them is little beside them."""

Rows = list[tuple[int, Prepared | None]]


class Decoding:
    """Decodes, in as many threads as it is told. They live as long as the worker does.

    Args:
        workers: how many.
        in_processes: behind each thread stands a process that does the work (`decoder.py` says when that pays).
        in_turns: the next images are begun only when all of those before have been taken, so that the threads rest
            while whoever takes them works. Where both want the same cores, they would wait for each other.
    """

    def __init__(self, workers: int, *, in_processes: bool = False, in_turns: bool = False) -> None:
        self._in_processes = in_processes
        self._in_turns = in_turns
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        # Started now, so that they are there once the model is.
        self._idle = deque(Decoder() for _ in range(workers if in_processes else 0))

    def prepared(
        self, prepare: Prepare, members: Iterator[tuple[int, bytes]], ahead: int
    ) -> Iterator[tuple[int, Prepared | None]]:
        """Prepares a part's images. The first ones are begun at once, unless it is in turns.

        Args:
            prepare: what is done to them.
            members: rows and bytes.
            ahead: how many images at most are prepared before they are asked for.

        Yields:
            The row and the image, None where it cannot be decoded, in the order of the members.

        Raises:
            RuntimeError: a process died.
        """
        pickled = pickle.dumps(prepare) if self._in_processes else b""
        window: deque[Future[Rows]] = deque()

        def together(chunk: list[tuple[int, bytes]]) -> Rows:
            rows, images = zip(*chunk, strict=True)
            found = self._by_process(pickled, images) if pickled else [prepare(image) for image in images]
            return list(zip(rows, found, strict=True))

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
                    found = window.popleft().result()
                    if not self._in_turns:
                        fill()
                    yield from found
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
            # Some died, and none stands for this thread.
            decoder = Decoder()
        with contextlib.ExitStack() as failing:
            # Whatever goes wrong, what comes out of its socket next belongs to these images.
            failing.callback(decoder.close)
            found = decoder(prepare, images)
            failing.pop_all()
        self._idle.append(decoder)
        return found
