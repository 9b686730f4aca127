"""A step of `funnel.json` in words."""

from collections.abc import Mapping
from typing import Any

Step = Mapping[str, Any]
"""One of `funnel.json`'s `steps`."""

FETCH = "fetch:"
"""What the reasons begin with that fetch gives."""

_BEFORE = {
    "repeated": "the same URL and caption stand earlier in the list",
    "undecodable": "fetched, but no picture could be decoded from it",
    "fetch:dns": "the host's name did not resolve",
    "fetch:timeout": "not received within the deadline",
    "fetch:deadline": "not received before its part's time was up",
    "fetch:refused": "the host refused the connection",
    "fetch:tls": "no trusted connection could be made",
    "fetch:connection": "the connection broke",
    "fetch:http_4xx": "the server answered 4xx: gone or forbidden",
    "fetch:http_5xx": "the server answered 5xx: it failed",
    "fetch:http_other": "the server answered with another status",
    "fetch:redirect": "too many redirects, or one that cannot be followed",
    "fetch:bad_url": "not a URL that may be fetched",
    "fetch:blocked_address": "an address on a private or reserved network",
    "fetch:opt_out": "the server forbids use for training",
    "fetch:host_busy": "the host was left alone: its limits, its wish, or too many refusals",
    "fetch:blocked_digest": "a file that the recipe's blocklists name",
    "fetch:encoding": "the body's encoding cannot be undone",
    "fetch:too_large": "more bytes or pixels than the recipe allows",
    "fetch:not_an_image": "something other than an image",
    "fetch:undecodable": "a broken image file",
    "fetch:internal": "a fault of the fetcher",
}


def describe(step: Step) -> str:
    """What a step does and where its threshold fell, in one line."""
    match step["kind"]:
        case "where":
            return " ".join(str(step["where"]).split())
        case "keep_top":
            least = "" if step["threshold"] is None else f": {step['of']} ≥ {value(step['threshold'])}"
            return f"keeps {best(step)}{least}"
        case "duplicates":
            what = "equal bytes" if step["by"] == "sha256" else f"cosine ≥ {value(step['threshold'])}"
            return f"{what}; keeps the one with the highest {step['prefer']}"
        case _:
            return _BEFORE.get(step["name"], "")


def best(step: Step) -> str:
    """What a `keep_top` step keeps, without its threshold."""
    among = " of all fetched pairs" if step["over"] == "pool" else ""
    return f"the top {100 * step['fraction']:.4g} %{among} by {step['of']}"


def nulls(step: Step) -> str:
    """The step's rows without a value, in words; empty where there are none or the kind has no values."""
    if not step["nulls"]:
        return ""
    rest = {"where": "stay", "keep_top": "drop", "duplicates": "stay"}.get(step["kind"])
    return f"{step['nulls']:,} without a value {rest}" if rest else ""


def value(number: float) -> str:
    """A score or threshold, to four decimals at most."""
    return f"{number:.4f}".rstrip("0").rstrip(".") if abs(number) < 1000 else f"{number:,.0f}"
