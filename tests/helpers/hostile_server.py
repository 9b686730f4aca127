"""A web server that speaks raw sockets, for answers that no honest server gives.

with HostileServer() as server:
    server.answers["/cat.jpg"] = ok(jpeg)
    server.url("/cat.jpg"), server.address, server.asked
"""

import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

Answer = Callable[[socket.socket, threading.Event], None]
"""Says something on a connection whose request was read; the event is set when the server ends."""

TLS = Path(__file__).parent / "tls"


class HostileServer:
    def __init__(self, host: str = "127.0.0.1", certificate: str | None = None) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family, backlog=128)
        port = self._listener.getsockname()[1]
        self.port = port
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.answers: dict[str, Answer] = {}
        self.connections = 0
        self.asked: list[bytes] = []
        self._tls: ssl.SSLContext | None = None
        if certificate:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(TLS / certificate, TLS / "key.pem")
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def url(self, path: str, host: str | None = None) -> str:
        scheme = "https" if self._tls else "http"
        return f"{scheme}://{f'{host}:{self.port}' if host else self.address}{path}"

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(5)
            try:
                if self._tls:
                    connection = self._tls.wrap_socket(connection, server_side=True)
                head = b""
                while b"\r\n\r\n" not in head:
                    block = connection.recv(65536)
                    if not block:
                        return
                    head += block
                self.asked.append(head)
                path = head.split(b" ", 2)[1].decode().partition("?")[0]
                self.answers.get(path, status(404))(connection, self._over)
                # Closing with unread or unsent bytes would be a reset.
                connection.shutdown(socket.SHUT_WR)
                connection.recv(1)
            except OSError:
                pass
            finally:
                connection.close()


def raw(*pieces: bytes, pause: float = 0.0) -> Answer:
    def answer(connection: socket.socket, over: threading.Event) -> None:
        for piece in pieces:
            connection.sendall(piece)
            if pause and over.wait(pause):
                return

    return answer


def head(code: int = 200, *lines: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {code} Whatever", *lines, "", ""]).encode("latin-1")


def ok(body: bytes, *lines: str) -> Answer:
    return raw(head(200, f"Content-Length: {len(body)}", *lines) + body)


def status(code: int, *lines: str, body: bytes = b"") -> Answer:
    return raw(head(code, f"Content-Length: {len(body)}", *lines) + body)


def redirect(location: str, code: int = 302) -> Answer:
    return status(code, f"Location: {location}")


def never(connection: socket.socket, over: threading.Event) -> None:
    over.wait(30)


def trickle(start: bytes, drop: bytes, seconds: float = 0.02) -> Answer:
    """`start`, then one `drop` after the other without end."""

    def answer(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(start)
        end = time.monotonic() + 20
        while time.monotonic() < end and not over.wait(seconds):
            connection.sendall(drop)

    return answer


def endless(start: bytes) -> Answer:
    return trickle(start, b"x" * 65536, seconds=0.0)


def reset(start: bytes) -> Answer:
    def answer(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(start)
        time.sleep(0.05)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()

    return answer
