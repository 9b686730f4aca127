"""The guard against a hostile server: each case with the error class that it must end with."""

import socket
import ssl
import time

import pytest
from helpers.guarded import LOOPBACK, failure, guard, names
from helpers.hostile_server import TLS, HostileServer, endless, head, never, ok, raw, redirect, reset, status, trickle

from curate.fetch.http import resolver as resolver_module
from curate.fetch.http.resolver import Resolver

BODY = b"\xff\xd8\xff" + b"pixels" * 100


@pytest.fixture(scope="module")
def server():
    with HostileServer() as running:
        yield running


def unused_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_a_body_arrives_whole(server):
    server.answers["/ok"] = ok(BODY)
    received = guard(server).get(server.url("/ok"))
    assert (received.body, received.http_status, received.host) == (BODY, 200, "127.0.0.1")


def test_what_is_asked(server):
    server.answers["/asked"] = ok(BODY)
    guard(server).get(server.url("/asked?a b"))
    asked = server.asked[-1].decode().split("\r\n")
    assert asked[0] == "GET /asked?a%20b HTTP/1.1"
    assert f"Host: {server.address}" in asked
    assert "User-Agent: curate-test/1 (+mailto:tests@example.org)" in asked
    assert "Accept-Encoding: identity" in asked


@pytest.mark.parametrize(
    "answer",
    [
        raw(head(200) + BODY),
        raw(b"HTTP/1.0 200 OK\r\n\r\n" + BODY),
        raw(head(200, "Transfer-Encoding: chunked") + b"%x\r\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n"),
        raw(head(200, f"Content-Length: {len(BODY)}") + BODY + b"more than was announced"),
        raw(head(100) + head(200, f"Content-Length: {len(BODY)}") + BODY),
        ok(BODY, "Content-Encoding: identity"),
        ok(BODY, "X-Robots-Tag: otherbot: noai"),
        ok(BODY, "X-Robots-Tag: all", "tdm-reservation: 0"),
        status(203, body=BODY),
    ],
    ids=["to the end", "1.0", "chunked", "longer", "continue", "identity", "other agent", "no opt-out", "203"],
)
def test_honest_enough(server, answer):
    server.answers["/honest"] = answer
    assert guard(server).get(server.url("/honest")).body == BODY


