import socket
import threading
from ipaddress import ip_address

import pytest

from curate.fetch.contract import FetchError
from curate.fetch.http import resolver as module
from curate.fetch.http.deadline import Deadline
from curate.fetch.http.resolver import Resolver


class Names:
    """A name server that counts."""

    def __init__(self, **names):
        self.names = names
        self.asked = []

    def __call__(self, host):
        self.asked.append(host)
        found = self.names[host]
        if isinstance(found, Exception):
            raise found
        return found


def test_each_name_is_asked_once():
    names = Names(a=["8.8.8.8", "2606:4700::1", "8.8.8.8"])
    resolver = Resolver(names)
    for _ in range(3):
        assert resolver.addresses("a", Deadline(5)) == (ip_address("8.8.8.8"), ip_address("2606:4700::1"))
    assert names.asked == ["a"]


@pytest.mark.parametrize(
    "failure", [socket.gaierror(socket.EAI_NONAME, "Name or service not known"), UnicodeError("label"), []]
)
def test_failures_are_remembered(failure):
    names = Names(a=failure)
    resolver = Resolver(names)
    for _ in range(3):
        with pytest.raises(FetchError) as error:
            resolver.addresses("a", Deadline(5))
        assert error.value.error_class == "dns"
    assert names.asked == ["a"]


def test_answers_grow_old(monkeypatch):
    monkeypatch.setattr(module, "KEPT", -1.0)
    names = Names(a=["8.8.8.8"])
    resolver = Resolver(names)
    for _ in range(2):
        resolver.addresses("a", Deadline(5))
    assert names.asked == ["a", "a"]


def test_the_cache_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "SIZE", 2)
    names = Names(a=["8.8.8.8"], b=["8.8.8.8"], c=["8.8.8.8"])
    resolver = Resolver(names)
    for host in "abcca":
        resolver.addresses(host, Deadline(5))
    assert names.asked == ["a", "b", "c", "a"]


def test_a_name_server_that_hangs_holds_nobody_and_no_queue_grows(monkeypatch):
    monkeypatch.setattr(module, "THREADS", 1)
    hang, asked = threading.Event(), []

    def lookup(host):
        asked.append(host)
        hang.wait(20)
        return ["8.8.8.8"]

    resolver = Resolver(lookup)
    for host in ("slow", "waiting", "slow"):
        with pytest.raises(FetchError) as error:
            resolver.addresses(host, Deadline(0.05))
        assert error.value.error_class == "dns"
    hang.set()
    assert resolver.addresses("fresh", Deadline(5)) == (ip_address("8.8.8.8"),)
    assert asked == ["slow", "fresh"]


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("0", "0.0.0.0"),
        ("localhost", "127.0.0.1"),
        ("a.localhost", "127.0.0.1"),
        ("::1", "::1"),
    ],
)
def test_literals_are_not_asked_for(host, address):
    assert Resolver(Names()).addresses(host, Deadline(5)) == (ip_address(address),)
