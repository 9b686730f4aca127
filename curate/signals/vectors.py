"""Columns from stored image embeddings: computes values for a part's images, block by block, then for its pairs."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate.errors import BrokenResult
from curate.signals.contract import Task
from curate.store import Folder

_BLOCK = 4096
"""Images converted to float32 at a time."""

Vectors = npt.NDArray[np.float32]
Measure = Callable[[Vectors], npt.NDArray[Any]]
"""Maps embeddings [n, dim], L2-normalised, to values [n, columns]."""


def per_pair(task: Task, dim: int, of: str, columns: int, measure: Measure) -> list[pa.Array]:
    """Computes values for the images of a part; returns for each pair the values of its image.

    Args:
        task: the task of a kind that reads embeddings.
        dim: the expected length of the embeddings: that of the head or directions they are used with.
        of: the name of this head or folder of directions, for an error.
        columns: how many values `measure` returns for each image.
        measure: computes the values.

    Returns:
        float32 arrays, row for row with the task's pairs; null where an image has no embedding.

    Raises:
        BrokenResult: the embeddings are not those of the pairs' images, or have another length than `dim`.
    """
    embed = task.embeddings
    assert embed is not None, f"{task.scorer} does not say that it reads embeddings"
    images = embed.table("images.parquet", task.part)
    image_of = pc.index_in(task.pairs["image_id"].combine_chunks(), value_set=images["image_id"])
    if image_of.null_count:
        raise BrokenResult(f"{embed.path}: part {task.part} lacks images of its plan")
    column = images["image_embedding"]
    if column.type.list_size != dim:
        raise BrokenResult(f"{embed.path} and {of} hold embeddings of different models")
    values = np.zeros((len(column), columns), np.float32)
    is_there = column.is_valid().to_numpy()
    values[is_there] = in_blocks(rows(column.drop_null()), columns, measure)
    return [pa.array(values[:, n], mask=~is_there).take(image_of) for n in range(columns)]


def in_blocks(images: npt.NDArray[np.floating[Any]], columns: int, measure: Measure) -> Vectors:
    """Applies `measure` to images of any float type [n, dim], normalised again, as float16 rounding changes lengths."""
    values = np.empty((len(images), columns), np.float32)
    for start in range(0, len(images), _BLOCK):
        block = images[start : start + _BLOCK].astype(np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
        values[start : start + _BLOCK] = measure(block)
    return values


def directions(folder: Folder) -> Vectors:
    """The embeddings that a folder of prompts or targets holds, float32[n, dim], L2-normalised."""
    return rows(folder.table("prompts.parquet")["embedding"])


def shares(images: Vectors, prompts: Vectors, scale: float) -> Vectors:
    """Returns CLIP's zero-shot probabilities, softmax(scale × cosine), [n, prompts].

    The bias of a SigLIP-type model is the same for all prompts, so the softmax cancels it.
    """
    logits = scale * (images @ prompts.T)
    weights: Vectors = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


def rows(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """Returns a column of embeddings without nulls as an array [n, dim]."""
    flat: npt.NDArray[Any] = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(-1, column.type.list_size)
