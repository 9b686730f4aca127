"""robots.txt (RFC 9309): requested once per origin, cached, obeyed.

Where an origin has no robots.txt, everything is allowed. Where the request for it fails, nothing is: the origin's
images fail with the error of that request.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from time import monotonic

from protego import Protego

from curate.fetch.contract import FetchError
from curate.fetch.http.deadline import Deadline
from curate.fetch.http.urls import Target

MAX_BYTES = 500 << 10
"""Most bytes of a robots.txt that are read (RFC 9309, 2.5)."""

KEPT = 3600.0
KEPT_FAILURE = 60.0
"""Seconds for which a file, or the failure of its request, is cached."""

SIZE = 4096
"""Most origins in the cache; the oldest are dropped first."""

_MAX_LINE = 2000
_MAX_STARS = 8

Ask = Callable[[Target], str]
"""Fetches a robots.txt: returns its text, '' where there is none; raises FetchError."""


class _Rules:
    def __init__(self) -> None:
        self.known = threading.Event()
        self.parsed: Protego | None = None
        self.error: FetchError | None = FetchError("internal", "it was not read")
        self.good_until = float("inf")


class Robots:
    """The robots.txt rules of many origins; thread-safe.

    Args:
        token: our name in robots.txt.
    """

    def __init__(self, token: str) -> None:
        self._token = token
        self._lock = threading.Lock()
        self._rules: OrderedDict[str, _Rules] = OrderedDict()

    def check(self, target: Target, ask: Ask, deadline: Deadline) -> None:
        """Returns if the target may be fetched, else raises.

        Args:
            target: the URL to be fetched.
            ask: fetches the robots.txt of its origin; of concurrent calls for one origin, one calls it.
            deadline: bounds the wait of the other calls.

        Raises:
            FetchError: class opt_out where robots.txt disallows it; the error of the request where robots.txt could not
                be fetched; class timeout where another call did not fetch it in time.
        """
        origin = Target(target.scheme, target.host, target.port, "/robots.txt")
        rules, ours = self._find(origin.url)
        if ours:
            self._learn(rules, origin, ask)
        elif not rules.known.wait(max(0.0, deadline.at - monotonic())):
            raise FetchError("timeout", "robots.txt did not arrive in time")
        if rules.error is not None:
            error = rules.error
            raise FetchError(error.error_class, f"robots.txt: {error}", http_status=error.http_status) from error
        assert rules.parsed is not None
        if not rules.parsed.can_fetch(target.url, self._token):
            raise FetchError("opt_out", "robots.txt disallows it")

    def _find(self, origin: str) -> tuple[_Rules, bool]:
        """Returns an origin's rules, and whether the caller has to fetch them."""
        with self._lock:
            rules = self._rules.get(origin)
            if rules is not None and rules.good_until > monotonic():
                return rules, False
            rules = self._rules[origin] = _Rules()
            if len(self._rules) > SIZE:
                self._rules.popitem(last=False)
            return rules, True

    def _learn(self, rules: _Rules, origin: Target, ask: Ask) -> None:
        kept = KEPT
        try:
            rules.parsed = Protego.parse(_tamed(ask(origin)))
            rules.error = None
        except FetchError as error:
            rules.error = error
            kept = KEPT_FAILURE
        finally:
            rules.good_until = monotonic() + kept
            rules.known.set()


def _tamed(text: str) -> str:
    """Returns a robots.txt without very long lines and lines of many stars: matching a hundred stars can take hours."""
    lines = text[:MAX_BYTES].splitlines()
    return "\n".join(line for line in lines if len(line) <= _MAX_LINE and line.count("*") <= _MAX_STARS)
