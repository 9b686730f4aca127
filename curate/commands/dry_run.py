"""`curate run --dry-run`: lists what would run and what is reused; reads markers only."""

from collections.abc import Iterator

from curate import summaries
from curate.errors import counted
from curate.layout import lay_out, planned
from curate.prepare import Prepared
from curate.runs import retention
from curate.runs.options import Options
from curate.runs.passes import Pass


def lines(prepared: Prepared, options: Options) -> Iterator[str]:
    """Yields a line for each pass folder."""
    layout = planned(prepared, options)
    if layout is None:
        files = prepared.identity["source"]
        yield f"plan     would run over {counted(len(files), 'file')}; the number of parts is known after it"
        passes = lay_out(prepared, 1).passes.items()
        names = [name for name, pass_ in passes if options.reaches(pass_.declared.stage)]
        yield f"then     {', '.join(name for name in names if name != 'plan')}"
        return
    yield f"parts    {len(layout.parts)} of {layout.n_parts}" + (f"  ({layout.sample})" if layout.sample else "")
    width = max(len(name) for name in layout.passes)
    for name, pass_ in layout.passes.items():
        if options.reaches(pass_.declared.stage):
            yield f"{name:<{width}}  {_state(pass_, layout.parts)}  ({pass_.folder.path})"
    if options.reaches("pack") and retention.is_pending(prepared.recipe.keep.images, layout):
        yield retention.NOTICE


def _state(pass_: Pass, parts: tuple[int, ...]) -> str:
    if not pass_.declared.by_part:
        return "reused" if pass_.folder.is_done() else "would run"
    done = len(summaries.done(pass_.folder, parts))
    if done == len(parts):
        return "reused"
    return f"would run: {counted(len(parts) - done, 'part')}" + (f", {done} reused" if done else "")
