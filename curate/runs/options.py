"""Command-line options that are not part of a recipe."""

from dataclasses import dataclass
from pathlib import Path

PASSES = ("plan", "fetch", "embed", "signals", "dedup", "select", "pack", "report")
"""The passes in the order in which they run; `--until` takes one of them."""

RECIPE = "recipe.json"
"""The file in the run folder that holds the recipe of the latest run."""


@dataclass(frozen=True)
class Options:
    """Command-line options that are not part of a recipe.

    Args:
        sample: run only this share of the rows (`curate.runs.sample`), which has a result of its own.
        until: the last pass to run.
        allow_missing: continue without the parts that are set aside.
        retry_parts: start parts again that an earlier run set aside.
        truth: a demo's truth table, from which the report counts right and wrong decisions.
        engine: the engine's name, for the report.
        only_with_gain: continue after fetch only where the newest round of fetching recovered images.
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
    """The file name of the manifest of a sample, or of the whole run (None)."""
    return "manifest.json" if sample is None else f"manifest-sample-{sample:g}.json"
