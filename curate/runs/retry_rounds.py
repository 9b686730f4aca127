"""Rounds of fetching: the error classes that each round fetched again, in order (docs/decisions/0005-rounds.md).

A round names the folder of the fetch that its chain began with. `rounds/0001.json`, … are created and never replaced,
so that every later command sees the same chain. When a round has ended, `rounds/settled/0001.json` is created and
records the number of recovered images; later passes do not read a round that recovered none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from curate.checksums import json_bytes
from curate.errors import UsageError
from curate.store import Json, Store

FOLDER, _SETTLED = "rounds", "rounds/settled"


@dataclass(frozen=True)
class Round:
    """One round.

    Attributes:
        base: the folder of the fetch that its chain began with.
        classes: the error classes that it fetches again, sorted.
        name: the name of its file.
        recovered: the number of images that it fetched; None before the round has ended.
    """

    base: str
    classes: tuple[str, ...]
    name: str
    recovered: int | None = None


def recorded(store: Store) -> tuple[Round, ...]:
    """All rounds of a run folder, of all its fetches, oldest first."""
    ended = _settled(store)
    found = {name: store.read_json(f"{FOLDER}/{name}") for name in store.names(FOLDER)}
    return tuple(
        Round(str(content["base"]), tuple(content["classes"]), name, ended.get(name, {}).get("recovered"))
        for name, content in found.items()
    )


def record(store: Store, base: str, classes: Sequence[str]) -> Round:
    """Adds a round.

    Raises:
        UsageError: another command added a round at the same time.
    """
    added = Round(base, tuple(sorted(classes)), f"{len(store.names(FOLDER)) + 1:04d}.json")
    name = f"{FOLDER}/{added.name}"
    if not store.create(name, _text({"base": base, "classes": added.classes})):
        raise UsageError(f"{store.path(name)} was just written by another command; wait for it, then try again")
    return added


def settle(store: Store, ended: Round, folder: str, recovered: int) -> None:
    """Records that a round has ended, and the number of images that it recovered.

    Args:
        store: the run's root.
        ended: the round.
        folder: its folder.
        recovered: the number of recovered images.
    """
    store.create(f"{_SETTLED}/{ended.name}", _text({"folder": folder, "recovered": recovered}))


def without_gain(store: Store) -> set[str]:
    """The folders of the rounds that recovered no image."""
    return {str(content["folder"]) for content in _settled(store).values() if not content["recovered"]}


def _settled(store: Store) -> dict[str, Json]:
    return {name: store.read_json(f"{_SETTLED}/{name}") for name in store.names(_SETTLED)}


def _text(content: Json) -> bytes:
    return json_bytes(content)
