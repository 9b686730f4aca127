"""The identity of a run: claims an output folder for one source, and describes how two identities differ."""

from collections.abc import Callable, Sequence

from curate.checksums import json_bytes
from curate.errors import BrokenResult, IdentityError, counted
from curate.store import Json, Store

NAME = "run.json"


def placeless(identity: Json) -> Json:
    """Returns an identity without the paths of its files, which are identified by name, size and content.

    A file without a name, as an earlier release wrote it, keeps its path.
    """
    source = [
        {key: value for key, value in file.items() if key != "path" or "name" not in file}
        for file in identity.get("source", [])
    ]
    return {**identity, "source": source}


def stored(store: Store) -> Json:
    """Returns the identity of the run in a folder.

    Raises:
        FileNotFoundError: there is none.
        BrokenResult: run.json is damaged.
    """
    try:
        return store.read_json(NAME)
    except BrokenResult as error:
        raise BrokenResult(f"{error}; delete it and run the recipe again") from error


def claim(store: Store, identity: Json, as_now: Callable[[Json], Json] = lambda stored: stored) -> None:
    """Claims the output folder for this run, or checks that this run has claimed it; called once the plan is done.

    `run.json` is created and never replaced. Where several drivers with different sources have planned, each in a plan
    folder of its own, only one can claim the output; a driver that died before this point has not claimed it.

    Args:
        store: the output folder.
        identity: the identity of this run.
        as_now: converts a stored identity, which an earlier release may have written, to the form of this release.

    Raises:
        IdentityError: the folder holds a run with another identity; the message names what differs.
    """
    content = json_bytes(identity, indent=1)
    check_identity(store, identity, as_now)
    if not store.exists(NAME) and not store.create(NAME, content):
        check_identity(store, identity, as_now)


def check_identity(store: Store, identity: Json, as_now: Callable[[Json], Json] = lambda stored: stored) -> None:
    """Raises IdentityError where the folder holds another run; writes nothing. Arguments as for `claim`."""
    if not store.exists(NAME):
        return
    if differing := difference(as_now(stored(store)), identity):
        raise IdentityError(f"{store.url} holds a run with {differing}")


def difference(present: Json, given: Json) -> str:
    """Returns one line that names what differs and what to do about it; empty where the identities are equal.

    Args:
        present: the identity of the run in the folder.
        given: the identity of the requested run.
    """
    now, before = placeless(given), placeless(present)
    differs = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    if not differs:
        return ""
    changed = _changed(present["source"], given["source"]) if differs == ["source"] else ""
    then = f": {changed}; choose another output, or restore the file" if changed else ""
    return f"another {', '.join(differs)}" + (then or "; choose another output, or restore the recipe's earlier values")


def _changed(present: Sequence[Json], given: Sequence[Json]) -> str:
    """Describes the first changed file and counts the others; empty where the recipe names other files than before."""
    if [file.get("name", file["path"]) for file in present] != [file.get("name", file["path"]) for file in given]:
        return ""
    pairs = [
        (before, now)
        for before, now in zip(present, given, strict=True)
        if any(before[key] != now[key] for key in ("size", "etag"))
    ]
    before, now = pairs[0]
    size = f"{before['size']:,} -> {now['size']:,} bytes"
    if before["size"] == now["size"]:
        size = f"other content in {counted(now['size'], 'byte')}"
    others = f"; so did {counted(len(pairs) - 1, 'other')}" if pairs[1:] else ""
    return f"{now['path']} changed since this run began ({size}){others}"
