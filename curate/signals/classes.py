"""Zero-shot classes: which of some labels an image looks most like, and how surely.

`class_<name>` is the label with the highest cosine, `class_<name>_probability` its share of
softmax(logit_scale × cosine(image, labels)), as in CLIP's zero-shot classification. Of equal ones the first counts.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate.signals.task import Task
from curate.signals.vectors import Vectors, directions, per_pair, shares

VERSION = 1


def columns(scorer: str, _params: Mapping[str, Any]) -> Mapping[str, pa.DataType]:
    """The label, under the scorer's name, and its probability."""
    return {scorer: pa.string(), f"{scorer}_probability": pa.float32()}


def score(task: Task) -> Mapping[str, pa.Array]:
    """The columns for a part's pairs; parameters as for `concept.score`.

    Raises:
        BrokenResult: the embeddings are not those of the pairs' images.
    """
    folder = task.inputs[task.params["prompts"]]
    prompts, scale = directions(folder), folder.json("model.json")["logit_scale"]
    labels = folder.table("prompts.parquet")["prompt"].combine_chunks()

    def best(images: Vectors) -> npt.NDArray[Any]:
        share = shares(images, prompts, scale)
        label = share.argmax(axis=1)
        return np.stack([label, share[np.arange(len(share)), label]], axis=1)

    which, probability = per_pair(task, prompts.shape[1], folder.path, 2, best)
    return {task.scorer: labels.take(pc.cast(which, pa.int64())), f"{task.scorer}_probability": probability}
