"""Heads against the torch modules whose weights they read."""

import itertools

import numpy as np
import pytest
import torch
from helpers.head_weights import stored
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from curate.errors import RecipeError
from curate.signals.contract import ModelShape
from curate.signals.head_file import _activated, read
from curate.signals.kinds import heads


class Aesthetic(nn.Module):
    """The shape of LAION's improved aesthetic predictor."""

    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, 64),
            nn.Dropout(0.2),
            nn.Linear(64, 32),
            nn.Dropout(0.2),
            nn.Linear(32, 8),
            nn.Linear(8, 1),
        )

    def forward(self, x):
        return self.layers(x)


class Normalization(nn.Module):
    mean: torch.Tensor
    variance: torch.Tensor

    def __init__(self, width):
        super().__init__()
        self.register_buffer("mean", torch.randn(width) / 10)
        self.register_buffer("variance", torch.rand(width) + 0.1)

    def forward(self, x):
        return (x - self.mean) / self.variance.sqrt()


class Safety(nn.Module):
    """The shape of ports of LAION's safety head to torch."""

    def __init__(self, width):
        super().__init__()
        self.norm = Normalization(width)
        self.linear_1 = nn.Linear(width, 64)
        self.linear_2 = nn.Linear(64, 128)
        self.linear_3 = nn.Linear(128, 32)
        self.linear_4 = nn.Linear(32, 1)

    def forward(self, x):
        x = self.norm(x)
        for layer in (self.linear_1, self.linear_2, self.linear_3):
            x = layer(x).relu()
        return self.linear_4(x).sigmoid()


class Large(nn.Module):
    """LAION's safety head for ViT-H/14, narrower: nothing stands between its last two layers."""

    def __init__(self, width):
        super().__init__()
        widths = [width, 64, 128, 64, 32, 16]
        between = [(nn.Linear(a, b), nn.ReLU(), nn.Dropout(0.2)) for a, b in itertools.pairwise(widths)]
        self.layers = nn.Sequential(*itertools.chain(*between), nn.Linear(16, 8), nn.Linear(8, 1))

    def forward(self, x):
        return self.layers(x)


def images(count, width):
    found = torch.nn.functional.normalize(torch.randn(count, width), dim=-1)
    return found, found.numpy()


@pytest.mark.parametrize("name", ["head.pth", "head.pt", "head.bin", "head.safetensors"])
@pytest.mark.parametrize("width", [512, 768])
@pytest.mark.parametrize(
    ("make", "activation", "output"),
    [
        (lambda width: nn.Linear(width, 1), "none", "raw"),
        (Aesthetic, "none", "raw"),
        (Safety, "relu", "sigmoid"),
        (Large, ["relu"] * 5 + ["none"], "raw"),
        (lambda width: nn.Sequential(nn.Linear(width, 16), nn.GELU(), nn.Linear(16, 1)), "gelu", "raw"),
        (lambda w: nn.Sequential(nn.Linear(w, 9), nn.Tanh(), nn.Linear(9, 3), nn.Softmax(1)), "tanh", "softmax"),
        (lambda width: nn.Linear(width, 1, bias=False), "none", "raw"),
    ],
    ids=["linear", "aesthetic", "safety", "large", "gelu", "softmax", "no bias"],
)  # fmt: skip
def test_a_head_says_what_its_module_says(make, activation, output, width, name, tmp_path):
    torch.manual_seed(width)
    module = make(width).eval()
    found = read(stored(module, tmp_path / name))
    given_, ours = images(50, width)
    with torch.no_grad():
        expected = module(given_).numpy()
    assert (found.width, found.outputs) == (width, expected.shape[1])
    np.testing.assert_allclose(found(ours, activation, output), expected, atol=1e-5)


def test_layers_stand_in_the_order_of_their_numbers(tmp_path):
    module = nn.Sequential(
        *itertools.chain.from_iterable((nn.Linear(8, 8), nn.ReLU()) for _ in range(7)), nn.Linear(8, 1)
    )
    found = read(stored(module, tmp_path / "deep.pth"))
    given_, ours = images(20, 8)
    np.testing.assert_allclose(found(ours, "relu", "raw"), module(given_).detach().numpy(), atol=1e-5)


def test_a_head_that_was_saved_from_a_gpu(tmp_path, monkeypatch):
    """As LAION's improved aesthetic predictors were; most machines that compute signals have none."""
    module = Aesthetic(16).eval()
    with monkeypatch.context() as patched:
        patched.setattr(torch.serialization, "location_tag", lambda _storage: "cuda:0")
        path = stored(module, tmp_path / "head.pth")
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA device"):
            torch.load(path, weights_only=True)
    given_, ours = images(20, 16)
    np.testing.assert_allclose(read(path)(ours, "none", "raw"), module(given_).detach().numpy(), atol=1e-5)


def checked(found, keys, model="m", dim=8):
    return heads.check("signals.heads.x", found, keys, ModelShape(model, dim))


def recipe_head(**changes):
    return heads.Head(**{"path": "head.pth", **changes})


