"""Retries, Retry-After, robots.txt, speed, memory and the watchdog, through the guard and real sockets."""

import hashlib
import socket
import threading
import time

import pytest
from helpers.fetch_samples import settings
from helpers.hostile_server import HostileServer, head, never, ok, raw, reset, status, trickle

from curate.fetch.contract import FetchError
from curate.fetch.http import connection as wire_module
from curate.fetch.http.client import Guard
from curate.fetch.http.part_deadline import Watchdog
from curate.fetch.http.resolver import Resolver
from curate.fetch.pictures.blocklist import Blocklist

BODY = b"\xff\xd8\xff" + b"pixels" * 100


@pytest.fixture
def server():
    with HostileServer() as running:
        yield running


def guard(server, **changes):
    blocklist = changes.pop("blocklist", None)
    return Guard(settings(**{"allow": [server.address], "timeout": 20.0, **changes}), Resolver(), blocklist=blocklist)


def failure(the_guard, url):
    with pytest.raises(FetchError) as error:
        the_guard.get(url)
    return error.value


def in_turn(*answers):
    """Answers one after the other; the last one stays."""
    left = list(answers)

    def answer(connection, over):
        (left.pop(0) if len(left) > 1 else left[0])(connection, over)

    return answer


@pytest.mark.parametrize(
    "first",
    [status(500), status(503), status(429, "Retry-After: 1"), reset(head(200, "Content-Length: 5000")), raw(b"")],
    ids=["500", "503", "429", "reset", "hangs up"],
)
def test_what_can_heal_is_tried_again(server, first):
    server.answers["/x"] = in_turn(first, ok(BODY))
    received = guard(server, retries=1).get(server.url("/x"))
    assert (received.body, received.http_status) == (BODY, 200)
    assert server.connections == 2


@pytest.mark.parametrize(("code", "connections"), [(404, 1), (403, 1), (501, 1), (500, 3)])
def test_how_often(server, code, connections):
    server.answers["/x"] = status(code)
    error = failure(guard(server, retries=2), server.url("/x"))
    assert (error.http_status, server.connections) == (code, connections)


def test_a_retry_after_beyond_the_deadline_is_not_waited_for(server):
    server.answers["/x"] = status(429, "Retry-After: 60")
    started = time.monotonic()
    the_guard = guard(server, retries=5)
    error = failure(the_guard, server.url("/x"))
    assert (error.error_class, error.http_status, server.connections) == ("http_4xx", 429, 1)
    assert failure(the_guard, server.url("/y")).error_class == "host_busy"
    assert time.monotonic() - started < 10
    assert server.connections == 1


def test_retries_end_with_the_deadline(server):
    server.answers["/x"] = status(500)
    assert failure(guard(server, retries=1000, timeout=1.5), server.url("/x")).error_class == "http_5xx"
    assert server.connections <= 4


def test_a_host_is_left_alone_for_the_part_and_asked_again_in_the_next(server):
    server.answers["/x"] = status(403)
    server.answers["/ok"] = ok(BODY)
    the_guard = guard(server, host_failures=3)
    with the_guard.part():
        assert [failure(the_guard, server.url("/x")).error_class for _ in range(3)] == ["http_4xx"] * 3
        error = failure(the_guard, server.url("/ok"))
        assert (error.error_class, error.host) == ("host_busy", "127.0.0.1")
        assert server.connections == 3
    with the_guard.part():
        assert the_guard.get(server.url("/ok")).body == BODY


