"""robots.txt (RFC 9309): requested once per origin, cached, obeyed.

Where an origin has no robots.txt, everything is allowed. Where the request for it fails, nothing is: the origin's
images fail with the error of that request. Only the group of rules that applies to Curate is given to Protego, which
matches paths: a file that names thousands of agents above thousands of rules would give each agent a copy of them.
"""

import re
from collections.abc import Iterable

from protego import Protego

from curate.fetch.contract import FetchError
from curate.fetch.http.deadline import Deadline
from curate.fetch.http.urls import Target
from curate.fetch.polite.origin_file import Ask, OriginFile
from curate.fetch.polite.usage import path_rules

MAX_WORK = 100_000_000
"""Largest product of a URL's characters and the characters of all wildcard rules that are matched with it: some 30 ms.
It is reached by a full robots.txt of such rules and a URL of 200 characters."""

_AGENT = re.compile(r"user[-\s]*agent(?:\s*:|\s)\s*(.*)", re.IGNORECASE)
_PRODUCT = re.compile(r"\*|[a-z0-9_-]*")
_SITE_WIDE = re.compile(r"(?:site-?maps?|host)\b", re.IGNORECASE)


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
    """The rules of one robots.txt.

    Args:
        lines: of the group that applies.
        content_usage: whether Content-Usage rules are obeyed.
    """

    def __init__(self, lines: list[str], *, content_usage: bool) -> None:
        self._paths = PathRules(lines)
        self._usage = PathRules(path_rules(lines) if content_usage else ())

    def fault(self, url: str) -> str:
        """Returns the rule that forbids a URL, '' where none does. Raises FetchError as `PathRules.allow`."""
        if not self._paths.allow(url):
            return "robots.txt disallows it"
        return "" if self._usage.allow(url) else "robots.txt: Content-Usage: train-ai=n"


class Robots:
    """The robots.txt rules of many origins; thread-safe.

    Args:
        token: our name in robots.txt.
        content_usage: whether Content-Usage rules are obeyed.
    """

    def __init__(self, token: str, *, content_usage: bool = True) -> None:
        def read(text: str) -> _Rules:
            return _Rules(group(text, token.lower()), content_usage=content_usage)

        self._file = OriginFile("/robots.txt", read)

    def check(self, target: Target, ask: Ask, deadline: Deadline) -> None:
        """Returns if the target may be fetched and used for training, else raises; see `OriginFile.of`.

        Raises:
            FetchError: class opt_out where robots.txt forbids it; the error of the request where robots.txt could not
                be fetched; class timeout where another call did not fetch it in time.
        """
        rules = self._file.of(target, ask, deadline)
        try:
            fault = rules.fault(target.url)
        except FetchError as error:
            raise self._file.named(error) from error
        if fault:
            raise FetchError("opt_out", fault)
