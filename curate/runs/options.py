"""What a command adds to a recipe."""

from dataclasses import dataclass
from pathlib import Path

PASSES = ("plan", "fetch", "embed", "signals", "dedup", "select", "pack", "report")
"""In order; `--until` takes one of them."""

RECIPE = "recipe.json"
"""In the run folder: the recipe that it was last run with."""


@dataclass(frozen=True)
class Options:
    """What a command adds to a recipe.

    Args:
        sample: run this share of the parts (the first ones; parts are random samples) to a result of its own.
        until: the last pass to run.
        allow_missing: go on without the parts that are set aside.
        retry_parts: begin anew with parts that an earlier run set aside.
        truth: a demo's truth table, to say how often each step was right.
        engine: the engine's name, for the report.
        only_with_gain: go on only where the newest round of fetching brought images back.
    """

    sample: float | None = None
    until: str = "report"
    allow_missing: bool = False
    retry_parts: bool = False
    truth: Path | None = None
    engine: str = "local"
    only_with_gain: bool = False

    def reaches(self, pass_name: str) -> bool:
        """Whether this pass is to run."""
        return PASSES.index(self.until) >= PASSES.index(pass_name)


def manifest_name(sample: float | None) -> str:
    """The name of the whole run's manifest, or of a sample's."""
    return "manifest.json" if sample is None else f"manifest-sample-{sample:g}.json"
