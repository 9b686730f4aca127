"""A step of `funnel.json` in words."""

from collections.abc import Mapping
from typing import Any

from curate.schema import reason_words

Step = Mapping[str, Any]
"""One of `funnel.json`'s `steps`."""


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
        case "before":
            return reason_words(step["name"])
        case kind:
            raise ValueError(f"funnel.json: the step {step['name']!r} is of no known kind: {kind!r}")


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
