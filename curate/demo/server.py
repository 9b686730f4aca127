"""Serves the demo's web on loopback addresses, from a process of its own.

    with serve(corpus):                       # within a run
        ...

    python -m curate.demo.server --seed 0 --pairs 2000 --port 8123      # by hand, until Ctrl-C

Connections are kept open and need no thread each; one thread draws the pictures.
"""

import argparse
import asyncio
import contextlib
import errno
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path

from curate.demo.answers import Answer, answer
from curate.demo.corpus import DEFAULT_PORT, SERVED_HOSTS, Corpus
from curate.errors import CurateError, UsageError

_READY = "ready"
_USAGE = 2
_BLOCK = random.Random(0).randbytes(1 << 16)
_TRICKLE_SECONDS = 0.5
_WATCH_SECONDS = 0.5
_STOP_SECONDS = 5.0
_GONE = (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)


@contextlib.contextmanager
def serve(corpus: Corpus) -> Iterator[int]:
    """Serves the corpus from a subprocess for the time of the block; yields its process id.

    The process ends with the block, and by itself if this process is killed.

    Raises:
        UsageError: the port is taken, or the loopback addresses are missing; the text names what to change.
        CurateError: the process ended for another reason, which it has printed.
    """
    command = [sys.executable, "-m", "curate.demo.server", "--parent", str(os.getpid())]
    command += ["--seed", str(corpus.seed), "--pairs", str(corpus.pairs), "--port", str(corpus.port)]
    package_root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (package_root, os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        # The server ignores Ctrl-C: the run handles it, and may still need the server until it has stopped.
        start_new_session=True,
    )
    with process:
        try:
            _wait_until_ready(process)
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def main(arguments: list[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit status (2: the addresses cannot be used)."""
    about = __doc__.partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m curate.demo.server", description=about)
    parser.add_argument("--seed", type=int, default=0, help="seed of the generated web (default 0)")
    parser.add_argument("--pairs", type=int, default=2000, help="rows of the list (default 2000)")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help=f"default {DEFAULT_PORT}")
    parser.add_argument("--parent", type=int, help="end when this process is no longer the parent")
    args = parser.parse_args(arguments)
    try:
        corpus = Corpus(args.seed, args.pairs, args.port)
        listeners = _listen(corpus.port)
        asyncio.run(_serve(corpus, listeners, args.parent))
    except UsageError as error:
        # The parent reads the first line to learn whether the server has started.
        print(error, file=sys.stderr if args.parent is None else sys.stdout)
        return _USAGE
    return 0


def _wait_until_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if line == _READY:
        return
    if process.wait() == _USAGE:
        raise UsageError(line)
    raise CurateError(f"the demo's server did not start: exit status {process.returncode}; its output is above")


def _listen(port: int) -> list[socket.socket]:
    listeners = []
    try:
        for host in SERVED_HOSTS:
            listeners.append(socket.create_server((host, port), backlog=1024))
    except OSError as error:
        for listener in listeners:
            listener.close()
        raise UsageError(_advice(host, port, error)) from error
    return listeners


def _advice(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use: end the program that uses it (another demo?), or choose another port"
    if error.errno == errno.EADDRNOTAVAIL:
        return (
            f"the demo needs the loopback addresses {SERVED_HOSTS[0]} to {SERVED_HOSTS[-1]}, and {host} is not "
            f"set up: on macOS, run `sudo ifconfig lo0 alias {host}`, and likewise for each"
        )
    return f"cannot listen on {host}, port {port} ({error.strerror}): choose another port"


async def _serve(corpus: Corpus, listeners: list[socket.socket], parent: int | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # One thread, as drawing holds the interpreter's lock most of the time. A second thread drew a tenth more pictures a
    # second and took a third more CPU time, which the run on the same machine needs.
    with ThreadPoolExecutor(1) as painters:
        site = _Site(corpus, painters)
        servers = [await asyncio.start_server(site.talk, sock=listener) for listener in listeners]
        print(_READY, flush=True)
        watch = asyncio.create_task(_watch(parent, stop))
        await stop.wait()
        watch.cancel()
        for server in servers:
            server.close()
        site.hang_up()
        painters.shutdown(cancel_futures=True)


async def _watch(parent: int | None, stop: asyncio.Event) -> None:
    """Stops the server once its parent has ended; a parent that is killed cannot stop it."""
    while parent is not None and os.getppid() == parent:
        await asyncio.sleep(_WATCH_SECONDS)
    if parent is not None:
        stop.set()


class _Site:
    """Answers the requests of every connection."""

    def __init__(self, corpus: Corpus, painters: ThreadPoolExecutor) -> None:
        self._corpus = corpus
        self._painters = painters
        self._talks: set[asyncio.Task[None]] = set()

    def hang_up(self) -> None:
        for talk in self._talks:
            talk.cancel()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._talks.add(task)
        try:
            while await self._exchange(reader, writer):
                pass
        except _GONE:
            # The client has closed the connection: after its last request, or during an endless body.
            pass
        except asyncio.CancelledError:
            # Cancelled by `hang_up`. Not raised again, as asyncio 3.11 prints a traceback of a task that is cancelled.
            pass
        finally:
            self._talks.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answers one request; returns whether the connection stays open for another."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        request, *headers = head.lower().split("\r\n")
        method, _, path = head.partition("\r\n")[0].partition(" ")
        path = path.rpartition(" ")[0].partition("?")[0]
        if method not in ("GET", "HEAD"):
            writer.write(_head(Answer(405, "text/plain", b"", (("Allow", "GET, HEAD"),)), stays=False))
            await writer.drain()
            return False
        loop = asyncio.get_running_loop()
        response = await loop.run_in_executor(self._painters, answer, self._corpus, path)
        stays = request.endswith("http/1.1") and "connection: close" not in headers
        stays = stays and response.manner != "endless"
        if response.manner == "silent":
            await _until_gone(reader)
            return False
        writer.write(_head(response, stays=stays))
        if method == "HEAD":
            await writer.drain()
            return stays
        if response.manner == "trickle":
            await _trickle(response.body, writer)
        else:
            writer.write(response.body)
        await writer.drain()
        while response.manner == "endless":
            writer.write(_BLOCK)
            await writer.drain()
        return stays


async def _until_gone(reader: asyncio.StreamReader) -> None:
    while await reader.read(1024):
        pass


async def _trickle(body: bytes, writer: asyncio.StreamWriter) -> None:
    for at in range(len(body)):
        writer.write(body[at : at + 1])
        await writer.drain()
        await asyncio.sleep(_TRICKLE_SECONDS)


def _head(response: Answer, *, stays: bool) -> bytes:
    phrase = HTTPStatus(response.status).phrase
    lines = [f"HTTP/1.1 {response.status} {phrase}", f"Content-Type: {response.content_type}"]
    if response.manner != "endless":
        lines.append(f"Content-Length: {len(response.body)}")
    lines += [f"{name}: {value}" for name, value in response.headers]
    lines += [f"Connection: {'keep-alive' if stays else 'close'}", "", ""]
    return "\r\n".join(lines).encode("latin-1")


if __name__ == "__main__":
    sys.exit(main())
