"""Embeds prompts with a model's text tower, once per run, for the zero-shot signals of every part."""

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
from curate.embed.model.cut import cut, note_cut
from curate.embed.model.describe import describe
from curate.embed.model.towers import Model
from curate.embed.worker import ModelSettings
from curate.errors import RecipeError
from curate.store import Inputs, Json, Outputs

SAME = 0.9999
"""The cosine from which two directions count as the same: a smaller difference may be the rounding of low precision."""

_BLOCK = 1024
"""Directions that are compared with all others at a time."""


@dataclass(frozen=True)
class PromptSet:
    """The prompts of one output folder.

    Attributes:
        model: the short name of the model.
        where: the key in the recipe, for errors.
        names: name of each direction: a prompt, or a label.
        prompts: prompts of each direction: one, or an ensemble.
        how: settings of the model with which the folder was begun (`threads`, `batch_size`).
    """

    model: str
    where: str
    names: Sequence[str]
    prompts: Sequence[Sequence[str]]
    how: Mapping[str, Any] = field(default_factory=dict)


def open_worker(settings: Mapping[str, Any]) -> "PromptEmbedder":
    """Returns a worker that embeds prompts.

    Args:
        settings: `models` (the recipe's, by short name), `sets` (by folder, the fields of a `PromptSet`), `device`,
            `endpoint`.

    Raises:
        UsageError: the device does not exist here.
    """
    models = {name: ModelSettings(**model) for name, model in settings["models"].items()}
    sets = {folder: PromptSet(**prompt_set) for folder, prompt_set in settings["sets"].items()}
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

        An ensemble gives one direction: the mean of its prompts' normalised embeddings, normalised again, as in
        CLIP's zero-shot classification (Radford et al. 2021, 3.1.4).

        Raises:
            RecipeError: two directions have the same embedding.
            UsageError: a model cannot be loaded, its embeddings are not finite, or memory does not hold a batch.
            DeviceLost: the GPU failed; this process cannot use it any more.
        """
        with gpu_failures(self.device):
            for folder, output in outputs.items():
                self._write(folder, output)

    def _write(self, folder: str, output: Outputs) -> None:
        prompt_set = self.sets[folder]
        chosen = replace(self.models[prompt_set.model], **prompt_set.how)
        model, size, scale = self._model(prompt_set.model, chosen)
        torch.set_num_threads(chosen.threads)
        texts = [text for ensemble in prompt_set.prompts for text in ensemble]
        assert model.tokenize, "the recipe was checked: a model that reads prompts has a text tower"
        tokens = model.tokenize(texts)
        embedded = chosen.numbers(size.run(partial(model.encode_tokens, tokens)))
        ends = np.cumsum([len(ensemble) for ensemble in prompt_set.prompts])
        means = np.stack([rows.mean(axis=0) for rows in np.split(embedded, ends[:-1])])
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        _check_apart(prompt_set, means)
        column = pa.array(list(means), pa.list_(pa.float32(), model.dim))
        output.put_table("prompts.parquet", pa.table({"prompt": list(prompt_set.names), "embedding": column}))
        output.put_json("model.json", scale)
        output.counts.update(prompts=len(texts))
        note_cut(sum(cut(text) != text for text in texts), "prompt", output)
        if size.note:
            output.notes.append(size.note)

    def _model(self, name: str, chosen: ModelSettings) -> tuple[Model, BatchSize, Json]:
        """Returns a model, its batch size, and its scale and bias for cosines before a softmax or sigmoid."""
        if name not in self._loaded:
            # The scale is read from the file of weights, as low precision has rounded that of the loaded model.
            facts = describe(chosen.name, chosen.pretrained, self.endpoint)
            scale = {"logit_scale": facts.logit_scale, "logit_bias": facts.logit_bias}
            self._loaded[name] = *chosen.load(self.device, self.endpoint), scale
        return self._loaded[name]


def _check_apart(prompt_set: PromptSet, means: npt.NDArray[np.float32]) -> None:
    """Raises RecipeError where two directions have the same embedding: no image could be told apart by them."""
    for start in range(0, len(means), _BLOCK):
        cosines = np.tril(means[start : start + _BLOCK] @ means.T, start - 1)
        place, other = np.unravel_index(cosines.argmax(), cosines.shape)
        if cosines[place, other] > SAME:
            first, second = prompt_set.names[int(other)], prompt_set.names[start + int(place)]
            raise RecipeError(
                f"{prompt_set.where}: the model {prompt_set.model!r} gives {first!r} and {second!r} the same embedding "
                f"(cosine {cosines[place, other]:.5f}), so they cannot tell images apart; reword one, or use another "
                "model"
            )
