"""A guard with a resolver that knows a few names, and the ways in which loopback is written."""

import socket

import pytest

from curate.fetch.contract import FetchError
from curate.fetch.http.client import Guard
from curate.fetch.http.resolver import Resolver
from helpers.fetch_samples import settings

LOOPBACK = [
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.1",
    "0177.0.0.1",
    "017700000001",
    "127.0.0.1.",
    "localhost",
    "LOCALHOST.",
    "a.localhost",
    "0.0.0.0",
    "0",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::127.0.0.1]",
    "[::]",
    "[::1]",
    "good.example@127.0.0.1",
    "good.example:80@localhost",
    "１２７.0.0.1",
    "evil.example",
    "both.example",
]


def names(**known):
    """A resolver that knows a few names and no other."""

    def lookup(host):
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return known[host]

    return Resolver(lookup)


def guard(server, resolver=None, tls=None, **changes):
    return Guard(settings(**{"allow": [server.address], "timeout": 10.0, **changes}), resolver or names(), tls)


def failure(the_guard, url):
    with pytest.raises(FetchError) as error:
        the_guard.get(url)
    assert str(error.value).isprintable()
    assert len(str(error.value)) <= 200
    return error.value
