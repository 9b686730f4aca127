"""The embed pass: a part's images through every model whose output is missing, each image decoded once.

Batches never mix parts and are always full, so that what is written is a function of the part alone.

`clip_similarity` is the cosine of the two embeddings in float32, before they are rounded to float16 for
storage; from the stored ones it comes back within 1e-3.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from curate import schema
from curate.embed.images import decode, map_ahead, read_members
from curate.embed.model import Model, choose_device, load
from curate.embed.pixels import Measures, measure, pixel_table
from curate.errors import BrokenResult, ModelError
from curate.store import Inputs, Outputs

_AHEAD = 2
"""Batches of images that may be decoded before they are asked for."""


@dataclass(frozen=True)
class ModelSettings:
    """One model of the recipe (`recipe.Model`)."""

    name: str
    pretrained: str | None
    precision: str
    batch_size: int
    threads: int


def open_worker(settings: Mapping[str, Any]) -> "Embedder":
    """A worker of the embed pass.

    Args:
        settings: `models` (the recipe's, by short name), `device` (auto, cpu, cuda), `endpoint` (of an S3
            server other than AWS, for weights; or None).

    Raises:
        UsageError: the device is not there.
    """
    models = {name: ModelSettings(**model) for name, model in settings["models"].items()}
    return Embedder(models, choose_device(settings["device"]), settings["endpoint"])


@dataclass
class Embedder:
    """Embeds parts; a model is loaded when a part first needs it."""

    settings: Mapping[str, ModelSettings]
    device: torch.device
    endpoint: str | None
    _loaded: dict[str, Model] = field(default_factory=dict)

    def __call__(self, part: int, inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:
        """Writes those of `pixels` and `embed-<model>` that are in `outputs`, for one part.

        Raises:
            BrokenResult: plan, images and tar do not belong together.
            ModelError: a model cannot be loaded, or its embeddings are not numbers.
        """
        images, pairs = _read_tables(part, inputs)
        runs = [
            _Run(self._model(name), settings) for name, settings in self.settings.items() if f"embed-{name}" in outputs
        ]
        prepare = _Prepare([run.model for run in runs], "pixels" in outputs)
        threads = max(settings.threads for settings in self.settings.values())
        ahead = _AHEAD * max(settings.batch_size for settings in self.settings.values())
        prepared = map_ahead(prepare, read_members(inputs["fetch"], part, images), threads, ahead)
        # The first images decode while the captions are embedded.
        for run in runs:
            run.embed_captions(pairs["caption"])
        measured: dict[int, Measures | None] = {}
        for row, image in prepared:
            measured[row] = image.measures if image else None
            if image:
                for run, crop in zip(runs, image.crops, strict=True):
                    run.add_image(row, crop)
        ids = images["image_id"].combine_chunks()
        if output := outputs.get("pixels"):
            output.put_table("pixels.parquet", pixel_table(ids, measured))
            lost = sum(measures is None for measures in measured.values())
            output.counts.update(images=len(ids), undecodable=lost)
        names = [name for name in self.settings if f"embed-{name}" in outputs]
        for name, run in zip(names, runs, strict=True):
            run.write(ids, pairs, outputs[f"embed-{name}"])

    def _model(self, name: str) -> Model:
        if name not in self._loaded:
            model = self.settings[name]
            self._loaded[name] = load(model.name, model.pretrained, model.precision, self.device, self.endpoint)
        return self._loaded[name]


@dataclass(frozen=True)
class _Prepared:
    """A decoded image as each model takes it, and its measures where they were asked for."""

    crops: Sequence[npt.NDArray[np.uint8]]
    measures: Measures | None


@dataclass(frozen=True)
class _Prepare:
    """What is done to an image in a thread."""

    models: Sequence[Model]
    with_measures: bool

    def __call__(self, data: bytes) -> _Prepared | None:
        image = decode(data)
        if image is None:
            return None
        crops = [model.prepare(image) for model in self.models]
        return _Prepared(crops, measure(image) if self.with_measures else None)


@dataclass
class _Run:
    """One model and one part: batches are gathered, embedded and kept until they are written.

    Attributes:
        rows: of the images that were added, in the order of their embeddings.
        waiting: the images of the batch that is not yet full.
        embedded: float32[batch_size, dim] of each full batch, on the model's device.
        captions: float32[distinct captions, dim].
        caption_of: for each pair, its row in `captions`.
    """

    model: Model
    settings: ModelSettings
    rows: list[int] = field(default_factory=list)
    waiting: list[npt.NDArray[np.uint8]] = field(default_factory=list)
    embedded: list[Tensor] = field(default_factory=list)
    captions: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    caption_of: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def embed_captions(self, captions: pa.ChunkedArray) -> None:
        """Embeds a part's captions, each distinct one once; a null is embedded as ''."""
        encoded = captions.fill_null("").combine_chunks().dictionary_encode()
        torch.set_num_threads(self.settings.threads)
        distinct = encoded.dictionary.to_pylist()
        self.captions = self.model.encode_captions(distinct, self.settings.batch_size)
        self.caption_of = encoded.indices.to_numpy().astype(np.int64)

    def add_image(self, row: int, crop: npt.NDArray[np.uint8]) -> None:
        """Takes an image; a batch that is full is embedded."""
        self.rows.append(row)
        self.waiting.append(crop)
        if len(self.waiting) == self.settings.batch_size:
            self._embed_waiting()

    def write(self, image_ids: pa.Array, pairs: pa.Table, output: Outputs) -> None:
        """Writes the tables of this model and part."""
        if self.waiting:
            self._embed_waiting()
        dim = self.model.dim
        embedded = torch.cat(self.embedded).cpu().numpy() if self.rows else np.zeros((0, dim), np.float32)
        if not (np.isfinite(embedded).all() and np.isfinite(self.captions).all()):
            raise ModelError(
                f"model {self.settings.name} in {self.settings.precision} gives embeddings that are not numbers; "
                "try another precision"
            )
        row_of = np.full(len(image_ids), -1)
        row_of[self.rows] = np.arange(len(self.rows))
        by_image = np.zeros((len(image_ids), dim), np.float16)
        by_image[self.rows] = embedded
        images = pa.table({"image_id": image_ids, "image_embedding": _embeddings(by_image, row_of < 0)})
        output.put_table("images.parquet", images)

        image_of = row_of[pc.index_in(pairs["image_id"], value_set=image_ids).to_numpy()]
        text = self.captions[self.caption_of]
        similarity = np.zeros(len(pairs), np.float32)
        seen = image_of >= 0
        similarity[seen] = np.einsum("ij,ij->i", embedded[image_of[seen]], text[seen])
        by_pair = {
            "pair_id": pairs["pair_id"],
            "text_embedding": _embeddings(text.astype(np.float16)),
            "clip_similarity": pa.array(similarity, mask=~seen),
        }
        output.put_table("pairs.parquet", pa.table(by_pair))
        output.counts.update(images=len(self.rows), pairs=len(pairs))

    def _embed_waiting(self) -> None:
        torch.set_num_threads(self.settings.threads)
        self.embedded.append(self.model.encode_images(self.waiting, self.settings.batch_size))
        self.waiting = []


def _read_tables(part: int, inputs: Inputs) -> tuple[pa.Table, pa.Table]:
    """A part's images, and its pairs without the repeated ones."""
    images = inputs["fetch"].table("images.parquet", part, ["image_id", "status", "file"])
    plan = inputs["plan"].table("pairs.parquet", part, ["pair_id", "image_id", "caption", "repeated"])
    if not images["image_id"].equals(pa.chunked_array([plan["image_id"].unique()])):
        raise BrokenResult(f"{inputs['fetch'].path}: the images of part {part} are not those of its plan")
    return images, plan.filter(pc.invert(plan["repeated"]))


def _embeddings(rows: npt.NDArray[np.float16], mask: npt.NDArray[np.bool_] | None = None) -> pa.Array:
    """Rows [n, dim] as an embedding column, null where `mask` is true."""
    dim = rows.shape[1]
    column = pa.FixedSizeListArray.from_arrays(
        pa.array(rows.ravel()), dim, mask=None if mask is None else pa.array(mask)
    )
    return column.cast(schema.embedding(dim))
