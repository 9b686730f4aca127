"""Response headers by which a site forbids the use of its image for training."""

import re
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from email.message import Message

from curate.fetch.polite.usage import forbids
from curate.fetch.settings import Settings

_NO = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})  # none: noindex, nofollow

_NOML = "noml"  # https://noml.info

# Rules that have a value after a colon; any other word before a colon is the agent that a rule applies to.
_VALUED = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
_AGENT = re.compile(r"[a-z*][a-z0-9_.*/-]*")


def opted_out(headers: Message, settings: Settings) -> str | None:
    """Returns the header that forbids the use, as one line, or None where no header does.

    Args:
        headers: the headers of the response that has the image.
        settings: our name, for rules that apply to named agents only, and which rules are obeyed.
    """
    rules = _NO | {_NOML} if settings.noml else _NO
    rule = forbidding_rule(headers.get_all("X-Robots-Tag", []), settings.agent_token, rules)
    if rule:
        return f"X-Robots-Tag: {rule}"
    # https://www.w3.org/community/reports/tdmrep/CG-FINAL-tdmrep-20240202/: 1 reserves the rights, 0 does not.
    if any(value.strip() == "1" for value in headers.get_all("TDM-Reservation", [])):
        policy = headers.get("TDM-Policy")
        return "TDM-Reservation: 1" + (f", TDM-Policy: {policy}" if policy else "")
    if settings.content_usage and forbids(headers.get_all("Content-Usage", [])):
        return "Content-Usage: train-ai=n"
    return None


def forbidding_rule(values: Iterable[str], agent_token: str, rules: AbstractSet[str] = _NO) -> str | None:
    """Returns the first rule of X-Robots-Tag values that forbids the use to all agents or to ours, or None.

    An agent named before a rule applies to the rules after it, up to the next agent or the header's end:
    `otherbot: noai, noindex` has no rule for `curate`, `otherbot: noai, curate: noindex` has one.
    """
    for value in values:
        agent = "*"
        for rule in value.lower().split(","):
            before, colon, after = (word.strip() for word in rule.partition(":"))
            if colon and before not in _VALUED and _AGENT.fullmatch(before):
                agent, rule = before, after
            if rule.strip() in rules and agent in ("*", agent_token.lower()):
                return rule.strip()
    return None
