"""The contract of a kind of signal: its recipe keys, its columns, what its fingerprint depends on, and its work.

A signal is computed for each pair from captions or stored embeddings, part by part. A kind of this package is a module
of `curate.signals.kinds` with its `SIGNAL`; another package brings one by an entry point in the group `curate.signals`.
A recipe requests signals under the kind's name: `signals: {<kind>: {<name>: <keys>}}`; one such entry is a `Scorer`.
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

    model: Name | None = Field(
        None, description="Short name of the model whose embeddings are read; by default the first model."
    )


@dataclass(frozen=True)
class Prompts:
    """Directions in a model's embedding space, given by texts.

    Attributes:
        names: the name of each direction.
        prompts: for each direction one prompt, or several whose embeddings are averaged.
    """

    names: Sequence[str]
    prompts: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Images:
    """Directions in a model's embedding space, given by images: files, folders or globs, as a recipe names them."""

    paths: Sequence[str]


@dataclass(frozen=True)
class ModelShape:
    """The model whose embeddings a signal reads, as far as it may know it: short name and length of an embedding."""

    name: str
    dim: int


@dataclass(frozen=True)
class Task:
    """The input of `Signal.score`: one scorer and one part.

    Attributes:
        scorer: the scorer's name, with which its columns begin (`concept_watermark`).
        keys: the scorer's recipe keys; None for a kind without keys.
        learned: what `Signal.learn` returned before the run.
        part: the number of the part.
        pairs: the part's pairs without the repeated ones: pair_id, image_id, caption.
        embeddings: the folder of the model's embeddings, where the kind reads them.
        directions: the folder of the scorer's directions, where it has some.
        endpoint: the S3 server of files that the keys name; None for AWS.
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
        prefix: the prefix of the names of its scorers, and so of their columns: `concept` for `concept_watermark`.
        version: raised whenever the kind would compute other values; part of the fingerprint.
        about: one sentence for the recipe's documentation.
        keys: the model of an entry's keys; None for a kind without keys, which every run has.
        reads_captions: whether it reads captions; it cannot be asked for where the source has none.
        reads_embeddings: whether it reads image embeddings; such a kind's keys are `SignalKeys`.
    """

    name: str
    prefix: str
    version: int
    about: str
    keys: type[K] | None = None
    reads_captions: bool = False
    reads_embeddings: bool = True

    def columns(self, scorer: str) -> Columns:
        """The columns of a scorer; by default one float32 with the scorer's name."""
        return {scorer: pa.float32()}

    def directions(self, keys: K) -> Prompts | Images | None:  # noqa: ARG002
        """The texts or images that pairs are compared with; they are embedded once per run, before any part."""
        return None

    def learn(self, where: str, keys: K, model: ModelShape, endpoint: str | None) -> Json:  # noqa: ARG002
        """Reads and checks the files that the keys name, once, before the run; the result is part of the fingerprint.

        Args:
            where: the entry's place in the recipe, for messages.
            keys: the entry's keys.
            model: the model whose embeddings are read.
            endpoint: the S3 server; None for AWS.

        Raises:
            RecipeError: a key or a file is wrong; one line that begins with `where`.
        """
        return {}

    def depends(self, keys: K) -> Json:  # noqa: ARG002
        """The keys that the values depend on and that neither `learn` nor the directions cover; never paths."""
        return {}

    @abstractmethod
    def score(self, task: Task) -> Mapping[str, pa.Array]:
        """Returns the columns of a part, row for row with the task's pairs.

        Raises:
            BrokenResult: what it reads does not belong to the pairs.
        """


@dataclass(frozen=True)
class Scorer:
    """An entry of a recipe's `signals`: one kind with its keys.

    Attributes:
        name: such as `concept_watermark`; the folder of its columns is `signals-<name>`.
        where: its place in the recipe, such as `signals.concepts.watermark`.
        kind: its kind.
        keys: its recipe keys; None for a kind without keys.
        model: the short name of the model whose embeddings it reads; None for a kind that reads none.
        package: the package that brings the kind; None for this one.
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
        """The names and types of its columns."""
        return self.kind.columns(self.name)

    @property
    def directions(self) -> Prompts | Images | None:
        """The texts or images that it compares pairs with; None where it has none."""
        return None if self.keys is None else self.kind.directions(self.keys)

    @property
    def directions_folder(self) -> str | None:
        """The short name of the folder that holds the embeddings of its directions: `prompts-…` or `targets-…`."""
        directions = self.directions
        if directions is None:
            return None
        return f"{'prompts' if isinstance(directions, Prompts) else 'targets'}-{self.name}"

    @property
    def depends(self) -> Json:
        """Everything that its columns depend on, besides the folders that it reads."""
        own = {} if self.keys is None else self.kind.depends(self.keys)
        return {**own, **self.learned, **({"package": self.package} if self.package else {})}

    def settings(self) -> Json:
        """The settings with which a worker opens the scorer, JSON-able."""
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
