"""The device that torch computes on, its float32 arithmetic, and the error that is raised when the device fails."""

import contextlib
from collections.abc import Iterator

import torch

from curate.errors import DeviceLost, UsageError


def choose_device(device: str) -> torch.device:
    """Returns the device of a worker: `auto` takes a CUDA device where torch sees one, else the CPU.

    Raises:
        UsageError: `cuda` is requested and torch sees no CUDA device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device cuda: torch sees no CUDA device here; use device auto or cpu")
    return torch.device(device)


def without_tf32() -> None:
    """Turns TF32 off: this process computes matrix products and convolutions of float32 in float32.

    torch's default for convolutions is TF32, which keeps 10 of the 23 mantissa bits of a factor. A vision tower begins
    with a convolution, so with TF32 float32 on a GPU would give other scores than on a CPU.
    """
    torch.set_float32_matmul_precision("highest")
    # The newer setting `conv.fp32_precision` exists from torch 2.9 on, and torch refuses a mix of the two.
    torch.backends.cudnn.allow_tf32 = False


@contextlib.contextmanager
def gpu_failures(device: torch.device) -> Iterator[None]:
    """Turns a failure of the GPU inside the block into DeviceLost; other errors pass through.

    Raises:
        DeviceLost: the GPU failed (an assert, an illegal access, a bus error); every further call in this process's
            CUDA context would fail with the same error.
    """
    try:
        yield
    except RuntimeError as error:
        failure = _failure(error, device)
        if failure is None:
            raise
        raise DeviceLost(f"the GPU failed: {' '.join(str(failure).split())[:300]}") from error


def _failure(error: RuntimeError, device: torch.device) -> RuntimeError | None:
    """Returns the error with which the GPU failed, or None where the GPU did not fail."""
    if isinstance(error, torch.AcceleratorError):
        return error
    if device.type == "cuda":
        # A failed kernel raises in the next call to CUDA, whichever that is. In cuBLAS and cuDNN it raises a plain
        # RuntimeError with a status code of theirs that may have other causes, too. Synchronizing tells them apart: it
        # raises an AcceleratorError where the context is lost.
        try:
            torch.cuda.synchronize(device)
        except torch.AcceleratorError as failure:
            return failure
    return None
