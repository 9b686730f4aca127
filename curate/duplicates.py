"""The contract of a kind of duplicate, between the recipe, the search in `dedup` and the step in `select`.

It is a module of the package itself, as all three need it and no room may import another: the recipe takes a kind's
keys, dedup searches for its near pairs, and select takes its threshold and its description. The kinds themselves are
modules of `curate.dedup.kinds`, one each; the libraries of a search are imported when the search is opened.

A search gets the distinct images, or captions, of a run as blocks of nodes, and finds the near pairs of one tile, a
block or two blocks, at a time. Select and report read the pairs by `curate.near`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from curate.account import Account
from curate.captions import caption_digests, normal_form_digests
from curate.keys import Keys, type_of
from curate.recipe_faults import allowed, shown
from curate.registry import Registry
from curate.store import Inputs, Json

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class Compared:
    """The image or the caption of a pair, as a kind compares it. Equal ones, by digest, are one node of a search.

    Attributes:
        name: of the thing, without white space.
        noun: a word for the thing, in the singular; its plural has an s.
        column: the column of pairs, text, from which the digest is computed.
        equal: words for how alike two pairs with equal digests are; they are duplicates in every kind that compares it.
        digests: computes the digests, 64 hex digits each, null where the column is; None: the column holds them.
    """

    name: str
    noun: str
    column: str
    equal: str
    digests: Callable[[pa.ChunkedArray], pa.Array] | None = None

    @property
    def sql(self) -> str:
        """The digest in SQL; `curate.select.database` registers a function for each thing with `digests`."""
        return self.column if self.digests is None else f"digest_of_{self.name}({self.column})"

    def digests_of(self, column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
        """Returns the digests of the rows of a column."""
        return column if self.digests is None else self.digests(column)


IMAGE = Compared("image", "image", "sha256", "equal bytes")
CAPTION = Compared("caption", "caption", "caption", "equal captions", caption_digests)
NORMAL_CAPTION = Compared(
    "normal_caption", "caption", "caption", "equal captions after normalisation", normal_form_digests
)

COMPARED = (IMAGE, CAPTION, NORMAL_CAPTION)
"""All things that kinds of duplicates compare."""


def compared_of(search: Mapping[str, Any]) -> Compared:
    """Returns what a search compares, from its facts in `funnel.json` (`searches_of`)."""
    # A funnel.json from before kinds that compare captions does not name it.
    name = search.get("compares", IMAGE.name)
    return next(one for one in COMPARED if one.name == name)


@dataclass(frozen=True)
class PartValues:
    """The images or captions of a part that a search can compare, not necessarily distinct.

    Args:
        digests: of what is compared (`Compared`), 64 hex digits, not null.
        ids: binary(16), the id of the image or pair to which each belongs; not null. Of equal digests, the value with
            the smallest id is compared.
        values: [n, …], the value of each that is compared; of one type and shape in all parts.
        unusable: the number that was left out because their value cannot be compared.
    """

    digests: pa.Array | pa.ChunkedArray
    ids: pa.Array | pa.ChunkedArray
    values: "npt.NDArray[Any]"
    unusable: int = 0


class Search(Protocol):
    """A search that was opened; sets of values are arrays as in `PartValues`, and may be mapped from files."""

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
    """A kind of duplicate: pairs with equal digests of what it compares are duplicates, in a `NearKind` also near ones.

    A module of `curate.dedup.kinds` offers one as `KIND`.

    Attributes:
        name: the value of `by` in the recipe; without `-`.
        about: which pairs are duplicates, for the description of `by`.
        compares: the images of pairs, or their captions.
        keys: the step's keys besides `by`; those without a default are required with this kind, and none is allowed
            with a kind that does not have it.
        stored: how values are written in the files of a set (`against` in the recipe); None where no set has any.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    compares: ClassVar[Compared] = IMAGE
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

    @property
    def full_name(self) -> str:
        """The name by which passes and facts of steps name it."""
        return self.name

    @abstractmethod
    def words(self, keys: Any) -> str:
        """A short description of which pairs are duplicates, with the threshold; `keys` are of the class `keys`."""

    def likeness(self, similarity: float) -> str:
        """Words for how alike two pairs are, from their similarity as decisions and near pairs store it."""
        del similarity
        return self.compares.equal


