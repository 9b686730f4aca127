"""Rounds of fetching: which classes of failures were tried again, in which order (docs/decisions/0005-rounds.md).

A round belongs to the fetch that it follows, by the name of that one's folder. `rounds/0001.json`, … are
created, never replaced, so that every later command sees the same chain.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from curate.errors import UsageError
from curate.store import Store

_FOLDER = "rounds"


@dataclass(frozen=True)
class Round:
    """One round: the folder of the fetch that begins its chain, and the classes that it tries again, sorted."""

    base: str
    classes: tuple[str, ...]


def recorded(store: Store) -> tuple[Round, ...]:
    """All rounds of a run folder, of all its fetches, oldest first."""
    found = (store.read_json(f"{_FOLDER}/{name}") for name in store.names(_FOLDER))
    return tuple(Round(str(content["base"]), tuple(content["classes"])) for content in found)


def record(store: Store, base: str, classes: Sequence[str]) -> Round:
    """Adds a round.

    Raises:
        UsageError: another command added one at this moment.
    """
    added = Round(base, tuple(sorted(classes)))
    name = f"{_FOLDER}/{len(store.names(_FOLDER)) + 1:04d}.json"
    content = json.dumps(asdict(added), sort_keys=True) + "\n"
    if not store.create(name, content.encode()):
        raise UsageError(f"{store.path(name)} was just written by another command; wait for it, then try again")
    return added
