"""The scorers: which there are, their versions and the columns that they give."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from curate.errors import RecipeError, nearest
from curate.signals import caption, classes, concept, head, target
from curate.signals.task import Task

Columns = Mapping[str, pa.DataType]


@dataclass(frozen=True)
class Scorer:
    """A way to make columns.

    Attributes:
        version: to be raised whenever it would give other values; it is part of the column's fingerprint.
        columns: what it gives, from its name and parameters.
        score: computes them, row for row with the task's pairs.
    """

    version: int
    columns: Callable[[str, Mapping[str, Any]], Columns]
    score: Callable[[Task], Mapping[str, pa.Array]]


SCORERS: Mapping[str, Scorer] = {
    "caption": Scorer(caption.VERSION, lambda _name, _params: caption.COLUMNS, caption.score),
    "concept_": Scorer(concept.VERSION, concept.columns, concept.score),
    "class_": Scorer(classes.VERSION, classes.columns, classes.score),
    "head_": Scorer(head.VERSION, head.columns, head.score),
    "target_": Scorer(target.VERSION, target.columns, target.score),
}
"""By name; one that ends in `_` stands for all names that begin so."""


def find(name: str) -> Scorer:
    """The scorer of that name. Raises RecipeError, naming the nearest."""
    for known, scorer in SCORERS.items():
        is_family = known.endswith("_")
        if (is_family and name.startswith(known) and name != known) or (not is_family and name == known):
            return scorer
    raise RecipeError(f"there is no signal {name!r}{nearest(name, SCORERS)}")


def columns(scorer: str, params: Mapping[str, Any]) -> dict[str, pa.DataType]:
    """The columns of a scorer (`caption`, `concept_watermark`) and their types, in their order."""
    return dict(find(scorer).columns(scorer, params))


def version(scorer: str) -> int:
    """The version of a scorer, for the fingerprint of its columns."""
    return find(scorer).version
