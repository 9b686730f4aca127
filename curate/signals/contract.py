"""What a kind of signal is: its recipe keys, its columns, what its fingerprint depends on, and its work.

A signal is computed by pair, from captions or from stored embeddings, part by part. A kind of ours is a module of
`curate.signals.kinds` with its `SIGNAL`; another package brings one by an entry point in the group `curate.signals`. A
recipe asks for signals under the kind's name: `signals: {<kind>: {<name>: <keys>}}`; one such entry is a `Scorer`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import pyarrow as pa
from pydantic import Field

from curate.keys import Keys, Name
from curate.store import Folder, Inputs, Json

Columns = Mapping[str, pa.DataType]
"""Columns by name, in their order, with their types."""


class SignalKeys(Keys):
    """The keys of a signal that reads embeddings; a kind adds its own."""

    model: Name | None = Field(None, description="Whose embeddings, by the model's short name; by default the first's.")


@dataclass(frozen=True)
class Prompts:
    """Directions in a model's space that are made of texts.

    Attributes:
        names: what each direction is called.
        prompts: of each direction its prompt, or several, whose embeddings are averaged.
    """

    names: Sequence[str]
    prompts: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Images:
    """Directions in a model's space that are made of images: files, folders or globs, as a recipe names them."""

    paths: Sequence[str]


@dataclass(frozen=True)
class ModelShape:
    """What a signal may know of the model whose embeddings it reads: its short name and the length of an embedding."""

    name: str
    dim: int


@dataclass(frozen=True)
class Task:
    """One scorer and one part.

    Attributes:
        scorer: the scorer's name, which its columns begin with (`concept_watermark`).
        keys: what the recipe says of it; None for a kind without keys.
        learned: what `Signal.learn` found out before the run.
        part: which part.
        pairs: the part's pairs without the repeated ones: pair_id, image_id, caption.
        embeddings: the folder of the model's embeddings, where the kind reads them.
        directions: the folder of the scorer's directions, where it has some.
        endpoint: of an S3 server other than AWS, for files that the keys name.
    """

    scorer: str
    keys: Any
    learned: Mapping[str, Any]
    part: int
    pairs: pa.Table
    embeddings: Folder | None = None
    directions: Folder | None = None
    endpoint: str | None = None


K = TypeVar("K", bound=Keys)


class Signal(ABC, Generic[K]):
    """A kind of signal.

    Attributes:
        name: the key under `signals` that holds its entries; of a kind without keys, the name of its only scorer.
        prefix: what the name of a scorer, and so of its columns, begins with: `concept` for `concept_watermark`.
        version: raised whenever it would give other values; part of the fingerprint.
        about: one sentence for the recipe's documentation.
        keys: the model of an entry's keys; None for a kind that every run has and that has none.
        reads_embeddings: whether it reads image embeddings; such a kind's keys are `SignalKeys`.
    """

    name: str
    prefix: str
    version: int
    about: str
    keys: type[K] | None = None
    reads_embeddings: bool = True

    def columns(self, scorer: str) -> Columns:
        """The columns of a scorer; by default one float32 with the scorer's name."""
        return {scorer: pa.float32()}

    def directions(self, keys: K) -> Prompts | Images | None:  # noqa: ARG002
        """What is embedded once per run, before any part: texts or images that pairs are held against."""
        return None

    def learn(self, where: str, keys: K, model: ModelShape, endpoint: str | None) -> Json:  # noqa: ARG002
        """Looks at what the keys name, once, before the run; what it returns is part of the fingerprint.

        Args:
            where: the entry's place in the recipe, for messages.
            keys: what the recipe says.
            model: whose embeddings are read.
            endpoint: of an S3 server other than AWS.

        Raises:
            RecipeError: something is wrong, in one line that begins with `where`.
        """
        return {}

    def depends(self, keys: K) -> Json:  # noqa: ARG002
        """Of the keys, what the values depend on and neither `learn` nor the directions cover; places left out."""
        return {}

    @abstractmethod
    def score(self, task: Task) -> Mapping[str, pa.Array]:
        """The columns of a part, row for row with the task's pairs.

        Raises:
            BrokenResult: what it reads does not belong to the pairs.
        """


@dataclass(frozen=True)
class Scorer:
    """An entry of a recipe's `signals`: one kind with its keys.

    Attributes:
        name: `concept_watermark`; the folder of its columns is `signals-<name>`.
        where: its place in the recipe: `signals.concepts.watermark`.
        kind: its kind.
        keys: what the recipe says of it.
        model: the short name of the model whose embeddings it reads; None for a kind that reads none.
        package: the package that brings the kind, where that is another one.
        learned: what `Signal.learn` returned; empty before.
    """

    name: str
    where: str
    kind: Signal[Any]
    keys: Any
    model: str | None
    package: str | None = None
    learned: Json = field(default_factory=dict)

    @property
    def columns(self) -> Columns:
        """Its columns."""
        return self.kind.columns(self.name)

    @property
    def directions(self) -> Prompts | Images | None:
        """Its directions, where it has some."""
        return None if self.keys is None else self.kind.directions(self.keys)

    @property
    def directions_folder(self) -> str | None:
        """The short name of the folder that holds the embeddings of its directions."""
        found = self.directions
        if found is None:
            return None
        return f"{'prompts' if isinstance(found, Prompts) else 'targets'}-{self.name}"

    @property
    def depends(self) -> Json:
        """What its columns depend on, besides the folders that it reads."""
        own = {} if self.keys is None else self.kind.depends(self.keys)
        return {**own, **self.learned, **({"package": self.package} if self.package else {})}

    def settings(self) -> Json:
        """All that a worker needs, JSON-able."""
        return {
            "kind": self.kind.name,
            "keys": None if self.keys is None else self.keys.model_dump(mode="json"),
            "learned": self.learned,
            "embeddings": f"embed-{self.model}" if self.model else None,
            "directions": self.directions_folder,
        }


def folder_of(inputs: Inputs, name: str | None) -> Folder | None:
    """The folder of that short name; None for None."""
    return None if name is None else inputs[name]
