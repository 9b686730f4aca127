"""The registry of the kinds of signals, and the scorers that a recipe requests."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from curate.registry import Registry
from curate.signals.contract import Scorer, Signal

KINDS: Registry[Signal[Any]] = Registry(
    "signal",
    Signal,  # type: ignore[type-abstract] # its subclasses' instances are held
    package="curate.signals.kinds",
    attribute="SIGNAL",
    group="curate.signals",
)


def scorers(signals: BaseModel, first_model: str) -> Iterator[Scorer]:
    """Yields every scorer of a recipe: the kinds without keys, which every run has, then the recipe's entries in order.

    Args:
        signals: the recipe's section; it has a field for each kind with keys, a mapping from names to keys.
        first_model: the short name of the model that is read by entries which name none.
    """
    for kind in KINDS.values():
        if kind.keys is None:
            yield Scorer(kind.name, f"signals.{kind.name}", kind, None, None)
    for kind in KINDS.values():
        if kind.keys is None:
            continue
        for name, keys in getattr(signals, kind.name).items():
            model = (keys.model or first_model) if kind.reads_embeddings else None
            yield Scorer(
                f"{kind.prefix}_{name}", f"signals.{kind.name}.{name}", kind, keys, model, KINDS.package(kind.name)
            )
