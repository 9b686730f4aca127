"""The embed pass: a part's images through every model whose output is missing, each image decoded once.

Batches never mix parts and are always full, so that what is written is a function of the part alone. Where memory
does not hold a batch, it halves, and the part's marker says so (`batch.py`).

While a GPU computes, the next images are decoded by processes; a CPU does one after the other. As soon as a part has
been read whole the next one is read (`reading.py`): compressed bytes, of one part, within a bound. Nothing of the next
part is decoded ahead, so that a file that kills its worker kills it at its own part.

`clip_similarity` is the cosine of the two embeddings in float32, before they are rounded to float16 for
storage; from the stored ones it comes back within 1e-3.
"""

import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from curate import schema
from curate.device import choose_device, gpu_failures
from curate.embed.batch import ON_CPU, BatchSize, default_size, embed_images
from curate.embed.decode.decoding import Decoding
from curate.embed.decode.prepare import Prepare
from curate.embed.decode.read_ahead import Reading
from curate.embed.model.loading import compiled, load
from curate.embed.model.memory import keep_freed_blocks
from curate.embed.model.text import Captions
from curate.embed.model.towers import Model
from curate.embed.pixels.basic import Measures, pixel_table
from curate.embed.pixels.contract import PixelMeasure, PixelModel, PixelScorer, Value
from curate.embed.pixels.registry import opened
from curate.embed.pixels.scores import Batches, Score, table
from curate.errors import ModelError
from curate.store import Inputs, Outputs

_AHEAD = 2
"""Batches of images that may be decoded before they are asked for."""

_MOST_DECODERS = 16
"""Processes for a GPU where the recipe says nothing; each holds a quarter of a gigabyte."""


@dataclass(frozen=True)
class ModelSettings:
    """One model of the recipe (`recipe.Model`), and the digest of the weights that the run began with."""

    name: str
    pretrained: str | None
    precision: str
    batch_size: int | None
    threads: int
    mirror: bool = False
    compile: bool = False
    weights_sha256: str | None = None

    def load(self, device: torch.device, endpoint: str | None) -> tuple[Model, BatchSize]:
        """The model, and how many rows go through it at once.

        Raises:
            UsageError: it cannot be loaded.
        """
        torch.set_num_threads(self.threads)
        model = load(self.name, self.pretrained, self.precision, device, endpoint, weights_sha256=self.weights_sha256)
        rows = self.batch_size or default_size(model)
        if self.compile:
            model = compiled(model, self.name, rows)
        by_memory = self.batch_size is None and device.type == "cuda"
        return model, BatchSize(self.name, rows, by_memory=by_memory)

    def numbers(self, embedded: Tensor) -> npt.NDArray[np.float32]:
        """Embeddings [n, dim] of the model, once they were found to be numbers.

        Raises:
            ModelError: they are not.
        """
        found: npt.NDArray[np.float32] = embedded.cpu().numpy()
        if not np.isfinite(found).all():
            raise ModelError(
                f"model {self.name} in {self.precision} gives embeddings that are not numbers; try another precision"
            )
        return found


def open_worker(settings: Mapping[str, Any]) -> "Embedder":
    """A worker of the embed pass.

    Args:
        settings: `models` (the recipe's, by short name), `device` (auto, cpu, cuda), `decode` (fast, exact),
            `endpoint` (of an S3 server other than AWS, for weights; or None), and optionally `decoders` (processes that
            decode for a GPU; None: one for each core, 16 at most) and `pixels` (by name of a pixel scorer, what
            `PixelScorer.settings` says of it).

    Raises:
        UsageError: the device is not there.
    """
    models = {name: ModelSettings(**model) for name, model in settings["models"].items()}
    is_exact = settings["decode"] == "exact"
    device = choose_device(settings["device"])
    if device.type == "cpu":
        keep_freed_blocks()
    pixels = [opened(name, said) for name, said in settings.get("pixels", {}).items()]
    return Embedder(models, device, settings["endpoint"], is_exact, settings.get("decoders"), pixels)


