"""What a kind of duplicate is: the contract between the recipe, the search in `dedup` and the step in `select`.

It stands at the top because all three need it and no room may import another: the recipe takes a kind's keys, dedup
searches for its near pairs, select asks from which similarity two images are one and how that is said. The kinds
themselves are modules of `curate.dedup.kinds`, one each; what they search with is loaded when a search is opened.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from curate.keys import Keys
from curate.registry import Registry
from curate.store import Inputs, Json, Outputs

Search = Callable[[Inputs, Path, Outputs], Iterator[pa.Table]]
"""Finds near pairs: from the passes that it reads and an empty local folder, rows of `schema.NEAR` in an order that its
inputs alone decide. Adds counts (`images`, `digests`) and notes to the outputs."""


class DuplicateKind(ABC):
    """What makes two images duplicates: equal digests, in every kind; of a `NearKind` also being near.

    A module of `curate.dedup.kinds` offers one as `KIND`.

    Attributes:
        name: what the recipe says as `by`.
        about: which images are duplicates, for the description of `by`.
        keys: what the recipe says beside `by`; all of them required with this kind, none allowed with others.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    keys: ClassVar[type[Keys]] = Keys

    @abstractmethod
    def words(self, keys: Any) -> str:
        """Which images are duplicates, with the threshold, in a few words; keys are of the class `keys`."""


class NearKind(DuplicateKind):
    """A kind with a similarity, whose near pairs the pass `dedup-<name>` finds from a floor upwards.

    Attributes:
        version: of the search, raised when it would find other pairs in the same inputs.
        section: the keys of the recipe's section `dedup` that are the search's own; no two kinds have one of a name.
        column: a column of pairs that is null where an image cannot be compared.
        measure: what the similarity is, as a noun.
        wants_gpu: whether the search can use one.
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
        """The similarity, as stored in near pairs, from which two images are duplicates."""

    @abstractmethod
    def not_searched(self, keys: Any, dedup: Any) -> str:
        """Why the search would miss pairs that a step asks for, in one line; '' where it does not.

        Args:
            keys: the step's, of the class `keys`.
            dedup: the recipe's section, with the keys of `section`.
        """

    @abstractmethod
    def reads(self, models: Sequence[str]) -> list[str]:
        """The short names of the passes that the search reads; `models` are the recipe's, the first one first."""

    @abstractmethod
    def depends(self, dedup: Any) -> Json:
        """What decides on the pairs that are found besides what is read, of the recipe's section; for a fingerprint."""

    @abstractmethod
    def settings(self, recipe: Any) -> Json:
        """What the search is told, JSON-able; `recipe` is the whole of it (`curate.recipe.Recipe`)."""

    @abstractmethod
    def open(self, settings: Json) -> Search:
        """The search, in a worker.

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