@dataclass(frozen=True)
class NearKind(DuplicateKind):
    """A kind with a similarity; the pass `dedup-<search name>` finds its near pairs at or above a floor.

    The pass `nodes-<search name>` gathers the values that are compared, one for each distinct image or caption.

    A kind that compares embeddings has the key `model`: each model that a step names is a search of its own, by a
    copy of the kind with that model. A step that names the recipe's first model is read as one that names none.

    Attributes:
        model: short name of the model whose embeddings are compared; None: the first one, or the kind reads no model.
        version: of the search, raised when it would find other pairs in the same inputs, or store them otherwise.
        section: the search's own keys in the recipe's section `dedup`; two kinds must not have a key of one name.
        block_rows: nodes in a block, about: what a tile's memory allows.
        column: a column of pairs that is null where a pair cannot be compared.
        measure: a noun for the similarity.
        left_out: why an image or caption cannot be compared.
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
    def full_name(self) -> str:
        """See `DuplicateKind`: followed by `-` and the model where it names one."""
        return f"{self.name}-{self.model}" if self.model else self.name

    @property
    def search_pass(self) -> str:
        """The short name of the pass that searches."""
        return f"dedup-{self.full_name}"

    @property
    def nodes_pass(self) -> str:
        """The short name of the pass that gathers nodes."""
        return f"nodes-{self.full_name}"

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
        """The similarity, as stored in near pairs, at or above which two pairs are duplicates."""

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
        """The keys of the recipe's section that determine what is compared; part of the nodes' fingerprint."""
        del dedup
        return {}

    @abstractmethod
    def depends(self, dedup: Any) -> Json:
        """The keys of the recipe's section that determine which pairs are found; part of the search's fingerprint."""

    @abstractmethod
    def settings(self, recipe: Any) -> Json:
        """The settings of the search, JSON-able; `recipe` is the whole recipe (`curate.recipe.Recipe`)."""

    @abstractmethod
    def values(self, inputs: Inputs, part: int, settings: Json) -> PartValues:
        """Reads the values of a part, in a worker.

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


def kind_named(full_name: str) -> DuplicateKind | None:
    """Returns the kind of a full name, with its model, or None where it is not installed here."""
    name, _, model = full_name.partition("-")
    kind = KINDS.get(name)
    return replace(kind, model=model) if model and isinstance(kind, NearKind) else kind


def likeness(
    step: Mapping[str, Any],
    similarity: float | None,
    dropped: Mapping[str, Any] | None = None,
    kept: Mapping[str, Any] | None = None,
) -> str:
    """Words for how alike two pairs are, such as `7 of 64 bits differ`.

    Args:
        step: the facts of the step that dropped one of them, as in `funnel.json`, or those of a search (`searches_of`).
        similarity: as in decisions; None where the step of another package gives none.
        dropped: the columns of `compared_columns` of the dropped pair; None where the two are known not to be equal.
        kept: likewise of the kept pair.
    """
    if similarity is None:
        return ""
    # Where a step has several searches, the similarity is that of the first; where it has none, all is equal.
    searches = searches_of(step)
    kinds = [kind_named(name) for name in ([search["by"] for search in searches[:1]] or kinds_of(step))]
    if not searches and kinds and all(kinds):
        return ", ".join(kind.likeness(similarity) for kind in kinds if kind)
    kind = kinds[0] if kinds else None
    compares = kind.compares if kind else IMAGE
    if dropped is not None and kept is not None and _are_equal(compares, dropped, kept):
        return compares.equal
    return kind.likeness(similarity) if kind else f"similarity {_rounded_down(similarity)}"


def kinds_of(step: Mapping[str, Any]) -> list[str]:
    """Returns the kinds by all of which pairs are duplicates for a step of `funnel.json`; empty if unknown."""
    if step.get("kinds"):
        return list(step["kinds"])
    # A funnel.json from before kinds that compare captions: they are those of the searches, or the single one.
    names = [search["by"] for search in searches_of(step)] or [step.get("by")]
    return [str(name) for name in names if name]


def compared_columns(known: Collection[str]) -> list[str]:
    """Returns the columns that `likeness` reads, of those that pairs have."""
    return [name for name in dict.fromkeys(one.column for one in COMPARED) if name in known]


def _are_equal(compared: Compared, dropped: Mapping[str, Any], kept: Mapping[str, Any]) -> bool:
    one, other = dropped.get(compared.column), kept.get(compared.column)
    if compared.digests is None or one is None or other is None:
        return one is not None and one == other
    first, second = compared.digests(pa.chunked_array([[one, other]], pa.string())).to_pylist()
    return bool(first == second)


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