@dataclass
class Embedder:
    """Embeds parts; a model is loaded when a part first needs it. Threads live as long as the worker does."""

    settings: Mapping[str, ModelSettings]
    device: torch.device
    endpoint: str | None
    is_exact: bool = True
    decoders: int | None = None
    pixels: Sequence[PixelScorer] = ()
    _scores: dict[str, Score] = field(default_factory=dict)
    _loaded: dict[str, tuple[Model, BatchSize]] = field(default_factory=dict)
    _decoding: Decoding = field(init=False)
    _reader: Executor = field(init=False)
    _tokenizing: threading.Lock = field(default_factory=threading.Lock)
    _coming: Reading[Captions] | None = None

    def __post_init__(self) -> None:
        if self.device.type == "cpu":
            # Threads that decode and threads that compute would keep each other waiting at every step: measured,
            # embedding took 15 % longer than one after the other (benchmarks/score.py).
            threads = max(settings.threads for settings in self.settings.values())
            self._decoding = Decoding(threads, in_turns=True)
        else:
            # A GPU wants more images than threads can decode (benchmarks/feed.py).
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            self._decoding = Decoding(self.decoders or min(cores, _MOST_DECODERS), in_processes=True)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="read")

    def __call__(self, part: int, inputs: Inputs, outputs: Mapping[str, Outputs], following: int | None = None) -> None:
        """Writes those of `pixels`, `pixels-<scorer>` and `embed-<model>` that are in `outputs`, for one part.

        Args:
            part: which.
            inputs: `plan` and `fetch`.
            outputs: what is missing.
            following: the part that is probably next; it is read ahead.

        Raises:
            BrokenResult: plan, images and tar do not belong together.
            ModelError: a model cannot be loaded, its embeddings are not numbers, or memory does not hold it.
            DeviceLost: the GPU failed; this process cannot use it any more.
        """
        reading = self._reading(part, inputs, following)
        try:
            with gpu_failures(self.device):
                self._embed(reading, outputs)
        finally:
            reading.close()

    def _reading(self, part: int, inputs: Inputs, following: int | None) -> Reading[Captions]:
        """The reading of this part, which may be done already; the following one's begins after it."""
        reading = self._coming
        if reading is None or reading.part != part:
            if reading:
                reading.close()
            reading = Reading(part, inputs, self._reader, self._tokenize)
        self._coming = None if following is None else Reading(following, inputs, self._reader, self._tokenize)
        reading.begin(self._coming)
        return reading

    def _embed(self, reading: Reading[Captions], outputs: Mapping[str, Outputs]) -> None:
        images, pairs, captions = reading.tables()
        names = [name for name in self.settings if f"embed-{name}" in outputs]
        runs = [_Run(self.settings[name], *self._model(name)) for name in names]
        models = [run.model for run in runs]
        preprocesses, sides = [model.preprocess for model in models], [model.image_side for model in models]
        scorers = [scorer for scorer in self.pixels if f"pixels-{scorer.name}" in outputs]
        prepare = Prepare(preprocesses, sides, "pixels" in outputs, self.is_exact, scorers)
        batches = 1 if self.device.type == "cpu" else _AHEAD
        ahead = batches * max((run.size.asked for run in runs), default=ON_CPU)
        prepared = self._decoding.prepared(prepare, reading.members(), ahead)
        # On a GPU the first images decode while the captions are embedded.
        for name, run in zip(names, runs, strict=True):
            if captions.distinct:
                known = captions.tokens.get(name)
                run.embed_captions(self._tokens(run.model, captions) if known is None else known)
        measured: dict[int, Measures | None] = {}
        values: dict[str, dict[int, Sequence[Value]]] = {scorer.name: {} for scorer in scorers}
        measures = [values[scorer.name] for scorer in scorers if isinstance(scorer.kind, PixelMeasure)]
        batches_of = {
            scorer.name: Batches(self._score(scorer)) for scorer in scorers if isinstance(scorer.kind, PixelModel)
        }
        takers = [*(run.add_image for run in runs), *(batches.add for batches in batches_of.values())]
        for row, image in prepared:
            measured[row] = image.measures if image else None
            if image:
                for take, crop in zip(takers, image.crops, strict=True):
                    take(row, crop)
                for by_row, found in zip(measures, image.values, strict=True):
                    by_row[row] = found
        ids = images["image_id"].combine_chunks()
        if output := outputs.get("pixels"):
            output.put_table("pixels.parquet", pixel_table(ids, measured))
            lost = sum(measures is None for measures in measured.values())
            output.counts.update(images=len(ids), undecodable=lost)
        for scorer in scorers:
            by_row = batches_of[scorer.name].by_row() if scorer.name in batches_of else values[scorer.name]
            output = outputs[f"pixels-{scorer.name}"]
            output.put_table("pixels.parquet", table(scorer, ids, by_row))
            output.counts.update(images=len(by_row))
        for name, run in zip(names, runs, strict=True):
            run.write(ids, pairs, captions.of_pair, outputs[f"embed-{name}"])

    def _tokenize(self, column: pa.ChunkedArray) -> Captions:
        """Captions as the models that are loaded take them; for any other it is done when it is there."""
        captions = Captions.of(column)
        if captions.distinct:
            for name, (model, _) in list(self._loaded.items()):
                captions.tokens[name] = self._tokens(model, captions)
        return captions

    def _tokens(self, model: Model, captions: Captions) -> Tensor:
        # Tokenizers of Hugging Face refuse to work for two threads at once.
        with self._tokenizing:
            return model.tokenize(captions.distinct)

    def _model(self, name: str) -> tuple[Model, BatchSize]:
        if name not in self._loaded:
            self._loaded[name] = self.settings[name].load(self.device, self.endpoint)
        return self._loaded[name]

    def _score(self, scorer: PixelScorer) -> Score:
        """What scores the crops of a `PixelModel`, which is loaded when a part first needs it."""
        assert isinstance(scorer.kind, PixelModel)
        if scorer.name not in self._scores:
            self._scores[scorer.name] = scorer.kind.open(scorer.keys, scorer.learned, self.device, self.endpoint)
        return self._scores[scorer.name]


