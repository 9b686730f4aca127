"""Prompts through a model's text tower: once per run, for every part's zero-shot signals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from curate.embed.model import Model, choose_device, describe
from curate.embed.worker import ModelSettings
from curate.store import Inputs, Outputs


@dataclass(frozen=True)
class PromptSet:
    """What one folder is to hold.

    Attributes:
        model: the short name of the model.
        names: of the directions: a prompt, or a label.
        prompts: of each direction, one or an ensemble.
    """

    model: str
    names: Sequence[str]
    prompts: Sequence[Sequence[str]]


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
    _loaded: dict[str, tuple[Model, int]] = field(default_factory=dict)

    def __call__(self, _unit: int, _inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:
        """Writes `prompts.parquet` (prompt, embedding) and `model.json` (scale, bias) of each set.

        An ensemble is one direction: the mean of its prompts' normalised embeddings, normalised again, as in
        CLIP's zero-shot classification (Radford et al. 2021, 3.1.4).

        Raises:
            UsageError: a model cannot be loaded.
        """
        for folder, output in outputs.items():
            asked = self.sets[folder]
            chosen = self.models[asked.model]
            if asked.model not in self._loaded:
                self._loaded[asked.model] = chosen.load(self.device, self.endpoint)
            model, batch_size = self._loaded[asked.model]
            texts = [text for ensemble in asked.prompts for text in ensemble]
            embedded = model.encode_captions(texts, batch_size)
            ends = np.cumsum([len(ensemble) for ensemble in asked.prompts])
            means = np.stack([rows.mean(axis=0) for rows in np.split(embedded, ends[:-1])])
            means /= np.linalg.norm(means, axis=1, keepdims=True)
            column = pa.array(list(means), pa.list_(pa.float32(), model.dim))
            output.put_table("prompts.parquet", pa.table({"prompt": list(asked.names), "embedding": column}))
            # The scale is taken from the weights: low precision rounds the model's own.
            facts = describe(chosen.name, chosen.pretrained, self.endpoint)
            scale = {"logit_scale": facts.logit_scale, "logit_bias": facts.logit_bias}
            output.put_json("model.json", scale)
            output.counts.update(prompts=len(texts))
