"""What a kind of pixel scorer is: columns by image, computed of decoded pictures while a part is embedded.

A package brings one by an entry point in the group `curate.pixels`; a recipe asks for it under its name:
`pixels: {<kind>: {<name>: <keys>}}`. Each such scorer has a folder of its own, `pixels-<name>`, so a new one decodes
the pictures again and computes nothing else.

Two forms: a `PixelMeasure` takes one picture at a time, where pictures are decoded (in threads, or in processes without
a GPU); a `PixelModel` takes batches of crops, where the models are.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from curate.embed.decode.images import REDUCED
from curate.store import Json

if TYPE_CHECKING:
    import torch

Value = bool | int | float | str | None
Crop = npt.NDArray[np.uint8]
Columns = Mapping[str, pa.DataType]

BATCH = 64
"""Crops that a `PixelModel` is given at once, always: a part's last batch is filled with its last crop, so that no
value depends on how many images a part has."""


class PixelKind(ABC):
    """What both forms share.

    Attributes:
        name: the key under `pixels` that holds its entries.
        prefix: what the name of a scorer, and so of its columns, begins with.
        version: raised whenever it would give other values; part of the fingerprint.
        about: one sentence for the recipe's documentation.
        keys: the pydantic model (a `curate.keys.Keys`) of an entry's keys.
        side: pictures may be decoded reduced, as long as the shorter side keeps so many pixels; None: never reduced.
    """

    name: str
    prefix: str
    version: int
    about: str
    keys: Any
    side: int | None = REDUCED

    def columns(self, scorer: str) -> Columns:
        """The columns of a scorer; by default one float32 with the scorer's name."""
        return {scorer: pa.float32()}

    def learn(self, where: str, keys: Any, endpoint: str | None) -> Json:  # noqa: ARG002
        """Looks at what the keys name (a file of weights), once, before the run; part of the fingerprint.

        Raises:
            RecipeError: something is wrong, in one line that begins with `where`.
        """
        return {}

    def depends(self, keys: Any) -> Json:  # noqa: ARG002
        """Of the keys, what the values depend on and `learn` does not cover; places left out."""
        return {}


class PixelMeasure(PixelKind):
    """Takes one picture at a time."""

    @abstractmethod
    def measure(self, picture: Image.Image, keys: Any) -> Sequence[Value]:
        """The values of a picture, in the order of the columns. Must not keep state between pictures."""


class PixelModel(PixelKind):
    """Takes batches of crops."""

    @abstractmethod
    def crop(self, picture: Image.Image, keys: Any) -> Crop:
        """What the model takes of a picture, uint8 of a fixed shape."""

    @abstractmethod
    def open(
        self, keys: Any, learned: Mapping[str, Any], device: "torch.device", endpoint: str | None
    ) -> Callable[[Crop], Sequence[Sequence[Value]]]:
        """Loads the model, once per worker; returns a function from crops [BATCH, …] to a row of values for each.

        Raises:
            UsageError: it cannot be loaded, or is another one than `learn` saw.
        """


@dataclass(frozen=True)
class PixelScorer:
    """An entry of a recipe's `pixels`: one kind with its keys. Can be pickled where kind and keys can.

    Attributes:
        name: `nsfw_strict`; the folder of its columns is `pixels-<name>`.
        where: its place in the recipe: `pixels.nsfw.strict`.
        kind: its kind.
        keys: what the recipe says of it.
        package: the package that brings the kind.
        learned: what `PixelKind.learn` returned; empty before.
    """

    name: str
    where: str
    kind: PixelKind
    keys: Any
    package: str | None
    learned: Mapping[str, Any]

    @property
    def columns(self) -> Columns:
        """Its columns."""
        return self.kind.columns(self.name)

    @property
    def depends(self) -> Json:
        """What its columns depend on, besides the pictures."""
        package = {"package": self.package} if self.package else {}
        return {**self.kind.depends(self.keys), **self.learned, **package}

    def settings(self) -> Json:
        """All that a worker needs, JSON-able."""
        return {"kind": self.kind.name, "keys": self.keys.model_dump(mode="json"), "learned": dict(self.learned)}
