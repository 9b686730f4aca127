"""The job of processes that decode and prepare images for a worker with a GPU: decoding, resizing, measures.

Decoding and resizing release Python's global lock, but the code between them does not. Measured with 512-pixel JPEGs, a
thread holds the lock for a fifth of its time, so that no number of threads prepares more than some 1,000 images a
second (2,500 without pixel columns). A GPU takes more. Each process has a lock of its own.
"""

import math
import pickle
from typing import Any

import numpy as np
import torch

from curate.decoding.child import Job, Result
from curate.embed.decode.prepare import Prepare, Prepared
from curate.embed.pixels.basic import Measures

NAME = "curate.embed.decode.prepare_job:opened"


def parameters(prepare: Prepare) -> bytes:
    """Returns the job's parameters, a pickle: they come from the process that started the job's."""
    return pickle.dumps(prepare)


def opened(pickled: bytes) -> Job:
    """Returns the job: an image's bytes to measures ([] where not needed), values and crops."""
    torch.set_num_threads(1)  # each process uses one core
    prepare: Prepare = pickle.loads(pickled)  # noqa: S301 - made by the process that started this one

    def prepared(data: bytes) -> Result:
        image = prepare(data)
        if image is None:
            return None, []
        arrays = [*image.crops, *([image.measures.thumbnail] if image.measures else [])]
        shapes = [array.shape for array in arrays]
        return [_numbers(image.measures), image.values, shapes], [
            np.ascontiguousarray(a).reshape(-1).data for a in arrays
        ]

    return prepared


def read(value: Any, buffers: list[bytearray]) -> Prepared | None:
    """Returns a result's image; None where it cannot be decoded.

    Raises:
        ValueError, TypeError, LookupError: the result is malformed.
    """
    if value is None:
        return None
    numbers, values, shapes = value
    arrays = []
    for shape, buffer in zip(shapes, buffers, strict=True):
        if math.prod(shape) != len(buffer):
            raise ValueError("an array of another size than it says")
        arrays.append(np.frombuffer(buffer, np.uint8).reshape(shape))
    if not numbers:
        return Prepared(arrays, None, values)
    brightness, contrast, colorfulness, sharpness = map(float, numbers)
    return Prepared(arrays[:-1], Measures(arrays[-1], brightness, contrast, colorfulness, sharpness), values)


def _numbers(measures: Measures | None) -> list[float]:
    if measures is None:
        return []
    return [measures.brightness, measures.contrast, measures.colorfulness, measures.sharpness]
