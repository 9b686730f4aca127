"""The contract of a kind of duplicate, between the recipe, the search in `dedup` and the step in `select`.

It is a module of the package itself, as all three need it and no room may import another: the recipe takes a kind's
keys, dedup searches for its near pairs, and select takes its threshold and its description. The kinds themselves are
modules of `curate.dedup.kinds`, one each; the libraries of a search are imported when the search is opened.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from curate.keys import Keys
from curate.recipe_faults import allowed, shown
from curate.registry import Registry
from curate.store import Inputs, Json, Outputs

Search = Callable[[Inputs, Path, Outputs], Iterator[pa.Table]]
"""Finds near pairs: takes the passes that it reads and an empty local folder; yields rows of `schema.NEAR`, in an order
that depends on its inputs alone. Adds counts (`images`, `digests`) and notes to the outputs."""


class DuplicateKind(ABC):
    """A kind of duplicate: images with equal digests are duplicates in every kind, near images in a `NearKind`.

    A module of `curate.dedup.kinds` offers one as `KIND`.

    Attributes:
        name: the value of `by` in the recipe.
        about: which images are duplicates, for the description of `by`.
        keys: the step's keys besides `by`; all of them are required with this kind, and none is allowed with others.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    keys: ClassVar[type[Keys]] = Keys

    def check_key(self, key: str, value: Any) -> None:
        """Checks a value against the bounds of this kind; another kind may have a key of that name with other bounds.

        Raises:
            ValueError: this kind has the key, and does not take the value.
        """
        if field := self.keys.model_fields.get(key):
            annotated: Any = Annotated[field.annotation, *field.metadata]
            taken: TypeAdapter[Any] = TypeAdapter(annotated)
            try:
                taken.validate_python(value)
            except ValidationError:
                schema = taken.json_schema()
                raise ValueError(f"{shown(value)} is not allowed; write {allowed(schema, schema)}") from None

    @abstractmethod
    def words(self, keys: Any) -> str:
        """A short description of which images are duplicates, with the threshold; `keys` are of the class `keys`."""


class NearKind(DuplicateKind):
    """A kind with a similarity; the pass `dedup-<name>` finds its near pairs at or above a floor.

    Attributes:
        version: of the search, raised when it would find other pairs in the same inputs.
        section: the search's own keys in the recipe's section `dedup`; two kinds must not have a key of one name.
        column: a column of pairs that is null where an image cannot be compared.
        measure: a noun for the similarity.
        wants_gpu: whether the search can use a GPU.
    """

    version: ClassVar[int] = 1
    section: ClassVar[type[Keys]]
    column: ClassVar[str]
    measure: ClassVar[str]
    wants_gpu: ClassVar[bool] = False

    @property
    def search_pass(self) -> str:
        """The short name of the pass that searches."""
        return f"dedup-{self.name}"

    @abstractmethod
    def threshold(self, keys: Any) -> float:
        """The similarity, as stored in near pairs, at or above which two images are duplicates."""

    @abstractmethod
    def not_searched(self, keys: Any, dedup: Any) -> str:
        """One line that says why the search would miss pairs that a step needs; '' where it would not.

        Args:
            keys: the step's, of the class `keys`.
            dedup: the recipe's section, with the keys of `section`.
        """

    @abstractmethod
    def reads(self, models: Sequence[str]) -> list[str]:
        """The short names of the passes that the search reads; `models` are the recipe's, the first one first."""

    @abstractmethod
    def depends(self, dedup: Any) -> Json:
        """The keys of the recipe's section that determine which pairs are found; part of the search's fingerprint."""

    @abstractmethod
    def settings(self, recipe: Any) -> Json:
        """The settings of the search, JSON-able; `recipe` is the whole recipe (`curate.recipe.Recipe`)."""

    @abstractmethod
    def open(self, settings: Json) -> Search:
        """Opens the search, in a worker.

        Raises:
            UsageError: this machine does not have the device that the settings name.
        """


KINDS: Registry[DuplicateKind] = Registry(
    "kind of duplicate",
    DuplicateKind,  # type: ignore[type-abstract] # its subclasses' instances are held
    package="curate.dedup.kinds",
    attribute="KIND",
)


def near_kinds() -> Iterator[NearKind]:
    """The kinds that have a search."""
    return (kind for kind in KINDS.values() if isinstance(kind, NearKind))
