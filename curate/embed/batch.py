"""The batch size of a model: the recipe's or a measured default, halved where memory runs out."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from curate.embed.model.towers import Model
from curate.errors import ModelError

T = TypeVar("T")

ON_CPU = 64
"""Default batch size on a CPU; measured on two cores, 32 and 128 rows are within a few percent of its speed."""

_PROBE = 8
_LEAST, _MOST = 16, 1024
_SHARE = 0.25
"""Share of a GPU's memory that a batch may take; the rest is for other workers, weights and the next batch."""

_OUT_OF_MEMORY = (
    "DefaultCPUAllocator",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
)
"""Texts of RuntimeErrors that mean out of memory where torch raises no OutOfMemoryError: on the CPU, outside of torch's
allocator, and in CUDA's libraries."""


@dataclass
class BatchSize:
    """The batch size of one model in one worker; halved when memory runs out, and never raised again.

    Attributes:
        model: name of the model, for the error.
        asked: the batch size of the recipe, or the default.
        now: the batch size in use.
        by_memory: whether `asked` is the default that was measured from a GPU's memory.
    """

    model: str
    asked: int
    now: int = 0
    by_memory: bool = False

    def __post_init__(self) -> None:
        self.now = self.now or self.asked

    @property
    def note(self) -> str | None:
        """The note for a part's marker where the batch size is not the recipe's, else None."""
        if self.now == self.asked:
            return f"batches of {self.asked}, by the memory of the GPU" if self.by_memory else None
        return f"out of memory: embedded in batches of {self.now} instead of {self.asked}"

    def run(self, work: Callable[[int], T]) -> T:
        """Calls `work` with the batch size; halves it and calls again while memory runs out. Returns the result.

        Raises:
            ModelError: memory does not hold a batch of one.
        """
        while True:
            try:
                return work(self.now)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.now == 1:
                    raise ModelError(
                        f"model {self.model}: memory does not hold a batch of one; use a device with more memory, "
                        "fewer workers per device, or a lower precision"
                    ) from error
            # After the except block, as the error references the memory that the failed batch allocated.
            self.now //= 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def embed_images(
    model: Model, size: BatchSize, prepared: Sequence[npt.NDArray[np.uint8]], *, mirrored: bool = False
) -> list[Tensor]:
    """Embeds prepared images in one batch, or in several where memory requires it.

    Returns:
        float32[n, dim] of each batch, in order, on the model's device.
    """
    batches: list[Tensor] = []
    done = 0

    def embed(rows: int) -> Tensor:
        return model.encode_images(prepared[done : done + rows], rows, mirrored=mirrored)

    while done < len(prepared):
        batches.append(size.run(embed))
        done += len(batches[-1])
    return batches


def default_size(model: Model) -> int:
    """Returns the batch size of a model for which the recipe has none; it depends on model and device alone.

    On a GPU it follows from the peak memory of a small forward pass, which is measured here.
    """
    if model.device.type != "cuda":
        return ON_CPU
    height, width = model.image_size
    black = [np.zeros((3, height, width), np.uint8)] * _PROBE
    try:
        model.encode_images(black, _PROBE)  # makes the allocations that happen once per process
        torch.cuda.reset_peak_memory_stats(model.device)
        before = torch.cuda.memory_allocated(model.device)
        model.encode_images(black, _PROBE)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        # `BatchSize.run` then halves the first batch until it fits, or raises the error.
        torch.cuda.empty_cache()
        return _PROBE
    used = torch.cuda.max_memory_allocated(model.device) - before
    return largest_batch(used / _PROBE, torch.cuda.get_device_properties(model.device).total_memory)


def largest_batch(bytes_of_a_row: float, memory: int) -> int:
    """Returns the largest power of two of rows that a quarter of a device's memory holds, from 16 to 1,024."""
    rows = max(1.0, memory * _SHARE / max(1.0, bytes_of_a_row))
    return int(min(_MOST, max(_LEAST, 2 ** math.floor(math.log2(rows)))))


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of torch or of Python means that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(error) for words in _OUT_OF_MEMORY)
