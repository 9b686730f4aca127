"""How many rows go through a model at once: what the recipe says, and less where memory does not hold it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from curate.errors import ModelError

T = TypeVar("T")

_SAID = ("DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""Out of memory where torch has no error of its own for it: on the CPU, and in CUDA's libraries."""


@dataclass
class BatchSize:
    """The batch size of one model in one worker. It halves when memory runs out, and stays so.

    Attributes:
        model: whose, for the error.
        asked: the recipe's.
        now: what is used.
    """

    model: str
    asked: int
    now: int = 0

    def __post_init__(self) -> None:
        self.now = self.now or self.asked

    @property
    def note(self) -> str | None:
        """For the marker of a part: what was not as the recipe says, or None."""
        if self.now == self.asked:
            return None
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


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(error) for words in _SAID)
