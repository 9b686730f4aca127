"""The prompts of zero-shot concepts through a model's text tower: once per run, for every part's signals."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch

from curate.embed.model import Model, ModelFacts, choose_device, describe, load
from curate.embed.worker import ModelSettings
from curate.store import Inputs, Outputs


def open_worker(settings: Mapping[str, Any]) -> "PromptEmbedder":
    """A worker that embeds prompts.

    Args:
        settings: `model` (the recipe's), `concepts` (prompts by concept, the concept itself first), `device`,
            `endpoint`.

    Raises:
        UsageError: the device is not there, or the model cannot be loaded.
    """
    chosen = ModelSettings(**settings["model"])
    device = choose_device(settings["device"])
    torch.set_num_threads(chosen.threads)
    model = load(chosen.name, chosen.pretrained, chosen.precision, device, settings["endpoint"])
    # The scale is taken from the weights: low precision rounds the model's own.
    facts = describe(chosen.name, chosen.pretrained, settings["endpoint"])
    return PromptEmbedder(model, facts, chosen.batch_size, settings["concepts"])


@dataclass(frozen=True)
class PromptEmbedder:
    """Embeds the prompts of concepts."""

    model: Model
    facts: ModelFacts
    batch_size: int
    concepts: Mapping[str, list[str]]

    def __call__(self, _unit: int, _inputs: Inputs, outputs: Mapping[str, Outputs]) -> None:
        """Writes `prompts-<concept>`: `prompts.parquet` (prompt, embedding) and `model.json` (scale, bias)."""
        for folder, output in outputs.items():
            prompts = self.concepts[folder.removeprefix("prompts-")]
            embedded = self.model.encode_captions(prompts, self.batch_size)
            column = pa.array(list(embedded), pa.list_(pa.float32(), self.model.dim))
            output.put_table("prompts.parquet", pa.table({"prompt": prompts, "embedding": column}))
            scale = {"logit_scale": self.facts.logit_scale, "logit_bias": self.facts.logit_bias}
            output.put_json("model.json", scale)
            output.counts.update(prompts=len(prompts))
