"""The contract of a kind of duplicate, between the recipe, the search in `dedup` and the step in `select`.

It is a module of the package itself, as all three need it and no room may import another: the recipe takes a kind's
keys, dedup searches for its near pairs, and select takes its threshold and its description. The kinds themselves are
modules of `curate.dedup.kinds`, one each; the libraries of a search are imported when the search is opened.

A search gets the distinct images of a run as blocks of nodes, and finds the near pairs of one tile, a block or two
blocks, at a time. Select and report read the pairs by `curate.near`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from curate.account import Account
from curate.keys import Keys, type_of
from curate.recipe_faults import allowed, shown
from curate.registry import Registry
from curate.store import Inputs, Json

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


EQUAL_BYTES = "equal bytes"
"""Words for how alike two images with one digest are; they are duplicates in every kind."""


@dataclass(frozen=True)
class PartImages:
    """The images of a part that can be compared.

    Args:
        images: image_id and sha256, neither of them null.
        values: [n, …], the value of each that is compared; of one type and shape in all parts.
        unusable: the number of images that were left out because their value cannot be compared.
    """

    images: pa.Table
    values: "npt.NDArray[Any]"
    unusable: int = 0


class Search(Protocol):
    """A search that was opened; sets of values are arrays as in `PartImages`, and may be mapped from files."""

    @property
    def floor(self) -> float:
        """The lowest similarity of a near pair."""

    def near(
        self, left: "npt.NDArray[Any]", right: "npt.NDArray[Any] | None", scratch: Path, account: Account
    ) -> "Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]]":
        """Yields (i, j, similarity) of all near pairs, ascending by (i, j), also from array to array.

        Args:
            left: a set of values.
            right: another set, each of which is paired with each of `left`; None: the pairs i < j of `left`.
            scratch: an empty local folder.
            account: is told what happens to every pair.
        """

    def near_counts(self, values: "npt.NDArray[Any]", sample: "npt.NDArray[Any]") -> "npt.NDArray[np.int64]":
        """Returns about how many of `sample` each of `values` is near, int64 [n]; the same on every machine."""


@dataclass(frozen=True)
class Stored:
    """The form of a kind's values in files that no run wrote, such as those of an evaluation set.

    Attributes:
        column: of a Parquet file, and of the tables of a result.
        digits: the hex digits of a value, which is a hash; 0 where it is a vector of length 1.
    """

    column: str
    digits: int = 0


class DuplicateKind(ABC):
    """A kind of duplicate: images with equal digests are duplicates in every kind, near images in a `NearKind`.

    A module of `curate.dedup.kinds` offers one as `KIND`.

    Attributes:
        name: the value of `by` in the recipe; without `-`.
        about: which images are duplicates, for the description of `by`.
        keys: the step's keys besides `by`; those without a default are required with this kind, and none is allowed
            with a kind that does not have it.
        stored: how values are written in the files of a set (`against` in the recipe); None where no set has any.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    keys: ClassVar[type[Keys]] = Keys
    stored: ClassVar[Stored | None] = None

    def check_key(self, key: str, value: Any) -> None:
        """Checks a value against the bounds of this kind; another kind may have a key of that name with other bounds.

        Raises:
            ValueError: this kind has the key, and does not take the value.
        """
        if field := self.keys.model_fields.get(key):
            taken: TypeAdapter[Any] = TypeAdapter(type_of(field))
            try:
                taken.validate_python(value)
            except ValidationError:
                schema = taken.json_schema()
                raise ValueError(f"{shown(value)} is not allowed; write {allowed(schema, schema)}") from None

    @abstractmethod
    def words(self, keys: Any) -> str:
        """A short description of which images are duplicates, with the threshold; `keys` are of the class `keys`."""

    def likeness(self, similarity: float) -> str:
        """Words for how alike two images are, from their similarity as decisions and near pairs store it."""
        del similarity
        return EQUAL_BYTES


