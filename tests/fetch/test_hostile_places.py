"""Places that nobody's list should name, by name, by address and by redirect."""

import socket

import pytest
from helpers.fetch_samples import settings
from helpers.guarded import LOOPBACK, failure, guard, names
from helpers.hostile_server import HostileServer, ok, redirect

from curate.fetch.http.client import Guard
from curate.fetch.http.resolver import Resolver

PRIVATE = """10.0.0.1 172.16.0.1 192.168.1.1 100.64.0.1 169.254.169.254 168.63.129.16 224.0.0.1 255.255.255.255 0.0.0.0
::1 fe80::1 fd00:ec2::254 fc00::1 ff02::1 ::ffff:169.254.169.254 64:ff9b::a9fe:a9fe 2002:7f00:1:: 2001::1 ::"""

PUBLIC = "93.184.216.34"


@pytest.fixture(scope="module")
def server():
    with HostileServer() as running:
        yield running


@pytest.mark.parametrize("address", PRIVATE.split())
@pytest.mark.parametrize("beside", [[], [PUBLIC]], ids=["alone", "beside a public one"])
def test_a_name_that_resolves_inside(server, address, beside):
    resolver = names(**{"inside.example": [*beside, address]})
    assert failure(guard(server, resolver), "http://inside.example/x.jpg").error_class == "blocked_address"
    assert failure(guard(server, resolver), "https://inside.example/x.jpg").error_class == "blocked_address"


@pytest.mark.parametrize("address", PRIVATE.split())
def test_an_address_inside(server, address):
    host = f"[{address}]" if ":" in address else address
    assert failure(guard(server), f"http://{host}/latest/meta-data/").error_class == "blocked_address"
    server.answers["/to"] = redirect(f"http://{host}/latest/meta-data/")
    error = failure(guard(server), server.url("/to"))
    assert (error.error_class, error.http_status) == ("blocked_address", 302)


@pytest.mark.parametrize("host", LOOPBACK)
def test_redirects_to_this_machine(server, host):
    """Only the very pair that the recipe opens is open: the same port of the same machine under other names is not."""
    resolver = names(**{"evil.example": ["127.0.0.1"], "both.example": [PUBLIC, "127.0.0.1"]})
    with HostileServer() as inner:
        # As a server can send it: bytes of its own choice.
        server.answers["/in"] = redirect(f"http://{host}:{inner.port}/".encode().decode("latin-1"))
        assert failure(guard(server, resolver), server.url("/in")).error_class == "blocked_address"
        assert inner.connections == 0


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1:6379/_FLUSHALL", "data:image/png;base64,AAAA"],
)
def test_redirects_to_other_schemes(server, location):
    server.answers["/scheme"] = redirect(location)
    assert failure(guard(server), server.url("/scheme")).error_class == "bad_url"


def test_a_chain_of_fifty(server):
    for n in range(50):
        server.answers[f"/{n}"] = redirect(f"/{n + 1}")
    server.answers["/50"] = ok(b"\xff\xd8\xff")
    before = server.connections
    assert failure(guard(server, max_redirects=5), server.url("/0")).error_class == "redirect"
    assert server.connections - before == 6


def test_an_international_host_is_asked_for_in_ascii(server):
    asked = []

    def lookup(host):
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    the_guard = Guard(settings(), Resolver(lookup))
    error = failure(the_guard, "http://bücher.example/süß.jpg")
    assert (error.error_class, error.host, asked) == ("dns", "xn--bcher-kva.example", ["xn--bcher-kva.example"])
    assert failure(the_guard, "http://\udcff.example/").error_class == "bad_url"
