"""The default batch size, and compiled towers."""

import shutil
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.embed_parts import draw, worker_of
from helpers.memory_faults import OUT_OF_MEMORY
from helpers.open_clip_oracle import check_against_open_clip
from hypothesis import given
from hypothesis import strategies as st
from torch._dynamo.utils import counters

from curate.embed.batch import ON_CPU, default_size, largest_batch
from curate.embed.model.loading import compiled, load
from curate.errors import ModelError

CPU = torch.device("cpu")
CAPTIONS = ["a cat", "two dogs on a hill by the sea", "", "a " * 30]


@given(st.floats(1, 1e9), st.integers(10**8, 2 * 10**11))
def test_a_batch_fits_a_quarter_of_the_memory(row, memory):
    rows = largest_batch(row, memory)
    assert 16 <= rows <= 1024
    assert rows & (rows - 1) == 0
    assert rows == 16 or rows * row <= memory / 4
    assert rows == 1024 or rows * 2 * row > memory / 4


def test_a_recipe_without_a_batch_size_has_one_on_a_cpu(loaded, part, tiny):
    assert default_size(loaded("vit")) == ON_CPU
    worker = worker_of(m=tiny("vit"))
    settings = {"m": type(worker.settings["m"])(**{**vars(worker.settings["m"]), "batch_size": None})}
    tables = part.embed(type(worker)(settings, CPU, None), "embed-m")
    check_against_open_clip(part, tables, "m", tiny("vit"))
    assert not part.markers["embed-m"].notes


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_a_device_that_does_not_hold_the_probe_begins_with_it(error):
    def encode_images(*_):
        raise error

    model: Any = SimpleNamespace(device=torch.device("cuda"), image_size=(8, 8), encode_images=encode_images)
    assert default_size(model) == 8


def test_a_probe_that_fails_otherwise_is_not_taken_for_a_lack_of_memory():
    def encode_images(*_):
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    model: Any = SimpleNamespace(device=torch.device("cuda"), image_size=(8, 8), encode_images=encode_images)
    with pytest.raises(torch.AcceleratorError):
        default_size(model)


def test_a_gpu_that_fails_at_the_first_batch_is_no_missing_compiler(loaded, monkeypatch):
    def fail(_):
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: fail)
    with pytest.raises(torch.AcceleratorError):
        compiled(loaded("vit"), "m", 4)


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("family", [pytest.param("vit", marks=pytest.mark.soak), "sigmoid"])
def test_compiled_towers_give_the_same(family, tiny, loaded):
    made = tiny(family)
    plain = loaded(family)
    torch._dynamo.reset()
    fast = compiled(load(made.config, made.weights, "fp32", CPU), "m", 4)
    graphs = counters["stats"]["unique_graphs"]
    pictures = [plain.preprocess(draw(n)) for n in range(4)]
    ours, theirs = (model.encode_images(pictures, 4).numpy() for model in (fast, plain))
    assert counters["stats"]["unique_graphs"] == graphs, "the first batch was compiled for again"
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    for captions in (CAPTIONS, CAPTIONS[:2], ["one more of another length"]):
        ours, theirs = (model.encode_captions(captions, 4) for model in (fast, plain))
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_without_a_compiler_it_says_so(tiny, monkeypatch, tmp_path):
    import torch._inductor.config as inductor

    torch._dynamo.reset()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(inductor.cpp, "cxx", (None, "no-such-compiler"))
    monkeypatch.setattr(inductor, "fx_graph_cache", False)
    with pytest.raises(ModelError, match="cannot be compiled here, set compile: false") as caught:
        compiled(load(tiny("resnet").config, tiny("resnet").weights, "fp32", CPU), "m", 4)
    assert "\n" not in str(caught.value)
