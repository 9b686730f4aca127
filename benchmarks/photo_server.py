"""Serves a folder of photographs from memory on loopback addresses, some of which are slow.

    python benchmarks/photo_server.py FOLDER --port 8200 --hosts 10 --slow-hosts 1 --slow-seconds 1

`/<file>?<anything>` returns a file, `/never/<anything>` never answers. The server prints `ready` once it has started,
and ends when its standard input is closed.
"""

import argparse
import asyncio
import functools
import sys
from pathlib import Path


def addresses(hosts: int) -> list[str]:
    """Returns the loopback addresses of a number of hosts; the slow ones come first."""
    return [f"127.0.1.{number + 1}" for number in range(hosts)]


class _Connection(asyncio.Protocol):
    def __init__(self, answers: dict[bytes, bytes], seconds: float) -> None:
        self._answers = answers
        self._seconds = seconds
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._head += data
        if b"\r\n\r\n" not in self._head:
            return
        path = self._head.split(b" ", 2)[1].partition(b"?")[0]
        if not path.startswith(b"/never/"):
            answer = self._answers.get(path, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            asyncio.get_running_loop().call_later(self._seconds, self._answer, answer)

    def _answer(self, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(answer)
            self._transport.close()


async def _serve(arguments: argparse.Namespace) -> None:
    answers = {}
    for path in sorted(arguments.folder.iterdir()):
        body = path.read_bytes()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n"
        answers[f"/{path.name}".encode()] = head.encode() + b"Connection: close\r\n\r\n" + body
    loop = asyncio.get_running_loop()
    for number, address in enumerate(addresses(arguments.hosts)):
        seconds = arguments.slow_seconds if number < arguments.slow_hosts else 0.0
        connection = functools.partial(_Connection, answers, seconds)
        await loop.create_server(connection, address, arguments.port, backlog=4096)
    print("ready", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=8200)
    parser.add_argument("--hosts", type=int, default=10)
    parser.add_argument("--slow-hosts", type=int, default=0)
    parser.add_argument("--slow-seconds", type=float, default=1.0)
    asyncio.run(_serve(parser.parse_args()))
