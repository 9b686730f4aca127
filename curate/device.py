"""Which device torch computes on, in which arithmetic, and what is raised when it fails."""

import contextlib
from collections.abc import Iterator

import torch

from curate.errors import DeviceLost, UsageError


def choose_device(device: str) -> torch.device:
    """The device of a worker: `auto` takes a CUDA device where there is one.

    Raises:
        UsageError: `cuda` is asked for and torch sees none.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device cuda: torch sees no CUDA device here; use device auto or cpu")
    return torch.device(device)


def without_tf32() -> None:
    """Has this process compute products and convolutions of float32 in float32.

    torch's default for convolutions is TF32, which keeps 10 bits of a factor's 23: a vision tower begins with one, so
    that float32 on a GPU would give other scores than on a CPU.
    """
    torch.set_float32_matmul_precision("highest")
    # The newer `conv.fp32_precision` is not there before torch 2.9, and refuses to be mixed with this one.
    torch.backends.cudnn.allow_tf32 = False


@contextlib.contextmanager
def gpu_failures(device: torch.device) -> Iterator[None]:
    """Around what a worker computes on a device.

    Raises:
        DeviceLost: the GPU failed under it (an assert, an illegal access, a bus error): what is left of the process's
            context answers nothing else.
    """
    try:
        yield
    except RuntimeError as error:
        failure = _failure(error, device)
        if failure is None:
            raise
        raise DeviceLost(f"the GPU failed: {' '.join(str(failure).split())[:300]}") from error


def _failure(error: RuntimeError, device: torch.device) -> RuntimeError | None:
    """What the GPU failed with, or None where the error is of another kind."""
    if isinstance(error, torch.AcceleratorError):
        return error
    if device.type == "cuda":
        # A kernel's failure is raised by whatever is called next: by cuBLAS and cuDNN as a plain RuntimeError with a
        # status of theirs, which may mean other things, too. A context that is lost says so when it is asked.
        try:
            torch.cuda.synchronize(device)
        except torch.AcceleratorError as failure:
            return failure
    return None
