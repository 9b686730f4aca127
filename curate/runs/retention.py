"""The stored images once a result is packed: kept, or deleted where the recipe says `keep: {images: until_pack}`.

`released.json` in a folder of fetch says that its tars are deleted or about to be, and after which result. The tables
about the images stay, so decisions can be made again; what reads images cannot run again in this output.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from curate.errors import RecipeError, counted
from curate.runs.options import Options
from curate.runs.passes import Layout, Pass
from curate.store import Folder, Json
from curate.summaries import done, markers

ROLE = "images.tar"
_FILE = "released.json"
_READERS = ("embed", "pack", "report")
"""The stages whose passes open stored images, where they read fetch at all."""

_AT_ONCE = 16
"""Files that are deleted at the same time."""

NOTICE = (
    "keep.images is until_pack: once the result is packed, the stored images are deleted; after that, a new model, "
    "pixel scorer or result, and retry-failed, need a fetch into another output"
)


def released(folder: Folder) -> str | None:
    """Returns the result after which the images of a folder of fetch were deleted; None where they are kept."""
    recorded = _recorded(folder)
    return str(recorded["result"]) if recorded else None


def check(layout: Layout, options: Options) -> None:
    """Raises RecipeError where passes that are not done would read images that were deleted."""
    newest = layout.passes["fetch"].folder
    result = released(newest)
    if result is None:
        return
    waiting = [
        name
        for name, pass_ in layout.passes.items()
        if pass_.declared.stage in _READERS and options.reaches(pass_.declared.stage)
        if "fetch" in pass_.declared.reads and not _is_done(pass_, layout)
    ]
    if waiting:
        raise RecipeError(
            f"keep.images: the images of {newest.store.path(newest.path)} were deleted when {result} was packed, and "
            f"{', '.join(waiting)} would have to read them: run this recipe into another output, or only decide "
            "(`--until select`)"
        )


def is_pending(images: str, layout: Layout) -> bool:
    """Whether images go once this run's result is packed (the recipe's `keep.images`), and have not gone yet."""
    if images == "all" or layout.sample:
        return False
    return any(not (_recorded(folder) or {}).get("complete") for folder in _folders(layout))


def release(layout: Layout) -> str:
    """Deletes the images of a run whose result is finished; returns one line about it.

    Where parts are set aside, all images stay: these parts can still be done, and then everything is packed again.
    """
    if layout.missing:
        return f"the stored images are kept, as {counted(len(layout.missing), 'part')} may still be done"
    result = layout.passes["pack"].folder.path
    files, size = 0, 0
    for folder in _folders(layout):
        store, name = folder.store, f"{folder.path}/{_FILE}"
        # Before the first deletion, so that no later start takes the missing files for a fault.
        store.put_json(name, {"result": result, "complete": False})
        tars = list(_tars(folder))
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(store.delete, (tar for tar, _ in tars)))
        store.put_json(name, {"result": result, "complete": True})
        files, size = files + len(tars), size + sum(length for _, length in tars)
    return f"deleted the stored images, as keep.images says: {counted(files, 'file')}, {size / 1e6:,.1f} MB"


def _folders(layout: Layout) -> Iterator[Folder]:
    """The folders of the first fetch and of all rounds: each round holds copies of the images of the round before."""
    return (pass_.folder for pass_ in layout.of("fetch").values())


def _recorded(folder: Folder) -> Json | None:
    name = f"{folder.path}/{_FILE}"
    return folder.store.read_json(name) if folder.store.exists(name) else None


def _tars(folder: Folder) -> Iterator[tuple[str, int]]:
    for _, marker in markers(folder, sorted(folder.units())):
        info = marker.files[ROLE]
        yield f"{folder.path}/{info.name}", info.bytes


def _is_done(pass_: Pass, layout: Layout) -> bool:
    if pass_.declared.by_part:
        return done(pass_.folder, layout.parts) == set(layout.parts)
    return pass_.folder.is_done()
