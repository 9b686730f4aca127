"""`curate retry-failed`: a further round for the images that were lost in ways that time may have healed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from curate.errors import UsageError, counted, nearest
from curate.fetch.passes import unsettled
from curate.layout import planned
from curate.prepare import Prepared, prepare
from curate.recipe import Recipe, parse
from curate.runs.options import RECIPE, Options
from curate.runs.retry_rounds import record, recorded
from curate.schema import ERROR_CLASSES
from curate.store import Store

_TRIED, _CAME = "retried:", "recovered:"
"""Before a class, in the counts of a round's parts."""


def recipe_of(store: Store, overrides: Sequence[str]) -> Recipe:
    """The recipe that a run folder was last run with.

    Raises:
        UsageError: there is none.
    """
    if not store.exists(RECIPE):
        raise UsageError(f"{store.url} holds no run: there is no {RECIPE} in it")
    return parse({**store.read_json(RECIPE), "output": store.url}, overrides)


def begin(loaded: Recipe, classes: Sequence[str], options: Options) -> Prepared | None:
    """Adds a round to a run, or finds the one that has not ended; None where nothing failed in these classes.

    Raises:
        UsageError: an unknown class, nothing fetched yet, or another round that is not finished.
    """
    for name in classes:
        if name not in ERROR_CLASSES:
            raise UsageError(f"--class {name}: no such class{nearest(name, ERROR_CLASSES)}")
    if loaded.source.kind == "samples":
        raise UsageError(
            f"{loaded.output}: its images were read from samples, not downloaded, and would be lost again the same "
            "way; mend the tars or folders and run them into another output"
        )
    prepared = prepare(loaded)
    layout = planned(prepared, options)
    fetches = list(layout.of("fetch").values()) if layout else []
    done = [fetch.folder.units() for fetch in fetches]
    if layout is None or not any(done):
        raise UsageError(f"{prepared.store.url}: nothing was fetched yet with this recipe; `curate run` it first")
    # Parts that the round before lacks are none that this one could have.
    if len(fetches) > 1 and (
        unsettled(prepared, layout) or not done[-1].issuperset(done[-2].intersection(layout.parts))
    ):
        depends = fetches[-1].declared.depends
        unfinished = depends["classes"]
        if sorted(classes) != unfinished:
            raise UsageError(
                f"round {depends['round']} is not finished; go on with it first: "
                f"curate retry-failed {prepared.store.url} --class {','.join(unfinished)}"
            )
        return prepared
    newest = fetches[-1].folder
    wanted = {f"error:{name}" for name in classes}
    if not any(wanted.intersection(newest.marker(part).counts) for part in layout.parts if part in done[-1]):
        return None
    record(prepared.store, fetches[0].folder.path, classes)
    return replace(prepared, rounds=recorded(prepared.store))


def gained(prepared: Prepared, options: Options) -> str:
    """What the newest round brought back, in all and by class; in one line."""
    layout = planned(prepared, options)
    assert layout is not None
    newest, total = layout.passes["fetch"].folder, Counter[str]()
    for part in newest.units().intersection(layout.parts):
        total.update(newest.marker(part).counts)
    classes = [name.removeprefix(_TRIED) for name in total if name.startswith(_TRIED)]
    by_class = [
        f"{name} {total[_CAME + name]:,} of {total[_TRIED + name]:,}"
        for name in sorted(classes, key=lambda name: (-total[_TRIED + name], name))
    ]
    said = f"{counted(total['retried'], 'image')} tried again, {total['recovered']:,} came back"
    return ": ".join([said, *([", ".join(by_class)] if by_class else [])])
