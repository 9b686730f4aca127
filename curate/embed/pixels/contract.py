"""The interface of a kind of pixel scorer: it computes columns by image from decoded pictures, in the embed pass.

A package provides a kind by an entry point in the group `curate.pixels`; a recipe uses it under its name:
`pixels: {<kind>: {<name>: <keys>}}`. A kind without keys has one scorer, which is computed where a step reads one of
its columns; those of this package are modules of `curate.embed.pixels.kinds`. Each scorer has a folder of its own,
`pixels-<name>`, so for a new scorer the pictures are decoded again and nothing else is computed.

There are two forms. A `PixelMeasure` takes one picture at a time and runs where pictures are resized (in the worker's
threads, or for a GPU in the processes that decode). A `PixelModel` takes batches of crops and runs on the models'
device.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from curate.decoding.images import REDUCED
from curate.store import Json

if TYPE_CHECKING:
    import torch

Value = bool | int | float | str | None
Crop = npt.NDArray[np.uint8]
Columns = Mapping[str, pa.DataType]

BATCH = 64
"""Crops in every call of a `PixelModel`. A part's last batch is filled up with copies of its last crop, so that no
value depends on the number of images in a part."""


class PixelKind(ABC):
    """The common base of both forms.

    Attributes:
        name: the key under `pixels` that holds its entries.
        prefix: prefix of the names of its scorers, and so of their columns; the name of the scorer of a kind without
            keys.
        version: to be raised whenever its values change; part of the fingerprint.
        about: one sentence for the recipe's documentation.
        keys: the pydantic model (a `curate.keys.Keys`) of an entry's keys; None for a kind without keys.
        side: pictures may be decoded reduced, to a shorter side of at least this many pixels; None: never reduced.
    """

    name: str
    prefix: str
    version: int
    about: str
    keys: Any
    side: int | None = REDUCED

    def columns(self, scorer: str) -> Columns:
        """Returns the columns of a scorer with their types; by default one float32 column with the scorer's name."""
        return {scorer: pa.float32()}

    def learn(self, where: str, keys: Any, endpoint: str | None) -> Json:  # noqa: ARG002
        """Reads what the keys refer to (such as a file of weights), once, before the run; part of the fingerprint.

        Raises:
            RecipeError: a key is wrong; one line that begins with `where`.
        """
        return {}

    def depends(self, keys: Any) -> Json:  # noqa: ARG002
        """Returns the keys that the values depend on, without those that `learn` covers and without paths."""
        return {}


class PixelMeasure(PixelKind):
    """A kind that takes one picture at a time."""

    @abstractmethod
    def measure(self, picture: Image.Image, keys: Any) -> Sequence[Value]:
        """Returns the values of a picture, in the order of the columns. Must not keep state between pictures."""


class PixelModel(PixelKind):
    """A kind that takes batches of crops."""

    @abstractmethod
    def crop(self, picture: Image.Image, keys: Any) -> Crop:
        """Returns the model's input for a picture, uint8 of a fixed shape."""

    @abstractmethod
    def open(
        self, keys: Any, learned: Mapping[str, Any], device: "torch.device", endpoint: str | None
    ) -> Callable[[Crop], Sequence[Sequence[Value]]]:
        """Loads the model, once per worker; returns a function from crops [BATCH, …] to a row of values for each.

        Raises:
            UsageError: it cannot be loaded, or is not the one that `learn` read.
        """


@dataclass(frozen=True)
class PixelScorer:
    """An entry of a recipe's `pixels`: one kind with its keys. Can be pickled where kind and keys can.

    Attributes:
        name: `nsfw_strict`; the folder of its columns is `pixels-<name>`.
        where: its key in the recipe, `pixels.nsfw.strict`; the name of a kind without keys.
        kind: its kind.
        keys: the keys of its entry in the recipe; None where its kind has none.
        package: the package that provides the kind; None where it is built in.
        learned: the result of `PixelKind.learn`; empty before that is called.
    """

    name: str
    where: str
    kind: PixelKind
    keys: Any
    package: str | None
    learned: Mapping[str, Any]

    @property
    def columns(self) -> Columns:
        """Its columns with their types."""
        return self.kind.columns(self.name)

    @property
    def depends(self) -> Json:
        """Settings, file digests and package that its columns depend on, besides the pictures; for the fingerprint."""
        package = {"package": self.package} if self.package else {}
        return {**self.kind.depends(self.keys), **self.learned, **package}

    def settings(self) -> Json:
        """Returns what a worker needs to open it (`registry.opened`), JSON-able."""
        keys = {} if self.keys is None else self.keys.model_dump(mode="json")
        return {"kind": self.kind.name, "keys": keys, "learned": dict(self.learned)}
