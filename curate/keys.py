"""The base class of recipe sections, frozen and refusing unknown keys, and the keys that differ from their defaults."""

from collections.abc import Set as AbstractSet
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from curate import credentials
from curate.store import Json, absolute

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


class _IsPlace:
    """Marks a field that holds paths or URLs."""


Place = Annotated[str, _IsPlace]
OptionalPlace = Annotated[str | None, _IsPlace]
Places = Annotated[list[str], _IsPlace]
"""Paths or URLs of files, folders or globs."""


class Keys(BaseModel):
    """The keys of one section of a recipe. Every field has a description, which docs/recipes.md repeats."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)

    HOW: ClassVar[frozenset[str]] = frozenset()
    """Keys that set how work is done (speed, patience, machine) but not what it computes; fingerprints and cards leave
    them out."""

    SIGNED: ClassVar[frozenset[str]] = frozenset()
    """Keys whose URLs may have a signature, which is hidden where they are stored or printed (`credentials.shown`)."""

    @field_validator("*")
    @classmethod
    def _without_credentials(cls, value: Any, info: ValidationInfo) -> Any:
        if fault := credentials.fault(value, may_be_signed=info.field_name in cls.SIGNED):
            raise ValueError(fault)
        return value

    def with_absolute_paths(self) -> Self:
        """Returns a copy with local paths (`Place`, `OptionalPlace`, `Places`) made absolute, in nested keys, too."""
        fields = type(self).model_fields.items()
        update = {name: _absolute(getattr(self, name), is_place=_IsPlace in field.metadata) for name, field in fields}
        return self.model_copy(update=update)


def chosen(section: Keys, *, only: AbstractSet[str] | None = None, without: AbstractSet[str] = frozenset()) -> Json:
    """Returns the keys of a section that differ from their defaults, JSON-able: the section's part of a fingerprint.

    So a release that adds a key with a default changes no fingerprint. A release that changes a default raises the
    version of the passes that depend on it.

    Args:
        section: the section.
        only: keys to consider; by default all.
        without: keys to leave out besides the section's `HOW`.
    """
    left_out = {*section.HOW, *without}
    differing: Json = section.model_dump(
        mode="json", exclude_defaults=True, include=None if only is None else set(only), exclude=left_out
    )
    return differing


def _absolute(value: Any, *, is_place: bool) -> Any:
    if isinstance(value, Keys):
        return value.with_absolute_paths()
    if isinstance(value, dict):
        return {name: _absolute(item, is_place=is_place) for name, item in value.items()}
    if isinstance(value, list):
        return [_absolute(item, is_place=is_place) for item in value]
    return absolute(value) if is_place and isinstance(value, str) else value
