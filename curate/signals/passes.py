"""The passes of `signals`: the columns of each scorer, by part."""

from collections.abc import Iterator, Sequence

from curate.prepare import Prepared, head_params, scorers
from curate.runs.passes import Declaration, Layout
from curate.runs.work import Work
from curate.signals import registry
from curate.store import Json


def declare(prepared: Prepared) -> Iterator[Declaration]:
    """Each scorer is a pass by itself: adding one computes that one."""
    own = head_params(prepared)
    for scorer, needs in scorers(prepared.recipe).items():
        yield Declaration(
            f"signals-{scorer}",
            "signals",
            registry.version(scorer),
            own.get(scorer, {}),
            ["plan", *needs.values()],
            by_part=True,
            is_decided_on=True,
        )


def work(prepared: Prepared, layout: Layout, *, after: Sequence[str]) -> Work:
    """Computes the columns of parts, each after the same part, or the whole, of the named works."""
    outputs = {name: pass_ for name, pass_ in layout.of("signals").items() if pass_.declared.by_part}
    return Work(
        "signals",
        "curate.signals.worker:open_worker",
        {"scorers": _scorers(prepared)},
        outputs,
        layout.inputs(*outputs),
        layout.parts,
        layout.rows,
        after=tuple(after),
    )


def _scorers(prepared: Prepared) -> Json:
    """Every scorer with what it is given: folders, and for a head its file."""
    recipe, own = prepared.recipe, head_params(prepared)
    found = scorers(recipe)
    for name, asked in recipe.signals.heads.items():
        place = {"path": asked.path, "endpoint": recipe.storage.endpoint}
        found[f"head_{name}"] |= {**own[f"head_{name}"], **place}
    return found