@dataclass
class _Run:
    """One model and one part: batches are gathered, embedded and kept until they are written.

    Attributes:
        rows: of the images that were added, in the order of their embeddings.
        waiting: the images of the batch that is not yet full.
        embedded: float32[n, dim] of each batch, on the model's device.
        mirrored: likewise of the mirrored images, where they are asked for.
        captions: float32[distinct captions, dim], on the model's device; None where there are none.
    """

    settings: ModelSettings
    model: Model
    size: BatchSize
    rows: list[int] = field(default_factory=list)
    waiting: list[npt.NDArray[np.uint8]] = field(default_factory=list)
    embedded: list[Tensor] = field(default_factory=list)
    mirrored: list[Tensor] = field(default_factory=list)
    captions: Tensor | None = None

    def embed_captions(self, tokens: Tensor) -> None:
        """Embeds a part's captions, each distinct one once, int64[n, context]."""
        torch.set_num_threads(self.settings.threads)
        self.captions = self.size.run(lambda size: self.model.encode_tokens(tokens, size))

    def add_image(self, row: int, crop: npt.NDArray[np.uint8]) -> None:
        """Takes an image; a batch that is full is embedded."""
        self.rows.append(row)
        self.waiting.append(crop)
        if len(self.waiting) == self.size.asked:
            self._embed_waiting()

    def write(self, image_ids: pa.Array, pairs: pa.Table, caption_of: npt.NDArray[np.int64], output: Outputs) -> None:
        """Writes the tables of this model and part; `caption_of` is each pair's row in `captions`."""
        if self.waiting:
            self._embed_waiting()
        dim = self.model.dim
        embedded, mirrored = self._numbers(self.embedded), self._numbers(self.mirrored)
        row_of = np.full(len(image_ids), -1)
        row_of[self.rows] = np.arange(len(self.rows))
        by_image = np.zeros((len(image_ids), dim), np.float16)
        by_image[self.rows] = embedded
        images = pa.table({"image_id": image_ids, "image_embedding": _embeddings(by_image, row_of < 0)})
        output.put_table("images.parquet", images)

        image_of = row_of[pc.index_in(pairs["image_id"], value_set=image_ids).to_numpy()]
        text = self._numbers([] if self.captions is None else [self.captions])[caption_of]
        by_pair = {
            "pair_id": pairs["pair_id"],
            "text_embedding": _embeddings(text.astype(np.float16)),
            schema.SIMILARITY: _cosines(embedded, image_of, text),
        }
        if self.settings.mirror:
            by_pair[schema.MIRRORED] = _cosines(mirrored, image_of, text)
        output.put_table("pairs.parquet", pa.table(by_pair))
        output.counts.update(images=len(self.rows), pairs=len(pairs))
        if self.size.now < self.size.asked:
            output.counts["smaller_batches"] = 1
        if self.size.note:
            output.notes.append(self.size.note)

    def _embed_waiting(self) -> None:
        torch.set_num_threads(self.settings.threads)
        self.embedded += embed_images(self.model, self.size, self.waiting)
        if self.settings.mirror:
            self.mirrored += embed_images(self.model, self.size, self.waiting, mirrored=True)
        self.waiting = []

    def _numbers(self, batches: list[Tensor]) -> npt.NDArray[np.float32]:
        """Batches as one array [n, dim]."""
        return self.settings.numbers(torch.cat(batches) if batches else torch.zeros((0, self.model.dim)))


def _cosines(
    images: npt.NDArray[np.float32], image_of: npt.NDArray[np.int64], text: npt.NDArray[np.float32]
) -> pa.Array:
    """Of each pair's embeddings [n, dim], null where it has no image (`image_of` is negative)."""
    similarity = np.zeros(len(text), np.float32)
    seen = image_of >= 0
    similarity[seen] = np.einsum("ij,ij->i", images[image_of[seen]], text[seen])
    return pa.array(similarity, mask=~seen)


def _embeddings(rows: npt.NDArray[np.float16], mask: npt.NDArray[np.bool_] | None = None) -> pa.Array:
    """Rows [n, dim] as an embedding column, null where `mask` is true."""
    dim = rows.shape[1]
    column = pa.FixedSizeListArray.from_arrays(
        pa.array(rows.ravel()), dim, mask=None if mask is None else pa.array(mask)
    )
    return column.cast(schema.embedding(dim))
