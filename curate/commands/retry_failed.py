"""`curate retry-failed`: fetches images again that failed with errors that may have passed, in a further round."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from curate.errors import UsageError, counted, nearest
from curate.fetch.passes import unsettled
from curate.layout import planned
from curate.prepare import Prepared, in_silence, prepare
from curate.recipe import Recipe, parse
from curate.runs.options import RECIPE, Options
from curate.runs.retention import released
from curate.runs.retry_rounds import record, recorded
from curate.schema import ERROR_CLASSES
from curate.store import Store

_TRIED, _CAME = "retried:", "recovered:"
"""Prefixes of error classes in the counts of a round's parts."""


def recipe_of(store: Store, overrides: Sequence[str]) -> Recipe:
    """The recipe that a run folder was last run with.

    Raises:
        UsageError: the folder holds no recipe.
    """
    if not store.exists(RECIPE):
        raise UsageError(f"{store.url} is not a Curate run: it has no {RECIPE}")
    return parse({**store.read_json(RECIPE), "output": store.url}, overrides)


def begin(
    loaded: Recipe, classes: Sequence[str], options: Options, *, tell: Callable[[str], None] = in_silence
) -> Prepared | None:
    """Adds a round to a run, or finds the one that has not ended; None where nothing failed in these classes.

    Args:
        loaded: the run's recipe.
        classes: error classes of the images to fetch again.
        options: the command's.
        tell: called with a line while a check takes seconds.

    Raises:
        UsageError: an unknown class, nothing fetched yet, or another round that is not finished.
    """
    for name in classes:
        if name not in ERROR_CLASSES:
            raise UsageError(f"--class {name}: no such class{nearest(name, ERROR_CLASSES)}")
    if loaded.source.kind == "samples":
        raise UsageError(
            f"{loaded.output}: its images were read from samples, not downloaded, and would fail again in the same "
            "way; repair the tars or folders and run them into another output"
        )
    prepared = prepare(loaded, tell=tell)
    layout = planned(prepared, options)
    fetches = list(layout.of("fetch").values()) if layout else []
    done = [fetch.folder.units() for fetch in fetches]
    if layout is None or not any(done):
        raise UsageError(f"{prepared.store.url}: nothing was fetched yet with this recipe; run it first (`curate run`)")
    if (result := released(fetches[-1].folder)) is not None:
        raise UsageError(
            f"{prepared.store.url}: its images were deleted when {result} was packed (keep.images), and a round needs "
            "them: run the recipe into another output"
        )
    # A round can only cover the parts that the round before it has done.
    if len(fetches) > 1 and (
        unsettled(prepared, layout) or not done[-1].issuperset(done[-2].intersection(layout.parts))
    ):
        depends = fetches[-1].declared.depends
        unfinished = depends["classes"]
        if sorted(classes) != unfinished:
            raise UsageError(
                f"round {depends['round']} is not finished; continue it first: "
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
    """One line with the number of images that the newest round recovered, in total and by error class."""
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
    said = f"{counted(total['retried'], 'image')} tried again, {total['recovered']:,} recovered"
    return ": ".join([said, *([", ".join(by_class)] if by_class else [])])
