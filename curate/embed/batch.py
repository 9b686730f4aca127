"""How many rows go through a model at once: what the recipe says, and less where memory does not hold it."""

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
"""Rows of a forward pass on a CPU; measured on two cores, twice or half as many are within a few percent."""

_PROBE = 8
_LEAST, _MOST = 16, 1024
_SHARE = 0.25
"""Of a GPU's memory, what a batch may take: other workers, weights and the next batch want some, too."""

_SAID = (
    "DefaultCPUAllocator",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
)
"""Out of memory where torch has no error of its own for it: on the CPU, outside its allocator, in CUDA's libraries."""


@dataclass
class BatchSize:
    """The batch size of one model in one worker. It halves when memory runs out, and stays so.

    Attributes:
        model: whose, for the error.
        asked: the recipe's, or its default.
        now: what is used.
        by_memory: the default of a GPU's memory was taken.
    """

    model: str
    asked: int
    now: int = 0
    by_memory: bool = False

    def __post_init__(self) -> None:
        self.now = self.now or self.asked

    @property
    def note(self) -> str | None:
        """For the marker of a part: what was not as the recipe says, or None."""
        if self.now == self.asked:
            return f"batches of {self.asked}, by the memory of the GPU" if self.by_memory else None
        return f"out of memory: embedded in batches of {self.now} instead of {self.asked}"

    def run(self, work: Callable[[int], T]) -> T:
        """Calls `work` with the batch size, again with half of it as long as memory runs out.

        Raises:
            ModelError: memory does not hold a batch of one.
        """
        while True:
            try:
                return work(self.now)
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
                if self.now == 1:
                    raise ModelError(
                        f"model {self.model}: memory does not hold a batch of one; take a device with more, "
                        "fewer workers on it, or a lower precision"
                    ) from error
            # Out here, for the error held on to what the failed batch had allocated.
            self.now //= 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def embed_images(
    model: Model, size: BatchSize, prepared: Sequence[npt.NDArray[np.uint8]], *, mirrored: bool = False
) -> list[Tensor]:
    """Prepared images in one batch, or in as many as memory allows: float32[n, dim] of each, on the model's device."""
    batches: list[Tensor] = []
    done = 0

    def embed(rows: int) -> Tensor:
        return model.encode_images(prepared[done : done + rows], rows, mirrored=mirrored)

    while done < len(prepared):
        batches.append(size.run(embed))
        done += len(batches[-1])
    return batches


def default_size(model: Model) -> int:
    """The batch size of a model where the recipe says none: a function of the model and the kind of device.

    On a GPU the peak memory of a small forward pass is measured.
    """
    if model.device.type != "cuda":
        return ON_CPU
    height, width = model.image_size
    black = [np.zeros((3, height, width), np.uint8)] * _PROBE
    try:
        model.encode_images(black, _PROBE)  # what is allocated once, for good
        torch.cuda.reset_peak_memory_stats(model.device)
        before = torch.cuda.memory_allocated(model.device)
        model.encode_images(black, _PROBE)
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        # The first batch is halved until it fits, or says that nothing does.
        torch.cuda.empty_cache()
        return _PROBE
    used = torch.cuda.max_memory_allocated(model.device) - before
    return largest_batch(used / _PROBE, torch.cuda.get_device_properties(model.device).total_memory)


def largest_batch(bytes_of_a_row: float, memory: int) -> int:
    """The largest power of two of rows that a quarter of a device's memory holds, from 16 to 1,024."""
    rows = max(1.0, memory * _SHARE / max(1.0, bytes_of_a_row))
    return int(min(_MOST, max(_LEAST, 2 ** math.floor(math.log2(rows)))))


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(error) for words in _SAID)
