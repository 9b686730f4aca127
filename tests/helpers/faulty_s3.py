"""A proxy before a real S3 server that fails on request: errors, resets, answers that break off, silence."""

import http.client
import random
import socket
import struct
import threading
from collections import Counter, deque
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

RANDOM = ("500", "503", "reset_before", "reset_after", "truncate", "stall")

_ERROR = "<?xml version='1.0'?><Error><Code>{}</Code><Message>on purpose</Message></Error>"
_CODES = {"500": "InternalError", "503": "SlowDown", "403": "InvalidAccessKeyId", "507": "InsufficientStorage"}


class FaultyS3:
    """The proxy's state; tests set it between calls.

    Attributes:
        url: the endpoint for clients.
        faults: what becomes of the next requests, in order: an HTTP status, `reset_before` (it has no effect),
            `reset_after` (its answer is lost), `truncate`, `stall`, or None for a request that works.
        rate: the share of requests that fail once `faults` is empty, each with one of RANDOM by chance.
        always: the fault of every request once `faults` is empty; None: they work.
        methods: only requests of these methods can fail.
        only: only requests whose path contains this can fail.
        stalls: how many further requests may `stall` by chance; None: any number.
        seen: how often each fault was injected.
        requests: (method, path) of every request that arrived.
        conditional: obey If-None-Match, which rclone ignores.
    """

    def __init__(self, url, upstream):
        self.url = url
        self.upstream = urlsplit(upstream)
        self.faults = deque()
        self.always = None
        self.rate = 0.0
        self.stalls = None
        self.chance = random.Random(0)
        self.methods = ("GET", "HEAD", "PUT", "POST", "DELETE")
        self.only = ""
        self.seen = Counter()
        self.requests = []
        self.conditional = False
        self.lock = threading.Lock()
        self.creating = threading.Lock()
        self.written = set()
        self.released = threading.Event()

    def next_fault(self, method, path):
        with self.lock:
            self.requests.append((method, path))
            if method not in self.methods or self.only not in path:
                return None
            fault = self.faults.popleft() if self.faults else self.always
            if not fault and self.chance.random() < self.rate:
                fault = self.chance.choice([name for name in RANDOM if name != "stall" or self.stalls != 0])
                if fault == "stall" and self.stalls is not None:
                    self.stalls -= 1
            self.seen[fault] += 1
            return fault


@contextmanager
def faulty(upstream):
    """Runs a FaultyS3 before the server at `upstream`, on a free port of 127.0.0.1."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_arguments):
            pass

        def _serve(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = proxy.next_fault(self.command, self.path)
            if fault == "stall":
                proxy.released.wait(60)
                self.close_connection = True
            elif fault == "reset_before":
                self._reset()
            elif fault and fault.isdigit():
                self._answer(int(fault), {}, _ERROR.format(_CODES[fault]).encode())
            elif proxy.conditional and self.headers.get("If-None-Match") == "*":
                # One at a time: a creation that is still running would be answered with a conflict.
                with proxy.creating:
                    self._create(body, fault)
            else:
                self._forward(body, fault)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815 - http.server's names

        def _create(self, body, fault):
            if urlsplit(self.path).path in proxy.written:
                self._answer(412, {}, _ERROR.format("PreconditionFailed").encode())
            else:
                self._forward(body, fault)

        def _forward(self, body, fault):
            connection = http.client.HTTPConnection(proxy.upstream.hostname, proxy.upstream.port, timeout=30)
            # The signature covers the Host header, so it stays the proxy's.
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            name = urlsplit(self.path).path
            if answer.status < 300 and self.command == "PUT":
                proxy.written.add(name)
            elif answer.status < 300 and self.command == "DELETE":
                proxy.written.discard(name)
            if fault == "reset_after":
                self._reset()
            else:
                self._answer(answer.status, dict(answer.headers), content, breaks=fault == "truncate")

        def _answer(self, status, headers, content, *, breaks=False):
            self.send_response_only(status)
            size = headers.get("Content-Length", str(len(content))) if self.command == "HEAD" else str(len(content))
            dropped = ("content-length", "transfer-encoding", "connection")
            for name, value in headers.items():
                if name.lower() not in dropped:
                    self.send_header(name, value)
            self.send_header("Content-Length", size)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content[: len(content) // 2] if breaks else content)
            if breaks:
                self.wfile.flush()
                self._reset()

        def _reset(self):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.shutdown(socket.SHUT_RD)
            self.close_connection = True

        def finish(self):
            with suppress(OSError):
                super().finish()

    class Server(ThreadingHTTPServer):
        def handle_error(self, request, client_address):
            """Prints nothing: connections that break are the point."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy = FaultyS3(f"http://127.0.0.1:{server.server_port}", upstream)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
