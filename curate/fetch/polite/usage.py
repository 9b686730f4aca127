"""Content-Usage statements (IETF AIPREF): a header of the response, and a rule in robots.txt.

Drafts: draft-ietf-aipref-vocab-08 (categories and values) and draft-ietf-aipref-attach-05 (header and rule). A
statement is a dictionary of structured fields (RFC 9651); `train-ai=n` forbids training.
"""

import re
from collections.abc import Iterable

MAX_LENGTH = 4096
"""Characters of a statement that is read; a longer one states nothing."""

_KEY = r"[a-z*][a-z0-9_.*-]*"
_BARE = (
    r'(?:"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"'  # string
    r"|[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*"  # token
    r"|-?[0-9]{1,15}(?:\.[0-9]{1,3})?"
    r"|:[A-Za-z0-9+/=]*:"  # bytes
    r"|\?[01]|@-?[0-9]{1,15})"
)
_PARAMETERS = rf"(?:; *{_KEY}(?:={_BARE})?)*"
_LIST = rf"\( *(?:{_BARE}{_PARAMETERS}(?: +|(?=\))))*\)"
_MEMBER = re.compile(rf"({_KEY})(?:=({_BARE}|{_LIST}))?{_PARAMETERS}")
_COMMA = re.compile(r"[ \t]*,[ \t]*")


def trains(statement: str) -> bool | None:
    """Returns whether a statement allows training: None where it says neither, or is not a dictionary."""
    text = statement.strip(" ")
    if len(text) > MAX_LENGTH:
        return None
    value, at = None, 0
    while at < len(text):
        member = _MEMBER.match(text, at)
        if member is None:
            return None
        if member[1] == "train-ai":
            value = member[2]
        at = member.end()
        comma = _COMMA.match(text, at)
        if (comma is None or comma.end() == len(text)) and at < len(text):
            return None
        at = comma.end() if comma else at
    return {"y": True, "n": False}.get(value or "")


def forbids(statements: Iterable[str]) -> bool:
    """Returns whether one of several statements forbids training."""
    return any(trains(statement) is False for statement in statements)


def path_rules(lines: Iterable[str]) -> list[str]:
    """Returns a robots.txt group's Content-Usage rules as Allow lines, and Disallow lines where training is forbidden.

    Args:
        lines: lines of the group; those of other rules are left out.
    """
    rules = []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip().lower() != "content-usage":
            continue
        path, _, statement = value.strip().partition(" ") if value.strip().startswith(("/", "*")) else ("/", "", value)
        allowed = trains(statement)
        if allowed is not None:
            rules.append(f"{'Allow' if allowed else 'Disallow'}: {path}")
    return rules