@dataclass(frozen=True)
class NearKind(DuplicateKind):
    """A kind with a similarity; the pass `dedup-<search name>` finds its near pairs at or above a floor.

    The pass `nodes-<search name>` gathers the values that are compared, one for each distinct image.

    A kind that compares embeddings has the key `model`: each model that a step names is a search of its own, by a
    copy of the kind with that model. A step that names the recipe's first model is read as one that names none.

    Attributes:
        model: short name of the model whose embeddings are compared; None: the first one, or the kind reads no model.
        version: of the search, raised when it would find other pairs in the same inputs, or store them otherwise.
        section: the search's own keys in the recipe's section `dedup`; two kinds must not have a key of one name.
        block_rows: images in a block, about: what a tile's memory allows.
        column: a column of pairs that is null where an image cannot be compared.
        measure: a noun for the similarity.
        left_out: why an image cannot be compared.
        wants_gpu: whether the search can use a GPU.
        reads_texts: whether it compares embeddings of captions, which a model without a text tower does not give.
    """

    model: str | None = None
    version: ClassVar[int] = 2
    section: ClassVar[type[Keys]]
    block_rows: ClassVar[int]
    column: ClassVar[str]
    measure: ClassVar[str]
    left_out: ClassVar[str] = "no value"
    wants_gpu: ClassVar[bool] = False
    reads_texts: ClassVar[bool] = False

    def likeness(self, similarity: float) -> str:
        """See `DuplicateKind`: the similarity and its name, such as `cosine 0.9731`."""
        return f"{self.measure} {_rounded_down(similarity)}"

    @property
    def search_name(self) -> str:
        """The name of its search: that of the kind, followed by `-` and the model where it names one."""
        return f"{self.name}-{self.model}" if self.model else self.name

    @property
    def search_pass(self) -> str:
        """The short name of the pass that searches."""
        return f"dedup-{self.search_name}"

    @property
    def nodes_pass(self) -> str:
        """The short name of the pass that gathers nodes."""
        return f"nodes-{self.search_name}"

    def check_section(self, dedup: Any, models: Sequence[str]) -> None:
        """Checks the keys of its search against the recipe's models; called once per recipe.

        Args:
            dedup: the recipe's section, with the keys of `section`.
            models: the short names of the recipe's models, the first one first.

        Raises:
            ValueError: a key names no model of the recipe; one line, which names the key.
        """

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
        """The short names of the passes whose values are compared; `models` are the recipe's, the first one first."""

    def gathers(self, dedup: Any) -> Json:
        """The keys of the recipe's section that determine which images are compared; part of the nodes' fingerprint."""
        del dedup
        return {}

    @abstractmethod
    def depends(self, dedup: Any) -> Json:
        """The keys of the recipe's section that determine which pairs are found; part of the search's fingerprint."""

    @abstractmethod
    def settings(self, recipe: Any) -> Json:
        """The settings of the search, JSON-able; `recipe` is the whole recipe (`curate.recipe.Recipe`)."""

    @abstractmethod
    def images(self, inputs: Inputs, part: int, settings: Json) -> PartImages:
        """Reads the images of a part, in a worker.

        Raises:
            BrokenResult: the tables of the part do not belong together.
        """

    @abstractmethod
    def similarities(self, left: "npt.NDArray[Any]", right: "npt.NDArray[Any]") -> "npt.NDArray[Any]":
        """Returns the similarity of each of `left` and each of `right`, float64 [n, m], computed without any bound."""

    def reach(self, left: "npt.NDArray[Any]", right: "npt.NDArray[Any]", least: float) -> "npt.NDArray[np.bool_]":
        """Returns whether the similarity of each of `left` and each of `right` is at least `least`, bool [n, m]."""
        reached: npt.NDArray[np.bool_] = self.similarities(left, right) >= least
        return reached

    @abstractmethod
    def each_similarity(self, left: "npt.NDArray[Any]", right: "npt.NDArray[Any]") -> "npt.NDArray[Any]":
        """Returns the similarity of left[k] and right[k] for each k, float64 [n]; as `similarities` would."""

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


def of_search(search_name: str) -> DuplicateKind | None:
    """Returns the kind of a search, with its model (`NearKind.search_name`), or None where it is not installed here."""
    name, _, model = search_name.partition("-")
    kind = KINDS.get(name)
    return replace(kind, model=model) if model and isinstance(kind, NearKind) else kind


def likeness(step: Mapping[str, Any], similarity: float | None) -> str:
    """Words for how alike a dropped pair's image and that of the kept pair are, such as `7 of 64 bits differ`.

    Args:
        step: the facts of the step that dropped it, as in `funnel.json`, or those of a search (`searches_of`).
        similarity: as in decisions; None where the step of another package gives none.
    """
    if similarity is None:
        return ""
    # Where images are near by several searches, the similarity is that of the first.
    facts = next(iter(searches_of(step)), step)
    kind = of_search(str(facts.get("by")))
    return f"similarity {_rounded_down(similarity)}" if kind is None else kind.likeness(similarity)


def _rounded_down(similarity: float) -> str:
    """Returns a similarity with four decimals, never as a higher one: a pair just below 0.95 does not print 0.9500."""
    return str(Decimal(repr(float(similarity))).quantize(Decimal("0.0001"), ROUND_FLOOR))


def searches_of(step: Mapping[str, Any]) -> list[Json]:
    """Returns the facts of each search whose near pairs a step reads (`searches` in `curate.select.funnel.FACTS`).

    Args:
        step: of `funnel.json`.
    """
    if "searches" in step:
        return list(step["searches"])
    # A funnel.json from before steps by several kinds: the step itself has the facts of its one search.
    names = ("by", "near", "measure", "threshold", "searched")
    return [{name: step[name] for name in names}] if step.get("near") else []
