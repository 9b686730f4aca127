"""A pool of decoding processes: applies a job to pictures, and survives the death of any of its processes.

    with Decoders("module:function", count=2) as decoders:
        for result in decoders.each(parameters, pictures, read): ...

A process that dies costs the picture that it was decoding, and only after one more try alone in a new process, as it
may have been killed for no fault of the picture. CPU time is the exception: it would be the same again.
"""

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

from curate.decoding import limits
from curate.decoding.child import ANSWER, FAULT, READY
from curate.decoding.messages import MalformedMessage, receive, send

WALL_SECONDS = 900.0
"""Seconds without any byte from a process, after which it is killed: for decoders that wait for what never comes. CPU
time ends all others long before."""

START_SECONDS = 900.0
"""Seconds for the start of a process and the import of its job, which can be slow on a machine under load."""

_ENDING_SECONDS = 60.0
"""Seconds from the end of a process's socket to that of the process."""

_MALFORMED = (ValueError, TypeError, LookupError)
_DEAD = (EOFError, ConnectionError, TimeoutError, *_MALFORMED)
"""What the use of a process raises once it is dead or of no use any more."""

T = TypeVar("T")


class Lost(Exception):
    """A picture that its decoding process could not end with; the text is one line that says why."""


class DecodingFault(Exception):
    """An exception in a decoding process that is not the picture's fault; the text is its traceback."""


class _Child:
    """One process, and the parent's end of its socket."""

    def __init__(self, job: str) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._socket.settimeout(START_SECONDS)
            arguments = f"{theirs.fileno()}, {os.getpid()}, {job!r}"
            code = f"from curate.decoding.child import serve; serve({arguments})"
            # A worker may find modules where a new interpreter does not look, so its sys.path is passed on. Each
            # process uses one core.
            one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
            env = {**os.environ, **one, "PYTHONPATH": os.pathsep.join(sys.path)}
            # Not multiprocessing: the workers of a local run are daemon processes, which may not have children.
            self.process = subprocess.Popen([sys.executable, "-c", code], pass_fds=[theirs.fileno()], env=env)
        self._is_ready = False
        self.owes = 0
        """Results that it has not sent yet."""

    def send(self, parameters: bytes, pictures: Sequence[bytes]) -> None:
        """Sends pictures, whose results are then received one by one.

        Raises:
            DecodingFault: the process could not be started, or could not import its job.
            EOFError, ConnectionError, TimeoutError, MalformedMessage: it is dead or of no use any more.
        """
        self.owes = len(pictures)
        if not self._is_ready:
            try:
                self._receive(READY)
            except _DEAD as error:
                # Before the first picture no picture can be at fault.
                raise DecodingFault(f"a decoding process did not start: {self.ended(error)}") from error
            self._is_ready = True
            self._socket.settimeout(WALL_SECONDS)
        send(self._socket, None, [parameters, *pictures])

    def receive(self) -> tuple[Any, list[bytearray]]:
        """Receives the next result: a JSON value and buffers. Raises as `send` does."""
        result = self._receive(ANSWER)
        self.owes -= 1
        return result

    def _receive(self, expected: str) -> tuple[Any, list[bytearray]]:
        message, buffers = receive(self._socket)
        match message:
            case [kind, value] if kind == expected:
                return value, buffers
            case [kind, str(text)] if kind == FAULT:
                raise DecodingFault(text)
            case _:
                raise MalformedMessage("a message of an unknown kind")

    def ended(self, error: Exception) -> str:
        """Kills the process, where it is still there, and returns how it ended; `error`: what its use raised."""
        if isinstance(error, EOFError | ConnectionError):
            # Its socket is closed a little before the process has ended.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=_ENDING_SECONDS)
        self.close()
        code = self.process.returncode
        if isinstance(error, TimeoutError):
            return "the decoder was stopped, as it did not answer"
        if isinstance(error, _MALFORMED):
            return "the decoder sent a malformed answer"
        if code == limits.OUT_OF_MEMORY:
            return "it takes more memory to decode than is allowed"
        if code == limits.OUT_OF_CPU:
            return "it takes more CPU time to decode than is allowed"
        if code < 0:
            return f"the decoder was ended by signal {-code} ({signal.strsignal(-code)})"
        return f"the decoder ended with exit code {code}"

    def close(self) -> None:
        """Kills the process, also in the midst of a picture: it holds no state that could be lost."""
        self._socket.close()
        self.process.kill()
        self.process.wait()


class Decoders:
    """Decoding processes with one job; each is started when it is first needed. Thread-safe.

    Args:
        job: `module:function`; see `child.py`.
        count: the most processes at once.
    """

    def __init__(self, job: str, count: int) -> None:
        self._job = job
        # The kernel ends a process with the thread that started it, so one thread starts all of them.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="decoders")
        self._alive: set[_Child] = set()
        self._lock = threading.Lock()
        # Last in, first out: a process that is idle is taken before a new one is started.
        self._free: queue.LifoQueue[_Child | None] = queue.LifoQueue()
        for _ in range(count):
            self._free.put(None)
        self._finalizer = weakref.finalize(self, _close, self._alive, self._starter)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Starts all processes now, so that they are ready when they are needed; does not wait for them."""
        idle: list[_Child | None] = []
        while True:
            try:
                idle.append(self._free.get_nowait())
            except queue.Empty:
                break
        for child in idle:
            self._free.put(child or self._started())

    def each(
        self, parameters: bytes, pictures: Sequence[bytes], read: Callable[[Any, list[bytearray]], T]
    ) -> Generator[T | Lost, None, None]:
        """Applies the job to pictures, in one process, which works on the next ones while the caller uses a result.

        Args:
            parameters: of the job.
            pictures: the bytes of each.
            read: checks and reads a result, which is untrusted; raises ValueError, TypeError or LookupError where it
                is malformed.

        Yields:
            `read`'s result for each picture in turn, or `Lost`.

        Raises:
            DecodingFault: a process could not be started, or its job raised an exception.
        """
        at, is_second_try = 0, False
        child = self._free.get()
        try:
            while at < len(pictures):
                child = child or self._started()
                sent = pictures[at : at + 1] if is_second_try else pictures[at:]
                try:
                    child.send(parameters, sent)
                    for _ in sent:
                        result = read(*child.receive())
                        yield result
                        at, is_second_try = at + 1, False
                except _DEAD as error:
                    reason, can_differ = child.ended(error), child.process.returncode != limits.OUT_OF_CPU
                    self._forget(child)
                    child = None
                    if can_differ and not is_second_try:
                        is_second_try = True
                    else:
                        yield Lost(reason)
                        at, is_second_try = at + 1, False
        finally:
            if child and child.owes:
                # The next bytes from its socket would be results that are not taken any more.
                child.close()
                self._forget(child)
                child = None
            self._free.put(child)

    def one(self, parameters: bytes, picture: bytes, read: Callable[[Any, list[bytearray]], T]) -> T:
        """Applies the job to one picture; see `each`. Raises Lost."""
        (result,) = self.each(parameters, [picture], read)
        if isinstance(result, Lost):
            raise result
        return result

    def close(self) -> None:
        """Ends all processes."""
        self._finalizer()

    def _started(self) -> _Child:
        child = self._starter.submit(_Child, self._job).result()
        with self._lock:
            self._alive.add(child)
        return child

    def _forget(self, child: _Child) -> None:
        with self._lock:
            self._alive.discard(child)


def _close(alive: set[_Child], starter: ThreadPoolExecutor) -> None:
    while alive:
        alive.pop().close()
    starter.shutdown(wait=False)
