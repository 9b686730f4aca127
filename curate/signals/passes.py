"""The passes of `signals`: the columns of each scorer, by part."""

from collections.abc import Iterator, Sequence

from curate.prepare import Prepared
from curate.runs.booking import for_signals
from curate.runs.passes import Declaration, Layout
from curate.runs.work import SMALL, Work


def declare(prepared: Prepared) -> Iterator[Declaration]:
    """Yields a pass for each scorer, so that adding a scorer computes only that one."""
    for scorer in prepared.scorers:
        embeddings = f"embed-{scorer.model}" if scorer.model else None
        yield Declaration(
            f"signals-{scorer.name}",
            "signals",
            scorer.kind.version,
            scorer.depends,
            [name for name in ("plan", embeddings, scorer.directions_folder) if name],
            by_part=True,
            is_decided_on=True,
        )


def work(prepared: Prepared, layout: Layout, *, after: Sequence[str]) -> Work:
    """Returns the work that computes the columns, of each part after the named works did that part or their whole."""
    count, booking = prepared.recipe.booking("signals", for_signals)
    outputs = {name: pass_ for name, pass_ in layout.of("signals").items() if pass_.declared.by_part}
    return Work(
        "signals",
        "curate.signals.worker:open_worker",
        {
            "scorers": {scorer.name: scorer.settings() for scorer in prepared.scorers},
            "endpoint": prepared.recipe.storage.endpoint,
        },
        outputs,
        layout.inputs(*outputs),
        layout.parts,
        layout.rows,
        after=tuple(after),
        processes=count,
        booking=booking,
        is_small=layout.n_rows <= SMALL,
        total=layout.n_parts,
    )
