"""How two identities of a run differ, in words: a recipe that names another source, or a source that changed."""

from collections.abc import Sequence

from curate.errors import counted
from curate.store import Json


def difference(present: Json, given: Json) -> str:
    """What differs and what to do about it; empty where nothing does.

    Args:
        present: of the run that a folder holds.
        given: of the run that is asked for.
    """
    differs = sorted(name for name in {*present, *given} if present.get(name) != given.get(name))
    if not differs:
        return ""
    changed = _changed(present["source"], given["source"]) if differs == ["source"] else ""
    then = f": {changed}; choose another output, or put back what it was" if changed else ""
    return f"another {', '.join(differs)}" + (then or "; choose another output, or put back what the recipe said")


def _changed(present: Sequence[Json], given: Sequence[Json]) -> str:
    """Which files are no longer what they were, where the recipe names the same ones."""
    if [file["path"] for file in present] != [file["path"] for file in given]:
        return ""
    pairs = [(before, now) for before, now in zip(present, given, strict=True) if before != now]
    before, now = pairs[0]
    size = f"{before['size']:,} -> {now['size']:,} bytes"
    if before["size"] == now["size"]:
        size = f"other content in {counted(now['size'], 'byte')}"
    others = f"; so did {counted(len(pairs) - 1, 'other')}" if pairs[1:] else ""
    return f"{now['path']} changed since this run began ({size}){others}"
