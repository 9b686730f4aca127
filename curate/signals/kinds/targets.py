"""Similarity to a set of target images, such as samples of the data that a model should be good at.

`target_<name>` is the highest cosine of the pair's image to any of them: NormSim with an infinite norm (Wang et al.,
CLIPLoss and Norm-Based Data Selection Methods for Multimodal Contrastive Learning, 2024).
"""

from collections.abc import Mapping

import pyarrow as pa
from pydantic import Field

from curate.keys import Places
from curate.signals.contract import Images, Signal, SignalKeys, Task
from curate.signals.vectors import directions, per_pair


class Target(SignalKeys):
    """A set of target images."""

    images: Places = Field(description="Files, folders or globs of images; any fsspec path.", min_length=1)


class Targets(Signal[Target]):
    """The kind `targets`."""

    name = "targets"
    prefix = "target"
    version = 1
    about = "Sets of images: `target_<name>` is the highest cosine of the image to one of them."
    keys = Target

    def directions(self, keys: Target) -> Images:
        """A direction for each image."""
        return Images(keys.images)

    def score(self, task: Task) -> Mapping[str, pa.Array]:
        """The highest cosine, by pair."""
        folder = task.directions
        assert folder is not None
        targets = directions(folder)
        nearest = lambda images: (images @ targets.T).max(axis=1, keepdims=True)  # noqa: E731
        (found,) = per_pair(task, targets.shape[1], folder.path, 1, nearest)
        return {task.scorer: found}


SIGNAL = Targets()