def test_limits_are_shared_by_the_workers(server):
    """Four connections for two workers: this one has two."""
    now, most, lock = [0], [0], threading.Lock()

    def answer(connection, over):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        over.wait(0.05)
        with lock:
            now[0] -= 1
        ok(BODY)(connection, over)

    server.answers["/x"] = answer
    the_guard = guard(server, host_connections=4, processes=2)
    threads = [threading.Thread(target=the_guard.get, args=(server.url("/x"),)) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 2


def test_no_slot_in_time_is_host_busy(server):
    server.answers["/never"] = never
    the_guard = guard(server, host_connections=1, timeout=1.0)
    errors = []
    threads = [
        threading.Thread(target=lambda: errors.append(failure(the_guard, server.url("/never")).error_class))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(errors) == {"timeout", "host_busy"}


def test_robots_are_obeyed_on_every_hop(server):
    with HostileServer() as other:
        server.answers["/robots.txt"] = ok(b"User-agent: *\nDisallow: /no")
        other.answers["/robots.txt"] = ok(b"User-agent: curate\nDisallow: /*.jpg$")
        server.answers["/yes"] = server.answers["/no"] = ok(BODY)
        server.answers["/there"] = status(302, f"Location: {other.url('/x.jpg')}")
        obeying = guard(server, robots=True, allow=[server.address, other.address])
        assert obeying.get(server.url("/yes")).body == BODY
        for path in ("/no/x", "/there"):
            error = failure(obeying, server.url(path))
            assert (error.error_class, str(error)) == ("opt_out", "robots.txt disallows it")
        assert [asked.split()[1] for asked in other.asked] == [b"/robots.txt"]
        assert [asked.split()[1] for asked in server.asked].count(b"/robots.txt") == 1
        assert guard(server).get(server.url("/no")).body == BODY


def test_a_tdmrep_json_is_requested_once_and_obeyed(server):
    server.answers["/.well-known/tdmrep.json"] = ok(b'[{"location": "/no", "tdm-reservation": 1}]')
    server.answers["/yes"] = server.answers["/no"] = ok(BODY)
    obeying = guard(server, tdmrep=True, robots=True)
    assert obeying.get(server.url("/yes")).body == BODY
    error = failure(obeying, server.url("/no/x"))
    assert (error.error_class, str(error)) == ("opt_out", "tdmrep.json: tdm-reservation: 1")
    asked = [asked.split()[1] for asked in server.asked]
    assert asked == [b"/robots.txt", b"/.well-known/tdmrep.json", b"/yes"]
    assert guard(server).get(server.url("/no")).body == BODY


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (status(404), None),
        (status(403), None),
        (status(503), "http_5xx"),
        (status(429), "http_4xx"),
        (status(302, "Location: http://169.254.169.254/"), "blocked_address"),
        (ok(b"x", "Content-Encoding: gzip"), "encoding"),
        (ok(b"User-agent: *\nDisallow: /\n" + b"#" * 2_000_000), "opt_out"),
        (trickle(head(200), b"x"), "timeout"),
    ],
    ids=["none", "forbidden", "503", "429", "inside", "gzip", "huge", "trickled"],
)
def test_a_robots_txt_that_is_odd(server, answer, expected):
    server.answers["/robots.txt"] = answer
    server.answers["/x"] = ok(BODY)
    the_guard = guard(server, robots=True, timeout=1.0 if expected == "timeout" else 20.0)
    if expected is None:
        assert the_guard.get(server.url("/x")).body == BODY
    else:
        assert failure(the_guard, server.url("/x")).error_class == expected


@pytest.mark.parametrize(
    "start", [head(200, "Content-Length: 100000"), b"HTTP/1.1 200 OK\r\nX: "], ids=["body", "head"]
)
def test_a_slow_answer_is_given_up_before_its_deadline(server, monkeypatch, start):
    monkeypatch.setattr(wire_module, "SPEED_WINDOW", 0.3)
    server.answers["/slow"] = trickle(start, b"x" * 10)
    server.answers["/stalls"] = raw(head(200, "Content-Length: 100000") + BODY, b"", pause=30)
    for path in ("/slow", "/stalls"):
        error = failure(guard(server, min_speed=2000, timeout=600), server.url(path))
        assert (error.error_class, str(error)) == ("timeout", "fewer than 2000 bytes per second")
    # Thinking before the answer is not slowness.
    server.answers["/thinks"] = raw(b"", head(200, f"Content-Length: {len(BODY)}") + BODY, pause=0.7)
    assert guard(server, min_speed=2000).get(server.url("/thinks")).body == BODY