HOSTILE = {
    "never answers": (never, "timeout", None),
    "trickled head": (trickle(b"HTTP/1.1 200 OK\r\n", b"x"), "timeout", None),
    "trickled header lines": (trickle(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n", 0.1), "timeout", None),
    "trickled body": (trickle(head(200, "Content-Length: 100000"), b"x"), "timeout", 200),
    "trickled chunks": (trickle(head(200, "Transfer-Encoding: chunked"), b"1\r\nx\r\n"), "timeout", 200),
    "endless trailer": (trickle(head(200, "Transfer-Encoding: chunked") + b"0\r\n", b"A: b\r\n"), "timeout", 200),
    "endless body": (endless(head(200)), "too_large", 200),
    "endless chunk": (endless(head(200, "Transfer-Encoding: chunked") + b"fffffff\r\n"), "too_large", 200),
    "announced too large": (raw(head(200, "Content-Length: 99999999999")), "too_large", 200),
    "short body": (raw(head(200, "Content-Length: 5000") + BODY), "connection", 200),
    "broken chunking": (raw(head(200, "Transfer-Encoding: chunked") + b"zz\r\n" + BODY), "connection", 200),
    "chunks cut off": (raw(head(200, "Transfer-Encoding: chunked") + b"5000\r\n" + BODY), "connection", 200),
    "reset in mid-body": (reset(head(200, "Content-Length: 5000") + BODY), "connection", 200),
    "hangs up": (raw(), "connection", None),
    "not HTTP": (raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "connection", None),
    "long header line": (raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n"), "connection", None),
    "header flood": (raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n"), "connection", None),
    "header flood in bytes": (endless(b"HTTP/1.1 200 OK\r\nX: "), "connection", None),
    "endless 100": (trickle(b"", head(100) * 500, 0.0), "connection", None),
    "gzip": (ok(BODY, "Content-Encoding: gzip"), "encoding", 200),
    "br, hidden": (ok(BODY, "Content-Encoding: identity", "Content-Encoding: br"), "encoding", 200),
    "gzip, chunked": (ok(BODY, "Transfer-Encoding: gzip, chunked"), "encoding", 200),
    "noai": (ok(BODY, "X-Robots-Tag: noai"), "opt_out", 200),
    "noimageai": (ok(BODY, "X-Robots-Tag: all", "x-robots-tag: nofollow, NoImageAI"), "opt_out", 200),
    "noindex": (ok(BODY, "X-Robots-Tag: noindex"), "opt_out", 200),
    "our name": (ok(BODY, "X-Robots-Tag: curate: noimageindex"), "opt_out", 200),
    "tdm": (ok(BODY, "TDM-Reservation: 1"), "opt_out", 200),
    "noml": (ok(BODY, "X-Robots-Tag: noml"), "opt_out", 200),
    "content usage": (ok(BODY, "Content-Usage: search=y, train-ai=n"), "opt_out", 200),
    "opt-out of an endless body": (endless(head(200, "X-Robots-Tag: noai")), "opt_out", 200),
    "201": (status(201), "http_other", 201),
    "204": (status(204), "http_other", 204),
    "206": (status(206, body=BODY), "http_other", 206),
    "300": (status(300, "Location: /ok"), "http_other", 300),
    "304": (status(304), "http_other", 304),
    "401": (status(401), "http_4xx", 401),
    "403": (status(403), "http_4xx", 403),
    "404": (status(404, body=BODY), "http_4xx", 404),
    "410": (status(410), "http_4xx", 410),
    "429": (status(429), "http_4xx", 429),
    "451": (status(451), "http_4xx", 451),
    "500": (status(500), "http_5xx", 500),
    "503": (status(503), "http_5xx", 503),
    "999": (status(999), "http_other", 999),
    "no Location": (status(302), "redirect", 302),
    "loop": (redirect("/hostile"), "redirect", 302),
    "to file": (redirect("file:///etc/passwd"), "bad_url", 302),
    "to file, one slash": (redirect("file:/etc/passwd"), "bad_url", 302),
    "to data": (redirect("data:image/png;base64,AAAA"), "bad_url", 302),
    "to metadata": (redirect("http://169.254.169.254/latest/meta-data/"), "blocked_address", 302),
    "to metadata, decimal": (redirect("http://2852039166/"), "blocked_address", 302),
    "to metadata, IPv6": (redirect("http://[fd00:ec2::254]/"), "blocked_address", 302),
    "to another port": (redirect("http://127.0.0.1:1/"), "blocked_address", 302),
    "to control characters": (redirect("/a\x01b"), "bad_url", 302),
    "to nowhere": (redirect("http://nowhere.invalid/"), "dns", 302),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_answers(server, case):
    answer, error_class, code = HOSTILE[case]
    server.answers["/hostile"] = answer
    # Only where the deadline is the point is it short: the machine may be busy.
    timeout = 0.4 if error_class == "timeout" else 10.0
    started = time.monotonic()
    error = failure(guard(server, timeout=timeout), server.url("/hostile"))
    assert error.error_class == error_class, str(error)
    assert error.http_status == code or error_class == "timeout"
    assert time.monotonic() - started < timeout + 5


@pytest.mark.parametrize(
    ("key", "header"), [("noml", "X-Robots-Tag: noml"), ("content_usage", "Content-Usage: train-ai=n")]
)
def test_an_opt_out_has_a_key_and_is_named(server, key, header):
    server.answers["/x"] = ok(BODY, header)
    assert str(failure(guard(server), server.url("/x"))) == header
    assert guard(server, **{key: False}).get(server.url("/x")).body == BODY


def test_the_policy_of_a_reservation_is_named(server):
    server.answers["/x"] = ok(BODY, "tdm-reservation: 1", "tdm-policy: https://a.example/policy.json")
    named = "TDM-Reservation: 1, TDM-Policy: https://a.example/policy.json"
    assert str(failure(guard(server), server.url("/x"))) == named


def test_redirects_are_followed_and_capped(server):
    for n in range(50):
        server.answers[f"/chain{n}"] = redirect(f"/chain{n + 1}", (301, 302, 303, 307, 308)[n % 5])
    server.answers["/chain3"] = ok(BODY)
    assert guard(server, max_redirects=3).get(server.url("/chain0")).body == BODY
    assert failure(guard(server, max_redirects=2), server.url("/chain0")).error_class == "redirect"
    assert failure(guard(server, max_redirects=5), server.url("/chain4")).error_class == "redirect"
    assert failure(guard(server, max_redirects=0), server.url("/chain0")).error_class == "redirect"


def test_one_deadline_over_all_redirects(server):
    server.answers["/slow0"] = raw(b"", head(302, "Location: /slow1", "Content-Length: 0"), pause=0.25)
    server.answers["/slow1"] = raw(b"", head(302, "Location: /slow2", "Content-Length: 0"), pause=0.25)
    server.answers["/slow2"] = raw(b"", head(200) + BODY, pause=0.25)
    assert failure(guard(server, timeout=0.4), server.url("/slow0")).error_class == "timeout"


@pytest.mark.parametrize("host", LOOPBACK)
def test_loopback_is_blocked_under_every_name(host):
    resolver = names(**{"evil.example": ["127.0.0.1"], "both.example": ["93.184.216.34", "127.0.0.1"]})
    with HostileServer() as server:
        closed = guard(server, resolver, allow=[])
        assert failure(closed, server.url("/", host)).error_class == "blocked_address"
        assert server.connections == 0


@pytest.mark.parametrize("host", ["::1"])
def test_loopback_of_ipv6(host):
    try:
        server = HostileServer(host)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with server:
        server.answers["/"] = ok(BODY)
        assert failure(guard(server, allow=[]), server.url("/")).error_class == "blocked_address"
        assert server.connections == 0
        assert guard(server).get(server.url("/")).body == BODY


def test_allow_opens_one_address_and_port(server):
    server.answers["/allowed"] = ok(BODY)
    opened = guard(server)
    assert opened.get(server.url("/allowed")).body == BODY
    assert opened.get(server.url("/allowed", "localhost")).body == BODY
    with HostileServer() as other:
        for host in (None, "localhost"):
            assert failure(opened, other.url("/", host)).error_class == "blocked_address"
        assert other.connections == 0
    assert failure(opened, server.url("/allowed", "127.0.0.2")).error_class == "blocked_address"
    assert failure(opened, server.url("/allowed", "[::ffff:127.0.0.1]")).error_class == "blocked_address"


def test_a_name_that_changes_between_look_ups(server, monkeypatch):
    # The first answer is opened, the next one is not; whichever the guard checks is the one it connects to.
    monkeypatch.setattr(resolver_module, "KEPT", -1.0)
    with HostileServer("127.0.0.2") as inner:
        turns = iter([["127.0.0.1"], ["127.0.0.2"], ["127.0.0.1"]])
        rebinding = Resolver(lambda host: next(turns))
        server.answers["/rebind"] = ok(BODY)
        the_guard = guard(server, rebinding)
        url = server.url("/rebind", "rebind.example")
        assert the_guard.get(url).body == BODY
        assert failure(the_guard, url).error_class == "blocked_address"
        assert the_guard.get(url).body == BODY
        assert inner.connections == 0
    assert b"Host: rebind.example" in server.asked[-1]


def test_a_dead_address_is_passed_over(server):
    server.answers["/second"] = ok(BODY)
    resolver = names(**{"two.example": ["127.0.0.9", "127.0.0.1"]})
    both = guard(server, resolver, allow=[server.address, f"127.0.0.9:{server.port}"])
    assert both.get(server.url("/second", "two.example")).body == BODY


def test_refused_and_unknown(server):
    port = unused_port()
    assert failure(guard(server, allow=[f"127.0.0.1:{port}"]), f"http://127.0.0.1:{port}/").error_class == "refused"
    error = failure(guard(server), "http://unknown.invalid/x.jpg")
    assert (error.error_class, error.host) == ("dns", "unknown.invalid")


def test_proxies_of_the_environment_are_not_used(server, monkeypatch):
    with HostileServer() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://{proxy.address}")
        server.answers["/direct"] = ok(BODY)
        assert guard(server).get(server.url("/direct")).body == BODY
        assert proxy.connections == 0


@pytest.mark.parametrize("certificate", ["good.pem", "wrong_name.pem", "expired.pem", "self_signed.pem"])
@pytest.mark.parametrize("trusted", [True, False])
def test_certificates_are_verified(certificate, trusted):
    tls = ssl.create_default_context(cafile=TLS / "ca.pem" if trusted else None)
    with HostileServer(certificate=certificate) as server:
        server.answers["/"] = ok(BODY)
        the_guard = guard(server, tls=tls, timeout=5)
        if trusted and certificate == "good.pem":
            assert the_guard.get(server.url("/")).body == BODY
        else:
            assert failure(the_guard, server.url("/")).error_class == "tls"
            assert server.asked == []


def test_https_is_guarded_like_http():
    tls = ssl.create_default_context(cafile=TLS / "ca.pem")
    with HostileServer(certificate="good.pem") as server:
        server.answers["/slow"] = trickle(head(200, "Content-Length: 100000"), b"x")
        server.answers["/endless"] = endless(head(200))
        server.answers["/inside"] = redirect("https://127.0.0.1:1/")
        the_guard = guard(server, tls=tls, timeout=1.5)
        classes = [failure(the_guard, server.url(path)).error_class for path in ("/slow", "/endless", "/inside")]
        assert classes == ["timeout", "too_large", "blocked_address"]
        assert failure(guard(server, tls=tls, allow=[]), server.url("/slow")).error_class == "blocked_address"


def test_a_tls_handshake_that_never_ends(server):
    with HostileServer() as plain:
        url = plain.url("/").replace("http:", "https:")
        assert failure(guard(plain, timeout=0.4), url).error_class in ("timeout", "tls")
