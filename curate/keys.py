"""The base class of recipe sections, frozen and refusing unknown keys, and types of values with bounds.

Every number has a least and a greatest value, every text and list a greatest length. `tests/test_recipe_bounds.py`
walks the recipe's JSON schema and fails for a key without bounds.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from curate import credentials, locations
from curate.store import Json, absolute

LONGEST_TEXT = 10_000
"""Characters of a text, where its type states no other bound."""


@dataclass(frozen=True)
class Allowed:
    """Adds to a type's JSON schema a description of its values, which errors about a wrong value print."""

    words: str

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> Json:
        """See pydantic: the type's own schema with the words."""
        return {**handler(core_schema), "allowed": self.words}


Name = Annotated[
    str,
    Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=100),
    Allowed("a name of at most 100 lower-case letters, digits and _, the first a letter"),
]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1, le=10**12)]
Seconds = Annotated[float, Field(gt=0, le=31_536_000)]
"""At most a year."""
Text = Annotated[
    str,
    Field(pattern=r"^[^\p{Cc}]*[^\p{Cc}\s][^\p{Cc}]*$", max_length=LONGEST_TEXT),
    Allowed(f"one line of text, of at most {LONGEST_TEXT:,} characters, not blank and without control characters"),
]
Passage = Annotated[
    str,
    Field(pattern=r"^(?:[^\p{Cc}]|[\t\r\n])*[^\p{Cc}\s](?:[^\p{Cc}]|[\t\r\n])*$", max_length=LONGEST_TEXT),
    Allowed(f"text of at most {LONGEST_TEXT:,} characters, not blank, without control characters but ends of lines"),
]
"""A text that may span lines, as a prompt in a YAML block does."""


def _located(value: str) -> str:
    # The validator of credentials has its own message, which does not repeat the value.
    if not credentials.has_user_info(value) and (fault := locations.fault(value)):
        raise ValueError(f"{credentials.shown(value)[:100]!r} {fault}")
    return value


class _IsPlace:
    """Marks a field that holds paths or URLs."""


Place = Annotated[
    str, Field(max_length=4096), AfterValidator(_located), Allowed("a path or a URL of a file or a folder"), _IsPlace
]
OptionalPlace = Annotated[Place | None, _IsPlace]
Places = Annotated[list[Place], Field(max_length=100_000), _IsPlace]
"""Paths or URLs of files, folders or globs."""


class Keys(BaseModel):
    """The keys of one section of a recipe. Every field has a description, which docs/recipes.md repeats."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)

    HOW: ClassVar[frozenset[str]] = frozenset()
    """Keys that set how work is done (speed, patience, machine) but not what it computes; fingerprints and cards leave
    them out."""

    SIGNED: ClassVar[frozenset[str]] = frozenset()
    """Keys whose URLs may have a signature, which is hidden where they are stored or printed (`credentials.shown`)."""

    @field_validator("*", mode="before")
    @classmethod
    def _booleans_are_no_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        entries = value if isinstance(value, list) else [value]
        has_boolean = any(isinstance(entry, bool) for entry in entries)
        if has_boolean and not _takes_booleans(cls.model_fields[str(info.field_name)].annotation):
            raise PydanticCustomError("boolean", "a truth value is not allowed")
        return value

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


def type_of(field: FieldInfo) -> Any:
    """Returns the type of a recipe key with its bounds."""
    return Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation


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


def _takes_booleans(annotation: Any) -> bool:
    """Whether a type, or a type in a union, is bool or anything at all; only such a field may hold a truth value."""
    return annotation in (bool, Any) or any(_takes_booleans(inner) for inner in get_args(annotation))


def _absolute(value: Any, *, is_place: bool) -> Any:
    if isinstance(value, Keys):
        return value.with_absolute_paths()
    if isinstance(value, dict):
        return {name: _absolute(item, is_place=is_place) for name, item in value.items()}
    if isinstance(value, list):
        return [_absolute(item, is_place=is_place) for item in value]
    return absolute(value) if is_place and isinstance(value, str) else value
