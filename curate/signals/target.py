"""Similarity to a set of images that one would like to have more of.

`target_<name>` is the highest cosine of the pair's image to any of them: NormSim with an infinite norm (Wang et al.,
CLIPLoss and Norm-Based Data Selection Methods for Multimodal Contrastive Learning, 2024).
"""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from curate.signals.task import Task
from curate.signals.vectors import directions, per_pair

VERSION = 1


def columns(scorer: str, _params: Mapping[str, Any]) -> Mapping[str, pa.DataType]:
    """The column of this scorer, which has its name."""
    return {scorer: pa.float32()}


def score(task: Task) -> Mapping[str, pa.Array]:
    """The column for a part's pairs.

    Its parameters `prompts` and `embed` are the short names of the folders with the targets' and the images'
    embeddings.

    Raises:
        BrokenResult: the embeddings are not those of the pairs' images.
    """
    folder = task.inputs[task.params["prompts"]]
    targets = directions(folder)
    nearest = lambda images: (images @ targets.T).max(axis=1, keepdims=True)  # noqa: E731
    (found,) = per_pair(task, targets.shape[1], folder.path, 1, nearest)
    return {task.scorer: found}
