"""robots.txt (RFC 9309): requested once per origin, cached, obeyed.

Where an origin has no robots.txt, everything is allowed. Where the request for it fails, nothing is: the origin's
images fail with the error of that request. Only the group of rules that applies to Curate is given to Protego, which
matches paths: a file that names thousands of agents above thousands of rules would give each agent a copy of them.
"""

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from time import monotonic

from protego import Protego

from curate.fetch.contract import FetchError
from curate.fetch.http.deadline import Deadline
from curate.fetch.http.urls import Target
from curate.fetch.polite.usage import path_rules

MAX_BYTES = 500 << 10
"""Most bytes of a robots.txt that are read (RFC 9309, 2.5)."""

KEPT = 3600.0
KEPT_FAILURE = 60.0
"""Seconds for which a file, or the failure of its request, is cached."""

SIZE = 4096
"""Most origins in the cache; the oldest are dropped first."""

MAX_WORK = 100_000_000
"""Largest product of a URL's characters and the characters of all wildcard rules that are matched with it: some 30 ms.
It is reached by a full robots.txt of such rules and a URL of 200 characters."""

_AGENT = re.compile(r"user[-\s]*agent(?:\s*:|\s)\s*(.*)", re.IGNORECASE)
_PRODUCT = re.compile(r"\*|[a-z0-9_-]*")
_SITE_WIDE = re.compile(r"(?:site-?maps?|host)\b", re.IGNORECASE)

Ask = Callable[[Target], str]
"""Fetches a robots.txt: returns its text, '' where there is none; raises FetchError."""


def group(text: str, token: str) -> list[str]:
    """Returns the lines of the groups that name a crawler, else of those for all crawlers, without the agents' names.

    Args:
        text: a robots.txt.
        token: the crawler's name, in lower case.
    """
    lines: dict[str, list[str]] = {"*": [], token: []}
    agents: set[str] = set()
    named = rules_begun = False
    for line in text.splitlines():
        line = line.partition("#")[0].strip()
        agent = _AGENT.match(line)
        if agent:
            if rules_begun:
                agents, rules_begun = set(), False
            product = _PRODUCT.match(agent[1].lower())
            name = product[0] if product else ""
            named = named or name == token
            agents.add(name)
        elif line and not _SITE_WIDE.match(line):
            rules_begun = True
            for name in agents & lines.keys():
                lines[name].append(line)
    return lines[token if named else "*"]


class PathRules:
    """Allow and Disallow lines that apply to all crawlers, the longest matching pattern first.

    Args:
        lines: `Allow: pattern`, `Disallow: pattern`; others are ignored.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        kept = list(lines)
        self._wildcards = sum(len(line) for line in kept if "*" in line)
        self._parsed = Protego.parse("\n".join(["User-agent: *", *kept]))

    def allow(self, url: str) -> bool:
        """Returns whether a URL is allowed.

        Raises:
            FetchError: class opt_out where matching the rules would take too long to be done for every URL.
        """
        if self._wildcards * len(url) > MAX_WORK:
            raise FetchError("opt_out", f"too many rules with wildcards to match with a URL of {len(url)} characters")
        return self._parsed.can_fetch(url, "*")


class _Rules:
    def __init__(self) -> None:
        self.known = threading.Event()
        self.paths: PathRules | None = None
        self.usage: PathRules | None = None
        self.error: FetchError | None = FetchError("internal", "it was not read")
        self.good_until = float("inf")


class Robots:
    """The robots.txt rules of many origins; thread-safe.

    Args:
        token: our name in robots.txt.
        content_usage: whether Content-Usage rules are obeyed.
    """

    def __init__(self, token: str, *, content_usage: bool = True) -> None:
        self._token = token.lower()
        self._content_usage = content_usage
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
            raise _of_robots(rules.error)
        assert rules.paths is not None
        assert rules.usage is not None
        try:
            allowed = rules.paths.allow(target.url)
            trained = rules.usage.allow(target.url)
        except FetchError as error:
            raise _of_robots(error) from error
        if not allowed:
            raise FetchError("opt_out", "robots.txt disallows it")
        if not trained:
            raise FetchError("opt_out", "robots.txt: Content-Usage: train-ai=n")

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
            lines = group(ask(origin)[:MAX_BYTES], self._token)
            rules.paths = PathRules(lines)
            rules.usage = PathRules(path_rules(lines) if self._content_usage else ())
            rules.error = None
        except FetchError as error:
            rules.error = error
            kept = KEPT_FAILURE
        finally:
            rules.good_until = monotonic() + kept
            rules.known.set()


def _of_robots(error: FetchError) -> FetchError:
    return FetchError(error.error_class, f"robots.txt: {error}", http_status=error.http_status)
