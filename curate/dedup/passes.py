"""The passes of `dedup`: one search, of a single unit, for each kind of duplicate whose near pairs a step reads."""

from collections.abc import Iterator

from curate.duplicates import NearKind, near_kinds
from curate.prepare import Prepared, near_kinds_of
from curate.runs.passes import Declaration, Layout
from curate.runs.work import Work
from curate.store import WHOLE, Json


def declare(prepared: Prepared, scope: Json) -> Iterator[Declaration]:
    """Declares the near pairs, which depend on the search, on its floor and on the parts that are covered."""
    for kind in _asked(prepared):
        depends = {**kind.depends(prepared.recipe.dedup), **scope}
        reads = kind.reads(prepared.models)
        yield Declaration(kind.search_pass, "dedup", kind.version, depends, reads, is_decided_on=True)


def works(prepared: Prepared, layout: Layout) -> Iterator[Work]:
    """Yields the work of each search."""
    for kind in _asked(prepared):
        name = kind.search_pass
        yield Work(
            name,
            "curate.dedup.worker:open_worker",
            {"kind": kind.name, **kind.settings(prepared.recipe)},
            {name: layout.passes[name]},
            layout.inputs(name),
            (WHOLE,),
            booking=prepared.recipe.booking("dedup", uses_gpu=kind.wants_gpu)[1],
        )


def _asked(prepared: Prepared) -> Iterator[NearKind]:
    asked = near_kinds_of(prepared.recipe)
    return (kind for kind in near_kinds() if kind.name in asked)