def test_a_server_that_keeps_a_request_waiting_holds_no_turn(server, monkeypatch):
    monkeypatch.setattr(wire_module, "PATIENCE", 0.05)
    server.answers["/never"] = never
    server.answers["/ok"] = ok(BODY)
    the_guard = guard(server, threads=1, timeout=3.0)
    errors = []
    threads = [
        threading.Thread(target=lambda: errors.append(failure(the_guard, server.url("/never")).error_class))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for _ in range(5):
        assert the_guard.get(server.url("/ok")).body == BODY
    assert not errors
    for thread in threads:
        thread.join()
    assert errors == ["timeout"] * 5
    assert the_guard.get(server.url("/ok")).body == BODY


def test_announced_bytes_that_never_arrive_hold_no_memory(server):
    """Fourteen bodies of `max_bytes` would fill `waiting_bytes`; none of them is sent."""
    gate = threading.Event()

    def announced(connection, over):
        connection.sendall(head(200, "Content-Length: 20000000"))
        gate.wait(60)

    server.answers["/announced"] = announced
    # The pause lets all of the heads arrive first.
    server.answers["/ok"] = raw(b"", head(200, f"Content-Length: {len(BODY)}") + BODY, pause=0.4)
    bounds = {"max_bytes": 20_000_000, "waiting_bytes": 256_000_000}
    the_guard = guard(server, min_speed=0, timeout=600.0, part_timeout=20.0, **bounds)
    with the_guard.part():
        threads = [threading.Thread(target=lambda: failure(the_guard, server.url("/announced"))) for _ in range(14)]
        for thread in threads:
            thread.start()
        while len(server.asked) < 14:
            time.sleep(0.01)
        received = the_guard.get(server.url("/ok"))
        assert the_guard._part.memory.held == len(BODY)
        received.lease.release()
        gate.set()
        for thread in threads:
            thread.join()
        assert the_guard._part.memory.held == 0


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_a_listed_body_is_refused(server, kind):
    server.answers["/bad"] = ok(BODY)
    server.answers["/good"] = ok(BODY + b".")
    listed = Blocklist(frozenset([hashlib.new(kind, BODY).digest()]))
    the_guard = guard(server, blocklist=listed)
    assert failure(the_guard, server.url("/bad")).error_class == "blocked_digest"
    assert the_guard.get(server.url("/good")).body == BODY + b"."
    assert the_guard._part.memory.held == len(BODY) + 1


@pytest.mark.parametrize(
    "path", ["/never", "/trickle", "/retries", "/slots"], ids=["never answers", "trickles", "retries", "slots"]
)
def test_a_parts_end_ends_everything_as_deadline(server, path):
    server.answers["/never"] = server.answers["/slots"] = never
    server.answers["/trickle"] = trickle(head(200, "Content-Length: 100000"), b"x")
    server.answers["/retries"] = in_turn(status(500), never)
    the_guard = guard(server, part_timeout=0.8, timeout=600.0, retries=5, host_connections=1)
    started = time.monotonic()
    with the_guard.part():
        errors = []
        threads = [
            threading.Thread(target=lambda: errors.append(failure(the_guard, server.url(path)).error_class))
            for _ in range(3 if path == "/slots" else 1)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(errors) == {"deadline"}
        connections = server.connections
        assert failure(the_guard, server.url("/ok")).error_class == "deadline"
        assert server.connections == connections
    assert time.monotonic() - started < 10


def test_the_watchdog_shuts_what_ignores_its_deadline(monkeypatch):
    class Deaf:
        def __init__(self, connection):
            self.connection = connection

        def shut(self):
            self.connection.shutdown(socket.SHUT_RDWR)

    ours, theirs = socket.socketpair()
    other, beyond = socket.socketpair()
    with ours, theirs, other, beyond:
        monkeypatch.setattr("curate.fetch.http.part_deadline.GRACE", 0.05)
        watchdog = Watchdog(0.05)
        watchdog.watch(Deaf(ours))
        forgotten = Deaf(other)
        watchdog.watch(forgotten)
        watchdog.forget(forgotten)
        ours.settimeout(30)
        assert ours.recv(1) == b""
        assert watchdog.over
        beyond.sendall(b"x")
        assert other.recv(1) == b"x"
