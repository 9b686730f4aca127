"""The pass `report`: one page; one unit."""

from collections.abc import Sequence
from dataclasses import asdict

from curate.prepare import Prepared
from curate.runs.passes import Declaration, Layout
from curate.runs.work import Work
from curate.store import WHOLE, Json

VERSION = 2

EXAMPLES = 12
"""Rows that are shown for each reason."""


def declare(reads: Sequence[str], truth: str | None) -> Declaration:
    """The page depends on all that was done, and on the digest of a demo's table of truth."""
    return Declaration("report", "report", VERSION, {"truth": truth} if truth else {}, reads)


def work(prepared: Prepared, layout: Layout, evaluation: Json | None, sample: float | None, engine: str) -> Work:
    """Writes the page.

    Args:
        prepared: the recipe and what is known of it.
        layout: every pass.
        evaluation: how often a demo's steps were right.
        sample: the share of the parts that the run covers.
        engine: the engine's name.
    """
    recipe = prepared.recipe
    settings: Json = {
        "title": recipe.output.rstrip("/").rsplit("/", 1)[-1],
        "recipe": recipe.model_dump(mode="json", exclude_none=True),
        "facts": {name: asdict(facts) for name, facts in prepared.facts.items()},
        **prepared.columns.to_json(),
        "evaluation": evaluation,
        "examples": EXAMPLES,
        "run": {
            "url": recipe.output,
            "sample": sample,
            "engine": engine,
            "allow": recipe.fetch.allow,
            "missing": list(layout.missing),
        },
    }
    opener = "curate.report.worker:open_worker"
    return Work("report", opener, settings, layout.of("report"), layout.inputs("report"), (WHOLE,))
