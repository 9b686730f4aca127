"""What is raised when a GPU fails; none is needed for that, as its errors are raised here."""

import pytest
import torch

from curate.device import choose_device, gpu_failures, without_tf32
from curate.errors import DeviceLost, ModelError

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
ASSERTED = "CUDA error: device-side assert triggered\nCompile with `TORCH_USE_CUDA_DSA`"
BLAS = "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(handle)`"


def lost(_device):
    raise torch.AcceleratorError(ASSERTED)


@pytest.mark.parametrize("device", [CUDA, CPU])
def test_an_error_of_the_gpu_is_a_lost_device(device):
    said = "the GPU failed: CUDA error: device-side assert triggered Compile"
    with pytest.raises(DeviceLost, match=said), gpu_failures(device):
        raise torch.AcceleratorError(ASSERTED)


def test_a_status_of_a_library_is_a_lost_device_where_the_device_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lost)
    with pytest.raises(DeviceLost, match="device-side assert"), gpu_failures(CUDA):
        raise RuntimeError(BLAS)


def test_a_status_of_a_library_stays_what_it_is_where_the_device_answers(monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _device: None)
    with pytest.raises(RuntimeError, match="CUBLAS_STATUS"), gpu_failures(CUDA):
        raise RuntimeError(BLAS)


def test_no_gpu_is_asked_where_none_is_used(monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lost)
    with pytest.raises(RuntimeError, match="a process died"), gpu_failures(CPU):
        raise RuntimeError("a process died")


def test_what_is_raised_on_purpose_stays(monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lost)
    with pytest.raises(ModelError), gpu_failures(CUDA):
        raise ModelError("no such model")


def test_float32_is_computed_in_float32():
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("high")
    without_tf32()
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_device_is_chosen():
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in ("cpu", "cuda")