def test_activations_that_a_file_contradicts(tmp_path):
    aesthetic = read(stored(Aesthetic(8), tmp_path / "aesthetic.pth"))
    assert aesthetic.touching == (None, None, "layers.4 and layers.5")
    assert checked(aesthetic, recipe_head()) == 0
    with pytest.raises(RecipeError, match=r"between layers\.4 and layers\.5, .*such as \[relu, relu, none\]"):
        checked(aesthetic, recipe_head(activation="relu"))
    with pytest.raises(RecipeError, match=r"2 activations, but head.pth has 4 layers: write 3"):
        checked(aesthetic, recipe_head(activation=["relu", "none"]))
    large = read(stored(Large(8), tmp_path / "large.pth"))
    assert checked(large, recipe_head(activation=["relu"] * 5 + ["none"])) == 0


@pytest.mark.parametrize(
    "module",
    [
        Safety(8),  # attributes, which are numbered one by one
        nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 1)]),
        nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1)),
        nn.Sequential(nn.Sequential(nn.Linear(8, 8), nn.ReLU()), nn.Sequential(nn.Linear(8, 1))),
    ],
    ids=["attributes", "list", "sequential", "nested"],
)
def test_where_a_file_says_nothing_of_activations_any_will_do(module, tmp_path):
    found = read(stored(module, tmp_path / "head.pth"))
    assert set(found.touching) == {None}
    assert checked(found, recipe_head(activation="relu")) == 0


def test_the_softmax_of_one_number_is_refused(tmp_path):
    one = read(stored(nn.Linear(8, 1), tmp_path / "one.pth"))
    with pytest.raises(RecipeError, match="is always 1"):
        checked(one, recipe_head(output="softmax"))


@given(st.integers(-200, 200))
def test_no_output_overflows(value):
    one = np.full((1, 1), value, np.float32)
    assert _activated(one, "sigmoid")[0, 0] == pytest.approx(torch.tensor(float(value)).sigmoid().item(), abs=1e-6)
    both = np.array([[value, 0]], np.float32)
    assert _activated(both, "softmax").sum() == pytest.approx(1, abs=1e-6)


class Other:
    """Something that a pickle of weights does not hold."""


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_bytes(b""), "holds no weights"),
        (lambda path: path.write_bytes(b"junk"), "holds no weights"),
        (lambda path: path.write_bytes(b"<html>not found</html>"), "holds no weights; is it a web page"),
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1"), "holds no weights; is it a web"),
        (lambda path: torch.save(Other(), path), "more than weights"),
        (lambda path: torch.save([1, 2], path), "not a state dict"),
        (lambda path: torch.save({}, path), "no linear layer"),
        (lambda path: torch.save({"weight": torch.zeros(3, 3, 3)}, path), "is not the weight of"),
        (lambda path: torch.save({"weight": torch.zeros(4)}, path), "is not the weight of"),
        (lambda path: torch.save({"weight": torch.zeros(0, 4)}, path), r"shape \[0, 4\] is not the weight of"),
        (lambda path: torch.save({"weight": torch.eye(4, device="meta")}, path), "no plain numbers"),
        (lambda path: torch.save({"weight": torch.eye(4) * 1j}, path), "no plain numbers"),
        (lambda path: torch.save({"weight": torch.zeros(3, 4), "bias": torch.zeros(4)}, path), "is not the weight of"),
        (lambda path: torch.save({"0.weight": torch.zeros(3, 4), "1.weight": torch.zeros(1, 5)}, path), "takes 5"),
        (lambda path: torch.save(nn.BatchNorm1d(4).state_dict(), path), "running_mean"),
        (lambda path: torch.save({"in.weight": torch.eye(4), "hid.weight": torch.eye(4)}, path), "does not follow"),
        (lambda path: torch.save({"weight": torch.full((1, 4), float("nan"))}, path), "not numbers"),
        (lambda path: torch.save({"weight": torch.zeros(1, 4), "norm.mean": torch.zeros(4)}, path), "norm.variance"),
    ],
)  # fmt: skip
def test_what_is_no_head(make, said, tmp_path):
    path = tmp_path / "head.pth"
    make(path)
    with pytest.raises(RecipeError, match=said) as caught:
        read(str(path))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_or_of_another_kind(tmp_path):
    with pytest.raises(RecipeError, match="does not exist"):
        read(str(tmp_path / "none.pt"))
    with pytest.raises(RecipeError, match="ends in"):
        read(str(tmp_path / "head.onnx"))


def test_a_head_of_another_width_or_of_several_outputs(tmp_path):
    wide = read(stored(nn.Linear(768, 1), tmp_path / "wide.pth"))
    with pytest.raises(RecipeError, match=r"takes embeddings of 768 numbers, but those of model b32 have 512"):
        checked(wide, recipe_head(path="wide.pth", index=None), "b32", 512)
    assert checked(wide, recipe_head(path="wide.pth", index=None), "l14", 768) == 0
    two = read(stored(nn.Linear(8, 2), tmp_path / "two.pth"))
    with pytest.raises(RecipeError, match="has 2 outputs; choose one with `index`"):
        checked(two, recipe_head(path="two.pth", index=None))
    with pytest.raises(RecipeError, match="index 2, but"):
        checked(two, recipe_head(path="two.pth", index=2))
    assert checked(two, recipe_head(path="two.pth", index=1)) == 1


def test_a_head_that_changed_during_the_run(tmp_path):
    path = stored(nn.Linear(8, 1), tmp_path / "head.pth")
    with pytest.raises(RecipeError, match="changed during the run"):
        heads._expected(path, None, "0" * 64)
