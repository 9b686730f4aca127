"""The identity of a run: claims an output folder for one source, and says how two identities differ."""

import json
from collections.abc import Callable, Sequence

from curate.errors import IdentityError, counted
from curate.store import Json, Store


def placeless(identity: Json) -> Json:
    """An identity without the folders in which its source lies: files are known by name, size and content.

    Of an identity that an earlier release wrote, files without a name keep their paths.
    """
    source = [
        {key: value for key, value in file.items() if key != "path" or "name" not in file}
        for file in identity.get("source", [])
    ]
    return {**identity, "source": source}


def claim(store: Store, identity: Json, as_now: Callable[[Json], Json] = lambda stored: stored) -> None:
    """Makes the output folder this run's, or finds that it already is; its plan has to be done.

    `run.json` is created and never replaced: of several drivers with different sources, each of which planned in a
    folder of its own, one wins, and one that died before it got here left the folder to whoever comes next.

    Args:
        store: the output folder.
        identity: this run's.
        as_now: how a stored identity, which an earlier release may have written, is written today.

    Raises:
        IdentityError: the folder holds a run with another identity; names what differs.
    """
    stored = (json.dumps(identity, sort_keys=True, indent=1) + "\n").encode()
    check_identity(store, identity, as_now)
    if not store.exists("run.json") and not store.create("run.json", stored):
        check_identity(store, identity, as_now)


def check_identity(store: Store, identity: Json, as_now: Callable[[Json], Json] = lambda stored: stored) -> None:
    """Raises IdentityError where the folder holds another run; writes nothing. Arguments as for `claim`."""
    if not store.exists("run.json"):
        return
    if said := difference(as_now(store.read_json("run.json")), identity):
        raise IdentityError(f"{store.url} holds a run with {said}")


def difference(present: Json, given: Json) -> str:
    """What differs and what to do about it; empty where nothing does.

    Args:
        present: of the run that a folder holds.
        given: of the run that is asked for.
    """
    now, before = placeless(given), placeless(present)
    differs = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    if not differs:
        return ""
    changed = _changed(present["source"], given["source"]) if differs == ["source"] else ""
    then = f": {changed}; choose another output, or put back what it was" if changed else ""
    return f"another {', '.join(differs)}" + (then or "; choose another output, or put back what the recipe said")


def _changed(present: Sequence[Json], given: Sequence[Json]) -> str:
    """Which files are no longer what they were, where the recipe names the same ones."""
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
