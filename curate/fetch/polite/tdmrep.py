"""`/.well-known/tdmrep.json` (TDM Reservation Protocol, W3C community report of 2024-05-10): requested once per origin.

The first rule whose location matches a URL applies. A URL that the file reserves is not requested, so a header of its
response that would allow it is not seen. A file that is not such JSON reserves nothing.
"""

import json
import re
from typing import Any

from curate.fetch.contract import FetchError
from curate.fetch.http.deadline import Deadline
from curate.fetch.http.urls import Target
from curate.fetch.polite.origin_file import Ask, OriginFile
from curate.fetch.polite.robots import MAX_WORK, PathRules

PATH = "/.well-known/tdmrep.json"

MAX_RULES = 1000
"""Most rules of a file; one with more is taken to reserve everything."""

_LOCATION = re.compile(r"[/*][^\s#]*")


class Tdmrep:
    """The tdmrep.json rules of many origins; thread-safe."""

    def __init__(self) -> None:
        self._file = OriginFile(PATH, _Reservations)

    def check(self, target: Target, ask: Ask, deadline: Deadline) -> None:
        """Returns if the target is not reserved, else raises; see `OriginFile.of`.

        Raises:
            FetchError: class opt_out where tdmrep.json reserves it; the error of the request where the file could not
                be fetched; class timeout where another call did not fetch it in time.
        """
        rules = self._file.of(target, ask, deadline)
        try:
            rules.check(target.url)
        except FetchError as error:
            raise self._file.named(error) from error


class _Reservations:
    """The rules of one file.

    Args:
        text: the file.
    """

    def __init__(self, text: str) -> None:
        try:
            content = json.loads(text) if text else []
        except (ValueError, RecursionError):
            content = []
        rules = [rule for rule in content if isinstance(rule, dict)] if isinstance(content, list) else []
        self._too_many = len(rules) > MAX_RULES
        self._rules = [read for rule in rules[:MAX_RULES] if (read := _rule(rule)) is not None]
        self._wildcards = sum(len(location) for location, *_ in self._rules if "*" in location)

    def check(self, url: str) -> None:
        """Raises FetchError of class opt_out where a URL is reserved, or cannot be matched in bounded time."""
        if self._too_many:
            raise FetchError("opt_out", f"more than {MAX_RULES} rules")
        if self._wildcards * len(url) > MAX_WORK:
            raise FetchError("opt_out", f"too many rules with wildcards to match with a URL of {len(url)} characters")
        for _, paths, is_reserved, policy in self._rules:
            if paths.allow(url):
                continue
            if is_reserved:
                raise FetchError("opt_out", "tdm-reservation: 1" + (f", tdm-policy: {policy}" if policy else ""))
            return


def _rule(rule: dict[str, Any]) -> tuple[str, PathRules, bool, str] | None:
    """Returns location, its matcher, whether it is reserved, and the policy; None where the rule is not valid."""
    location, reservation, policy = rule.get("location"), rule.get("tdm-reservation"), rule.get("tdm-policy")
    if not isinstance(location, str) or not _LOCATION.fullmatch(location) or reservation not in (0, 1):
        return None
    return location, PathRules([f"Disallow: {location}"]), reservation == 1, policy if isinstance(policy, str) else ""
