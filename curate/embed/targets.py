"""Embeds target images with a model's image tower, once per run, for the signals of similarity to target images."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from curate.decoding.pool import Decoders, Lost
from curate.device import choose_device, gpu_failures
from curate.embed import target_job
from curate.embed.batch import BatchSize, embed_images
from curate.embed.model.towers import Model
from curate.embed.target_files import TargetImage, read
from curate.embed.worker import ModelSettings
from curate.errors import RecipeError
from curate.store import Inputs, Outputs


def open_worker(settings: Mapping[str, Any]) -> "TargetEmbedder":
    """Returns a worker that embeds target images.

    Args:
        settings: `models` (the recipe's, by short name), `sets` (by folder: `model`, `where`, and `images` as `find`
            returned them), `device`, `endpoint`.

    Raises:
        UsageError: the device does not exist here.
    """
    models = {name: ModelSettings(**model) for name, model in settings["models"].items()}
    return TargetEmbedder(models, settings["sets"], choose_device(settings["device"]), settings["endpoint"])


@dataclass
class TargetEmbedder:
    """Embeds sets of images; a model is loaded when a set first needs it."""

    models: Mapping[str, ModelSettings]
    sets: Mapping[str, Any]
    device: torch.device
    endpoint: str | None
    _loaded: dict[str, tuple[Model, BatchSize]] = field(default_factory=dict)
    _decoders: Decoders = field(default_factory=lambda: Decoders(target_job.NAME, 1))

    def __call__(self, _unit: int, _inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:
        """Writes `prompts.parquet` (prompt: an image's digest, embedding) of each set.

        Raises:
            RecipeError: an image cannot be read or decoded, or changed since the run began.
            ModelError: the model cannot be loaded, its embeddings are not finite, or memory does not hold a batch.
            DeviceLost: the GPU failed; this process cannot use it any more.
        """
        with gpu_failures(self.device):
            for folder, output in outputs.items():
                self._write(folder, output)

    def _write(self, folder: str, output: Outputs) -> None:
        target_set = self.sets[folder]
        where = target_set["where"]
        chosen = replace(self.models[target_set["model"]], **target_set.get("how", {}))
        model, size = self._model(target_set["model"], chosen)
        torch.set_num_threads(chosen.threads)
        images = [TargetImage(**image) for image in target_set["images"]]
        embedded: list[Tensor] = []
        for start in range(0, len(images), size.asked):
            crops = [self._prepared(where, model, image) for image in images[start : start + size.asked]]
            embedded += embed_images(model, size, crops)
        embeddings = chosen.numbers(torch.cat(embedded))
        column = pa.array(list(embeddings), pa.list_(pa.float32(), model.dim))
        digests = [image.sha256 for image in images]
        output.put_table("prompts.parquet", pa.table({"prompt": digests, "embedding": column}))
        output.counts.update(images=len(images))
        if size.note:
            output.notes.append(size.note)

    def _model(self, name: str, chosen: ModelSettings) -> tuple[Model, BatchSize]:
        if name not in self._loaded:
            self._loaded[name] = chosen.load(self.device, self.endpoint)
        return self._loaded[name]

    def _prepared(self, where: str, model: Model, image: TargetImage) -> Any:
        """Returns the model's input for an image, turned upright and composited on white as fetch would store it."""
        data = read(where, image.path, self.endpoint)
        if hashlib.sha256(data).hexdigest() != image.sha256:
            raise RecipeError(f"{where}: {image.path} changed during the run; start it again")
        try:
            picture = self._decoders.one(b"", data, target_job.read)
        except Lost as lost:
            raise RecipeError(f"{where}: {image.path} cannot be decoded ({lost}); leave it out") from lost
        if picture is None:
            raise RecipeError(f"{where}: {image.path} cannot be decoded; leave it out")
        if picture == target_job.DEEP:
            raise RecipeError(f"{where}: {image.path} has more than 8 bits a pixel; save it with 8")
        return model.preprocess(picture)
