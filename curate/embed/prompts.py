"""Prompts through a model's text tower: once per run, for every part's zero-shot signals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from curate.device import choose_device, gpu_failures
from curate.embed.batch import BatchSize
from curate.embed.model.facts import describe
from curate.embed.model.towers import Model
from curate.embed.worker import ModelSettings
from curate.errors import RecipeError
from curate.store import Inputs, Json, Outputs

SAME = 0.9999
"""The cosine from which two directions are one: what lies between them is the rounding of low precision."""

_BLOCK = 1024
"""Directions that are held against all others at a time."""


@dataclass(frozen=True)
class PromptSet:
    """What one folder is to hold.

    Attributes:
        model: the short name of the model.
        where: the place in the recipe, for errors.
        names: of the directions: a prompt, or a label.
        prompts: of each direction, one or an ensemble.
        how: settings of the model that the folder was begun with (`threads`, `batch_size`).
    """

    model: str
    where: str
    names: Sequence[str]
    prompts: Sequence[Sequence[str]]
    how: Mapping[str, Any] = field(default_factory=dict)


def open_worker(settings: Mapping[str, Any]) -> "PromptEmbedder":
    """A worker that embeds prompts.

    Args:
        settings: `models` (the recipe's, by short name), `sets` (a `PromptSet` as keys, by folder), `device`,
            `endpoint`.

    Raises:
        UsageError: the device is not there.
    """
    models = {name: ModelSettings(**model) for name, model in settings["models"].items()}
    sets = {folder: PromptSet(**asked) for folder, asked in settings["sets"].items()}
    return PromptEmbedder(models, sets, choose_device(settings["device"]), settings["endpoint"])


@dataclass
class PromptEmbedder:
    """Embeds sets of prompts; a model is loaded when a set first needs it."""

    models: Mapping[str, ModelSettings]
    sets: Mapping[str, PromptSet]
    device: torch.device
    endpoint: str | None
    _loaded: dict[str, tuple[Model, BatchSize, Json]] = field(default_factory=dict)

    def __call__(self, _unit: int, _inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:
        """Writes `prompts.parquet` (prompt, embedding) and `model.json` (scale, bias) of each set.

        An ensemble is one direction: the mean of its prompts' normalised embeddings, normalised again, as in
        CLIP's zero-shot classification (Radford et al. 2021, 3.1.4).

        Raises:
            RecipeError: two of the directions are one.
            UsageError: a model cannot be loaded, its embeddings are not numbers, or memory does not hold it.
            DeviceLost: the GPU failed; this process cannot use it any more.
        """
        with gpu_failures(self.device):
            for folder, output in outputs.items():
                self._write(folder, output)

    def _write(self, folder: str, output: Outputs) -> None:
        asked = self.sets[folder]
        chosen = replace(self.models[asked.model], **asked.how)
        model, size, scale = self._model(asked.model, chosen)
        torch.set_num_threads(chosen.threads)
        texts = [text for ensemble in asked.prompts for text in ensemble]
        tokens = model.tokenize(texts)
        embedded = chosen.numbers(size.run(partial(model.encode_tokens, tokens)))
        ends = np.cumsum([len(ensemble) for ensemble in asked.prompts])
        means = np.stack([rows.mean(axis=0) for rows in np.split(embedded, ends[:-1])])
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        _check_apart(asked, means)
        column = pa.array(list(means), pa.list_(pa.float32(), model.dim))
        output.put_table("prompts.parquet", pa.table({"prompt": list(asked.names), "embedding": column}))
        output.put_json("model.json", scale)
        output.counts.update(prompts=len(texts))
        if size.note:
            output.notes.append(size.note)

    def _model(self, name: str, chosen: ModelSettings) -> tuple[Model, BatchSize, Json]:
        """A model, its batch size, and what a cosine is made of before a softmax."""
        if name not in self._loaded:
            # The scale is taken from the weights: low precision rounds the model's own.
            facts = describe(chosen.name, chosen.pretrained, self.endpoint)
            scale = {"logit_scale": facts.logit_scale, "logit_bias": facts.logit_bias}
            self._loaded[name] = *chosen.load(self.device, self.endpoint), scale
        return self._loaded[name]


def _check_apart(asked: PromptSet, means: npt.NDArray[np.float32]) -> None:
    """Raises RecipeError where the model says the same of two directions: their shares would mean nothing."""
    for start in range(0, len(means), _BLOCK):
        cosines = np.tril(means[start : start + _BLOCK] @ means.T, start - 1)
        place, other = np.unravel_index(cosines.argmax(), cosines.shape)
        if cosines[place, other] > SAME:
            first, second = asked.names[int(other)], asked.names[start + int(place)]
            raise RecipeError(
                f"{asked.where}: to the model {asked.model!r} {first!r} and {second!r} are the same "
                f"(cosine {cosines[place, other]:.5f}), so no image is told apart by them; put one in other words, or "
                "name another model"
            )
