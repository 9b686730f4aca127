"""`curate run --dry-run`: what would run and what is reused, from markers alone."""

from collections.abc import Iterator

from curate.errors import counted
from curate.flow import planned
from curate.layout import Prepared, lay_out
from curate.runs.driver import Pass
from curate.runs.options import PASSES, Options
from curate.store import WHOLE

_BY_PART = ("fetch", "pixels", "embed", "signals")


def lines(prepared: Prepared, options: Options) -> Iterator[str]:
    """A line per pass folder."""
    layout = planned(prepared, options)
    if layout is None:
        files = prepared.identity["source"]
        yield f"plan     would run over {counted(len(files), 'file')}; how many parts there are is known after it"
        names = [name for name in lay_out(prepared, 1).passes if options.reaches(_pass_of(name))]
        yield f"then     {', '.join(name for name in names if name != 'plan')}"
        return
    yield f"parts    {len(layout.parts)} of {layout.n_parts}"
    width = max(len(name) for name in layout.passes)
    for name, pass_ in layout.passes.items():
        if options.reaches(_pass_of(name)):
            yield f"{name:<{width}}  {_state(name, pass_, layout.parts)}  ({pass_.folder.path})"


def _pass_of(name: str) -> str:
    """The pass that writes a folder: pixels and prompts are written beside the embeddings."""
    stem = name.partition("-")[0]
    return stem if stem in PASSES else "embed"


def _state(name: str, pass_: Pass, parts: tuple[int, ...]) -> str:
    units = pass_.folder.units()
    if not name.startswith(_BY_PART):
        return "reused" if WHOLE in units else "would run"
    done = len(units.intersection(parts))
    if done == len(parts):
        return "reused"
    return f"would run: {counted(len(parts) - done, 'part')}" + (f", {done} reused" if done else "")
