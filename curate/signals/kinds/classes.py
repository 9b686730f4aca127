"""Zero-shot classes: the label that an image matches best, and its probability.

`class_<name>` is the label with the highest cosine, `class_<name>_probability` its value in
softmax(logit_scale × cosine(image, labels)), as in CLIP's zero-shot classification. Of equal labels the first counts.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BeforeValidator, Field, model_validator

from curate.keys import Passage
from curate.signals.contract import Columns, Prompts, Signal, SignalKeys, Task
from curate.signals.prompt_keys import are_texts, ensemble, is_text, one_line, repeated
from curate.signals.vectors import Vectors, directions, per_pair, shares


def _labels(value: Any) -> Any:
    of_each = isinstance(value, dict) and all(is_text(label) and are_texts(of) for label, of in value.items())
    if not (of_each or are_texts(value)):
        raise ValueError("write a list of texts, or a mapping of texts to lists of prompts; none may be empty")
    labels = [one_line(label) for label in value]
    if len(labels) < 2:
        raise ValueError("at least two labels are needed")
    if twice := repeated(labels):
        raise ValueError(f"the label {twice!r} appears twice")
    return value


class OneOf(SignalKeys):
    """Zero-shot classes."""

    labels: Annotated[
        Annotated[list[Passage], Field(max_length=100_000)]
        | Annotated[dict[Passage, Annotated[list[Passage], Field(max_length=1000)]], Field(max_length=100_000)],
        BeforeValidator(_labels),
    ] = Field(description="A list of labels, or a mapping from each label to its own prompts.")
    templates: list[Passage] = Field(
        ["a photo of a {}."],
        description="Prompt templates for labels without prompts of their own; `{}` stands for the label.",
        min_length=1,
        max_length=1000,
    )

    @model_validator(mode="after")
    def _texts(self) -> "OneOf":
        if isinstance(self.labels, dict) and self.templates != type(self).model_fields["templates"].default:
            raise ValueError("labels with prompts of their own need no templates; leave them out")
        if any(template.count("{}") != 1 for template in self.templates):
            raise ValueError("a template has exactly one {}, for the label")
        if twice := repeated([ensemble(prompts) for prompts in self.prompts.values()]):
            raise ValueError(f"two labels have the prompt {twice!r}")
        return self

    @property
    def prompts(self) -> dict[str, list[str]]:
        """The prompts of each label."""
        if isinstance(self.labels, dict):
            return self.labels
        return {label: [template.replace("{}", label) for template in self.templates] for label in self.labels}


class Classes(Signal[OneOf]):
    """The kind `classes`."""

    name = "classes"
    prefix = "class"
    version = 1
    about = "Zero-shot classes: `class_<name>` is the best label, `class_<name>_probability` its softmax probability."
    keys = OneOf

    def columns(self, scorer: str) -> Columns:
        """The label, under the scorer's name, and its probability."""
        return {scorer: pa.string(), f"{scorer}_probability": pa.float32()}

    def directions(self, keys: OneOf) -> Prompts:
        """A direction for each label."""
        return Prompts(list(keys.prompts), list(keys.prompts.values()))

    def score(self, task: Task) -> Mapping[str, pa.Array]:
        """The best label and its probability, by pair."""
        folder = task.directions
        assert folder is not None
        prompts, scale = directions(folder), folder.json("model.json")["logit_scale"]
        labels = folder.table("prompts.parquet")["prompt"].combine_chunks()

        def best(images: Vectors) -> npt.NDArray[Any]:
            share = shares(images, prompts, scale)
            label = share.argmax(axis=1)
            return np.stack([label, share[np.arange(len(share)), label]], axis=1)

        which, probability = per_pair(task, prompts.shape[1], folder.path, 2, best)
        return {task.scorer: labels.take(pc.cast(which, pa.int64())), f"{task.scorer}_probability": probability}


SIGNAL = Classes()
