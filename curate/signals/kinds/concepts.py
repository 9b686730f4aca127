"""Zero-shot concepts: the probability of the first prompt among several, as in CLIP's zero-shot classification.

`concept_<name>` = softmax(logit_scale × cosine(image, prompts))[0]. A prompt may be an ensemble, which is one
direction: the mean of its prompts' embeddings.
"""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from curate.signals.contract import Prompts, Signal, SignalKeys, Task
from curate.signals.prompt_keys import Prompt, ensemble, repeated
from curate.signals.vectors import directions, per_pair, shares


class Concept(SignalKeys):
    """A zero-shot concept."""

    prompts: list[Prompt] = Field(
        description="Two or more prompts, the first of which is the concept; a list in place of a prompt is an "
        "ensemble.",
        max_length=1000,
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"prompts": value} if isinstance(value, list) else value

    @field_validator("prompts")
    @classmethod
    def _two(cls, value: list[str | list[str]]) -> list[str | list[str]]:
        if len(value) < 2:
            raise ValueError("at least two prompts are needed: the concept, and what it is distinguished from")
        if twice := repeated([ensemble(prompt) for prompt in value]):
            raise ValueError(f"the prompt {twice!r} appears twice")
        return value


class Concepts(Signal[Concept]):
    """The kind `concepts`."""

    name = "concepts"
    prefix = "concept"
    version = 1
    about = (
        "Zero-shot concepts: two or more prompts, the first of which is the concept; `concept_<name>` is its softmax "
        "probability."
    )
    keys = Concept

    def directions(self, keys: Concept) -> Prompts:
        """A direction for each prompt or ensemble."""
        ensembles = [[prompt] if isinstance(prompt, str) else prompt for prompt in keys.prompts]
        return Prompts([" / ".join(prompts) for prompts in ensembles], ensembles)

    def score(self, task: Task) -> Mapping[str, pa.Array]:
        """The first prompt's probability, by pair."""
        folder = task.directions
        assert folder is not None
        prompts, scale = directions(folder), folder.json("model.json")["logit_scale"]
        first = lambda images: shares(images, prompts, scale)[:, :1]  # noqa: E731
        (found,) = per_pair(task, prompts.shape[1], folder.path, 1, first)
        return {task.scorer: found}


SIGNAL = Concepts()
