"""The pass `plan`: one unit, the whole source."""

from curate.prepare import Prepared
from curate.runs.identity import placeless
from curate.runs.passes import Declaration, Layout
from curate.runs.work import Work
from curate.store import WHOLE, Inputs

VERSION = 3


def declare(prepared: Prepared) -> Declaration:
    """Declares the plan, which depends on the run's identity alone, whatever the paths of its source."""
    return Declaration("plan", "plan", VERSION, placeless(prepared.identity), is_decided_on=True)


def work(prepared: Prepared, layout: Layout) -> Work:
    """Reads the source and writes every part's rows."""
    recipe = prepared.recipe
    settings = {
        "source": recipe.source.model_dump(mode="json"),
        "seed": recipe.seed,
        "part_size": recipe.part_size,
        "endpoint": recipe.storage.endpoint,
    }
    return Work("plan", "curate.plan.worker:open_worker", settings, layout.of("plan"), Inputs({}, ()), (WHOLE,))
