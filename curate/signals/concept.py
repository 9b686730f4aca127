"""Zero-shot concepts: how much more an image looks like the first prompt than like the others.

`concept_<name>` = softmax(logit_scale × cosine(image, prompts))[0], as in CLIP's zero-shot classification. A
SigLIP-type model's bias is the same for all prompts and so changes nothing.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate.errors import BrokenResult
from curate.signals.task import Task

VERSION = 1
_BLOCK = 4096
"""Images that are held in float32 at a time."""


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
    embed, prompts = task.inputs[task.params["embed"]], task.inputs[task.params["prompts"]]
    images = embed.table("images.parquet", task.part)
    image_of = pc.index_in(task.pairs["image_id"].combine_chunks(), value_set=images["image_id"])
    if image_of.null_count:
        raise BrokenResult(f"{embed.path}: part {task.part} lacks images of its plan")
    directions = _rows(prompts.table("prompts.parquet")["embedding"])
    column = images["image_embedding"]
    if column.type.list_size != directions.shape[1]:
        raise BrokenResult(f"{embed.path} and {prompts.path} hold embeddings of different models")
    shares = np.zeros(len(column), np.float32)
    is_there = column.is_valid().to_numpy()
    scale = prompts.json("model.json")["logit_scale"]
    shares[is_there] = first_share(_rows(column.drop_null()), directions, scale)
    return {task.scorer: pa.array(shares, mask=~is_there).take(image_of)}


def first_share(
    images: npt.NDArray[np.floating[Any]], prompts: npt.NDArray[np.float32], scale: float
) -> npt.NDArray[np.float32]:
    """The first prompt's share of the softmax, for each image.

    Args:
        images: [n, dim], of any float type; its rounding is undone by normalising again.
        prompts: float32[prompts, dim], L2-normalised.
        scale: what cosines are multiplied by.

    Returns:
        float32[n], 0 to 1.
    """
    shares = np.empty(len(images), np.float32)
    for start in range(0, len(images), _BLOCK):
        block = images[start : start + _BLOCK].astype(np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
        logits = scale * (block @ prompts.T)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares[start : start + _BLOCK] = weights[:, 0] / weights.sum(axis=1)
    return shares


def _rows(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """A column of embeddings without nulls as [n, dim]."""
    rows: npt.NDArray[Any] = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return rows.reshape(-1, column.type.list_size)
