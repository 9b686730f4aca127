"""The pass `select`: a decision for every row, in one unit."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from curate.keys import chosen
from curate.prepare import Prepared, steps_of
from curate.runs.passes import Declaration, Layout
from curate.runs.work import SMALL, Work
from curate.select.steps.registry import versions
from curate.store import WHOLE, Json

VERSION = 5


def declare(prepared: Prepared, scope: Json, reads: Sequence[str]) -> Declaration:
    """Declares the decisions, which depend on steps and their kinds, the covered rows, and every pass with columns."""
    steps = [chosen(step) for step in prepared.recipe.select]
    kinds = versions(steps_of(prepared.recipe))
    depends = {"steps": steps, **({"kinds": kinds} if kinds else {}), "models": prepared.models, **scope}
    return Declaration("select", "select", VERSION, depends, reads)


def work(prepared: Prepared, layout: Layout) -> Work:
    """Returns the work that applies the steps to all covered parts."""
    sample = layout.sample
    settings: Json = {
        "steps": [step.model_dump(mode="json") for step in prepared.recipe.select],
        **prepared.columns.to_json(),
        "memory_limit": "1GB",
        "missing": list(layout.missing),
        "sample": asdict(sample) if sample and sample.rows < sample.n_rows else None,
    }
    opener = "curate.select.worker:open_worker"
    return Work(
        "select",
        opener,
        settings,
        layout.of("select"),
        layout.inputs("select"),
        (WHOLE,),
        is_small=layout.n_rows <= SMALL,
    )


def decisions(layout: Layout) -> Iterator[tuple[bytes, bool, str | None]]:
    """Yields for every row of the covered parts: pair_id, whether it is kept, and the drop reason or None."""
    for part in layout.parts:
        table = layout.passes["select"].folder.table("decisions.parquet", part, ["pair_id", "kept", "reason"])
        yield from zip(*(table[name].to_pylist() for name in table.column_names), strict=True)
