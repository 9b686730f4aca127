"""The pass `report`: one page; one unit."""

from collections.abc import Sequence
from dataclasses import asdict

from curate.prepare import Prepared
from curate.runs.passes import Declaration, Layout
from curate.runs.work import SMALL, Work
from curate.store import WHOLE, Json

VERSION = 3

EXAMPLES = 12
"""Rows that are shown for each reason."""


def declare(reads: Sequence[str], truth: str | None) -> Declaration:
    """Declares `report`: it depends on every other pass, and on the digest of a demo's truth table."""
    return Declaration("report", "report", VERSION, {"truth": truth} if truth else {}, reads)


def work(prepared: Prepared, layout: Layout, evaluation: Json | None, engine: str) -> Work:
    """Returns the work that writes the page.

    Args:
        prepared: the checked recipe.
        layout: every pass.
        evaluation: how often a demo's steps were right, in JSON form; None for a real run.
        engine: the engine's name.
    """
    recipe = prepared.recipe
    settings: Json = {
        "title": recipe.output.rstrip("/").rsplit("/", 1)[-1],
        "recipe": recipe.as_stored().model_dump(mode="json", exclude_none=True),
        "facts": {name: asdict(facts) for name, facts in prepared.facts.items()},
        **prepared.columns.to_json(),
        "evaluation": evaluation,
        "examples": EXAMPLES,
        "run": {
            "url": recipe.output,
            "engine": engine,
            "allow": recipe.fetch.allow,
            "missing": list(layout.missing),
        },
    }
    opener = "curate.report.worker:open_worker"
    return Work(
        "report",
        opener,
        settings,
        layout.of("report"),
        layout.inputs("report"),
        (WHOLE,),
        is_small=layout.n_rows <= SMALL,
    )
