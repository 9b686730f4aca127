"""Zero-shot concepts: how much more an image looks like the first prompt than like the others.

`concept_<name>` = softmax(logit_scale × cosine(image, prompts))[0], as in CLIP's zero-shot classification. A prompt
may be an ensemble, which is one direction: the mean of its prompts' embeddings.
"""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from curate.signals.task import Task
from curate.signals.vectors import directions, per_pair, shares

VERSION = 1


def columns(scorer: str, _params: Mapping[str, Any]) -> Mapping[str, pa.DataType]:
    """The column of this scorer, which has its name."""
    return {scorer: pa.float32()}


def score(task: Task) -> Mapping[str, pa.Array]:
    """The column for a part's pairs.

    Its parameters `prompts` and `embed` are the short names of the folders with the prompts' and the images'
    embeddings.

    Raises:
        BrokenResult: the embeddings are not those of the pairs' images.
    """
    folder = task.inputs[task.params["prompts"]]
    prompts, scale = directions(folder), folder.json("model.json")["logit_scale"]
    (found,) = per_pair(task, prompts.shape[1], folder.path, 1, lambda images: shares(images, prompts, scale)[:, :1])
    return {task.scorer: found}
