"""What recipe keys are made of: frozen models that refuse unknown keys, and the values that differ from defaults."""

from collections.abc import Set as AbstractSet
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from curate.store import Json

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


class Keys(BaseModel):
    """The keys of one section of a recipe. Every field has a description, which docs/recipes.md repeats."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)

    HOW: ClassVar[frozenset[str]] = frozenset()
    """Keys that say how work is done (how fast, how patiently, on which machine) and not what it gives: they are in no
    fingerprint and on no card."""


def chosen(section: Keys, *, only: AbstractSet[str] | None = None, without: AbstractSet[str] = frozenset()) -> Json:
    """The keys of a section that differ from their defaults, JSON-able: what a fingerprint holds of it.

    A release that adds a key with a default thus changes no fingerprint; one that changes a default raises the version
    of the passes that depend on it.

    Args:
        section: the section.
        only: keys to look at; by default all.
        without: keys to leave out besides the section's `HOW`.
    """
    left_out = {*section.HOW, *without}
    found: Json = section.model_dump(
        mode="json", exclude_defaults=True, include=None if only is None else set(only), exclude=left_out
    )
    return found
