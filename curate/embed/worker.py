"""The embed worker: computes every missing output of a part, and decodes each of its images once.

A batch never mixes parts and is always full (filled up with copies), so the output depends on the part alone. Where
memory does not hold a batch, the batch size is halved, and the part's marker says so (`batch.py`).

While a GPU computes, processes decode the next images; on a CPU decoding and computing alternate. Once a part has been
read, the worker reads the next one ahead (`decode/read_ahead.py`): compressed bytes, of one part, up to a bound.
Nothing of the next part is decoded ahead, so a file that crashes its worker does so while its own part is computed.

`clip_similarity` is the cosine of the two embeddings in float32, before they are rounded to float16 for storage;
computed from the stored embeddings it differs by at most 1e-3.
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
from curate.embed.model import torchscript
from curate.embed.model.cut import note_cut
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
"""Batches of images that are decoded ahead on a GPU."""

_MOST_DECODERS = 16
"""Most decoding processes for a GPU by default; each takes a quarter of a gigabyte."""


@dataclass(frozen=True)
class ModelSettings:
    """The settings of one model of the recipe (`recipe.Model`), and the digest of its weights when the run began."""

    name: str
    pretrained: str | None
    precision: str
    batch_size: int | None
    threads: int
    mirror: bool = False
    compile: bool = False
    weights_sha256: str | None = None
    torchscript: Mapping[str, Any] | None = None

    def load(self, device: torch.device, endpoint: str | None) -> tuple[Model, BatchSize]:
        """Loads the model; returns it with its batch size.

        Raises:
            UsageError: it cannot be loaded.
        """
        torch.set_num_threads(self.threads)
        model = self._load(device, endpoint)
        rows = self.batch_size or default_size(model)
        if self.compile:
            model = compiled(model, self.name, rows)
        by_memory = self.batch_size is None and device.type == "cuda"
        return model, BatchSize(self.name, rows, by_memory=by_memory)

    def _load(self, device: torch.device, endpoint: str | None) -> Model:
        digest = self.weights_sha256
        if self.torchscript:
            return torchscript.load(
                self.name, self.torchscript, self.precision, device, endpoint, weights_sha256=digest
            )
        return load(self.name, self.pretrained, self.precision, device, endpoint, weights_sha256=digest)

    def numbers(self, embedded: Tensor) -> npt.NDArray[np.float32]:
        """Returns embeddings as float32[n, dim], after checking that all values are finite.

        Raises:
            ModelError: some are not.
        """
        array: npt.NDArray[np.float32] = embedded.cpu().numpy()
        if not np.isfinite(array).all():
            raise ModelError(
                f"model {self.name} in {self.precision} gives embeddings that are not finite; use another precision"
            )
        return array


def open_worker(settings: Mapping[str, Any]) -> "Embedder":
    """Returns a worker of the embed pass.

    Args:
        settings: `models` (the recipe's, by short name), `device` (auto, cpu, cuda), `decode` (fast, exact),
            `endpoint` (an S3 server other than AWS, for weights; or None), and optionally `decoders` (processes that
            decode for a GPU; None: one per core, at most 16), `pixels` (by name of a pixel scorer, its
            `PixelScorer.settings`) and `captions` (whether the source has captions; by default it has).

    Raises:
        UsageError: the device does not exist here.
    """
    models = {name: ModelSettings(**model) for name, model in settings["models"].items()}
    is_exact = settings["decode"] == "exact"
    device = choose_device(settings["device"])
    if device.type == "cpu":
        keep_freed_blocks()
    pixels = [opened(name, scorer_settings) for name, scorer_settings in settings.get("pixels", {}).items()]
    has_captions = settings.get("captions", True)
    return Embedder(models, device, settings["endpoint"], is_exact, settings.get("decoders"), pixels, has_captions)


@dataclass
class Embedder:
    """Embeds parts; loads a model when a part first needs it. Its threads live as long as the worker."""

    settings: Mapping[str, ModelSettings]
    device: torch.device
    endpoint: str | None
    is_exact: bool = True
    decoders: int | None = None
    pixels: Sequence[PixelScorer] = ()
    has_captions: bool = True
    _scores: dict[str, Score] = field(default_factory=dict)
    _loaded: dict[str, tuple[Model, BatchSize]] = field(default_factory=dict)
    _decoding: Decoding = field(init=False)
    _reader: Executor = field(init=False)
    _tokenizing: threading.Lock = field(default_factory=threading.Lock)
    _coming: Reading[Captions] | None = None

    def __post_init__(self) -> None:
        if self.device.type == "cpu":
            # On a CPU, decoding and computing alternate: run at the same time their threads compete for the cores, and
            # embedding took 15 % longer (benchmarks/score.py).
            threads = max(settings.threads for settings in self.settings.values())
            self._decoding = Decoding(threads, in_turns=True)
        else:
            # A GPU takes more images per second than threads of one process can decode (benchmarks/feed.py).
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            self._decoding = Decoding(self.decoders or min(cores, _MOST_DECODERS), in_processes=True)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="read")

    def __call__(self, part: int, inputs: Inputs, outputs: Mapping[str, Outputs], following: int | None = None) -> None:
        """Writes those of `pixels`, `pixels-<scorer>` and `embed-<model>` that are in `outputs`, for one part.

        Args:
            part: number of the part.
            inputs: `plan` and `fetch`.
            outputs: the missing outputs.
            following: the part that probably follows; its bytes are read ahead.

        Raises:
            BrokenResult: plan, images and tar do not match.
            ModelError: a model cannot be loaded, its embeddings are not finite, or memory does not hold a batch.
            DeviceLost: the GPU failed; this process cannot use it any more.
        """
        reading = self._reading(part, inputs, following)
        try:
            with gpu_failures(self.device):
                self._embed(reading, outputs)
        finally:
            reading.close()

    def _reading(self, part: int, inputs: Inputs, following: int | None) -> Reading[Captions]:
        """Returns the reading of this part, which may have been read ahead; the following part is read after it."""
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
        # On a GPU, the first images are decoded while the captions are embedded.
        for name, run in zip(names, runs, strict=True):
            if captions.distinct and run.model.has_text:
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
                for by_row, values_of_image in zip(measures, image.values, strict=True):
                    by_row[row] = values_of_image
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
            output = outputs[f"embed-{name}"]
            embedded, row_of = run.write_images(ids, output)
            if self.has_captions and run.model.has_text:
                image_of = row_of[pc.index_in(pairs["image_id"], value_set=ids).to_numpy()]
                run.write_pairs(pairs["pair_id"], image_of, captions.of_pair, embedded, output)
                note_cut(captions.shortened, "caption", output)

    def _tokenize(self, column: pa.ChunkedArray) -> Captions:
        """Tokenizes captions for the models that are loaded; for a model that is loaded later, `_embed` does it."""
        captions = Captions.of(column)
        if captions.distinct:
            for name, (model, _) in list(self._loaded.items()):
                if model.has_text:
                    captions.tokens[name] = self._tokens(model, captions)
        return captions

    def _tokens(self, model: Model, captions: Captions) -> Tensor:
        assert model.tokenize, "a model without a text tower reads no captions"
        # Hugging Face's tokenizers raise when two threads use them at once.
        with self._tokenizing:
            return model.tokenize(captions.distinct)

    def _model(self, name: str) -> tuple[Model, BatchSize]:
        if name not in self._loaded:
            self._loaded[name] = self.settings[name].load(self.device, self.endpoint)
        return self._loaded[name]

    def _score(self, scorer: PixelScorer) -> Score:
        """Returns the function that scores crops with a `PixelModel`; loads the model when a part first needs it."""
        assert isinstance(scorer.kind, PixelModel)
        if scorer.name not in self._scores:
            self._scores[scorer.name] = scorer.kind.open(scorer.keys, scorer.learned, self.device, self.endpoint)
        return self._scores[scorer.name]


@dataclass
class _Run:
    """One model and one part: collects images into batches, embeds them, and writes the embeddings at the end.

    Attributes:
        rows: rows of the images that were added, in the order of their embeddings.
        waiting: images of the batch that is not yet full.
        embedded: float32[n, dim] of each batch, on the model's device.
        mirrored: likewise of the mirrored images, where the recipe asks for them.
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
        """Embeds a part's distinct captions; `tokens` is int64[n, context]."""
        torch.set_num_threads(self.settings.threads)
        self.captions = self.size.run(lambda size: self.model.encode_tokens(tokens, size))

    def add_image(self, row: int, crop: npt.NDArray[np.uint8]) -> None:
        """Adds an image; embeds the batch once it is full."""
        self.rows.append(row)
        self.waiting.append(crop)
        if len(self.waiting) == self.size.asked:
            self._embed_waiting()

    def write_images(
        self, image_ids: pa.Array, output: Outputs
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Writes the embeddings of the part's images.

        Returns:
            the embeddings, float32[n, dim], of the images that were added; and int64[images], each image's row in
            them, -1 where it has none.
        """
        if self.waiting:
            self._embed_waiting()
        embedded = self._numbers(self.embedded)
        row_of = np.full(len(image_ids), -1)
        row_of[self.rows] = np.arange(len(self.rows))
        by_image = np.zeros((len(image_ids), self.model.dim), np.float16)
        by_image[self.rows] = embedded
        images = pa.table({"image_id": image_ids, "image_embedding": _embeddings(by_image, row_of < 0)})
        output.put_table("images.parquet", images)
        output.counts["images"] = len(self.rows)
        if self.size.now < self.size.asked:
            output.counts["smaller_batches"] = 1
        if self.size.note:
            output.notes.append(self.size.note)
        return embedded, row_of

    def write_pairs(
        self,
        pair_ids: pa.ChunkedArray,
        image_of: npt.NDArray[np.int64],
        caption_of: npt.NDArray[np.int64],
        embedded: npt.NDArray[np.float32],
        output: Outputs,
    ) -> None:
        """Writes the text embeddings and scores of the part's pairs, null where a caption is empty.

        Args:
            pair_ids: of the pairs.
            image_of: int64[pairs], each pair's row in `embedded`, -1 where its image has no embedding.
            caption_of: int64[pairs], each pair's row in `captions`, -1 where its caption is empty.
            embedded: float32[n, dim], embeddings of images.
            output: of this model and part.
        """
        is_empty = caption_of < 0
        text = np.zeros((len(caption_of), self.model.dim), np.float32)
        if self.captions is not None:
            text[~is_empty] = self._numbers([self.captions])[caption_of[~is_empty]]
        scored = np.where(is_empty, -1, image_of)
        by_pair = {
            "pair_id": pair_ids,
            "text_embedding": _embeddings(text.astype(np.float16), is_empty),
            schema.SIMILARITY: _cosines(embedded, scored, text),
        }
        if self.settings.mirror:
            by_pair[schema.MIRRORED] = _cosines(self._numbers(self.mirrored), scored, text)
        output.put_table("pairs.parquet", pa.table(by_pair))
        output.counts["pairs"] = len(pair_ids)

    def _embed_waiting(self) -> None:
        torch.set_num_threads(self.settings.threads)
        self.embedded += embed_images(self.model, self.size, self.waiting)
        if self.settings.mirror:
            self.mirrored += embed_images(self.model, self.size, self.waiting, mirrored=True)
        self.waiting = []

    def _numbers(self, batches: list[Tensor]) -> npt.NDArray[np.float32]:
        """Concatenates batches to float32[n, dim]."""
        return self.settings.numbers(torch.cat(batches) if batches else torch.zeros((0, self.model.dim)))


def _cosines(
    images: npt.NDArray[np.float32], image_of: npt.NDArray[np.int64], text: npt.NDArray[np.float32]
) -> pa.Array:
    """Returns the cosine of each pair's embeddings, null without image or caption (`image_of` is negative).

    Args:
        images: float32[images, dim], normalised.
        image_of: int64[pairs], each pair's row in `images`, or -1.
        text: float32[pairs, dim], normalised.
    """
    similarity = np.zeros(len(text), np.float32)
    seen = image_of >= 0
    similarity[seen] = np.einsum("ij,ij->i", images[image_of[seen]], text[seen])
    return pa.array(similarity, mask=~seen)


def _embeddings(rows: npt.NDArray[np.float16], mask: npt.NDArray[np.bool_] | None = None) -> pa.Array:
    """Returns float16[n, dim] as an embedding column, null where `mask` is true."""
    dim = rows.shape[1]
    column = pa.FixedSizeListArray.from_arrays(
        pa.array(rows.ravel()), dim, mask=None if mask is None else pa.array(mask)
    )
    return column.cast(schema.embedding(dim))
