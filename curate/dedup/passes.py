"""The pass `dedup`: near pairs of all parts, where a step asks for them; one unit."""

from collections.abc import Iterator

from curate.prepare import Prepared, near_kinds
from curate.runs.passes import Declaration, Layout
from curate.runs.work import Work
from curate.store import WHOLE, Json

VERSION = 1


def declare(prepared: Prepared, scope: Json) -> Iterator[Declaration]:
    """Nothing where no step of the recipe drops duplicates by embedding."""
    recipe = prepared.recipe
    if near_kinds(recipe):
        depends = {"floor": recipe.dedup.floor, **scope}
        reads = ["fetch", f"embed-{prepared.models[0]}"]
        yield Declaration("dedup", "dedup", VERSION, depends, reads, is_decided_on=True)


def work(prepared: Prepared, layout: Layout) -> Work:
    """Finds the near pairs."""
    recipe, first = prepared.recipe, prepared.models[0]
    settings: Json = {
        "floor": recipe.dedup.floor,
        "tile": recipe.dedup.tile,
        "model": first,
        "device": recipe.embed.device,
        "threads": recipe.models[first].threads,
    }
    return Work(
        "dedup",
        "curate.dedup.worker:open_worker",
        settings,
        layout.of("dedup"),
        layout.inputs("dedup"),
        (WHOLE,),
        wants_gpu=recipe.embed.device != "cpu",
    )
