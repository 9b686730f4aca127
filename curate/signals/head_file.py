"""Reads a head, a small network on image embeddings, from a file of weights.

The file is a torch or safetensors state dict whose matrices form a chain: one `weight` (LAION's linear aesthetic
predictors), `layers.0.weight`, `layers.2.weight`, … (its improved one), `linear_1.weight`, … with `norm.mean` and
`norm.variance` before them (ports of its safety heads). Such a file does not hold the activations between the matrices;
the recipe names them.
"""

import hashlib
import io
import itertools
import pickle
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from curate.errors import RecipeError
from curate.signals.vectors import Vectors
from curate.store import Store, access_errors

FILES = (".safetensors", ".pt", ".pth", ".bin")

_MEAN, _VARIANCE = "norm.mean", "norm.variance"
_BESIDE = (_MEAN, _VARIANCE)


@dataclass(frozen=True)
class HeadFile:
    """A chain of matrices.

    Attributes:
        sha256: of its file.
        layers: (weight [out, in], bias [out]) in their order.
        mean: [in], subtracted from an embedding first.
        deviation: [in], by which the embedding is then divided.
        touching: for each gap between two layers their names, where the file's numbering shows that no activation can
            be in it; None where one may.
    """

    sha256: str
    layers: tuple[tuple[Vectors, Vectors], ...]
    mean: Vectors
    deviation: Vectors
    touching: tuple[str | None, ...]

    @property
    def width(self) -> int:
        """The length of its input embeddings."""
        return int(self.layers[0][0].shape[1])

    @property
    def outputs(self) -> int:
        """The number of its outputs."""
        return int(self.layers[-1][0].shape[0])

    def __call__(self, images: Vectors, activation: str | Sequence[str], output: str) -> Vectors:
        """Applies the head to image embeddings.

        Args:
            images: float32[n, width], L2-normalised.
            activation: none, relu, gelu or tanh, after each layer but the last; or one for each of these layers.
            output: raw, sigmoid or softmax, after the last layer.

        Returns:
            float32[n, outputs].
        """
        x: Vectors = (images - self.mean) / self.deviation
        between = [activation] * len(self.touching) if isinstance(activation, str) else activation
        for (weight, bias), by in zip(self.layers[:-1], between, strict=True):
            x = _activated(x @ weight.T + bias, by)
        weight, bias = self.layers[-1]
        return _activated(x @ weight.T + bias, "none" if output == "raw" else output)


def read(path: str, endpoint: str | None = None) -> HeadFile:
    """Reads a head.

    Args:
        path: a local path or URL of a torch or safetensors file; a pickle may hold nothing but tensors.
        endpoint: the S3 server; None for AWS.

    Raises:
        RecipeError: the file cannot be read, or its tensors do not form a chain of linear layers.
    """
    folder, _, file = path.rpartition("/")
    if not file.endswith(FILES):
        raise RecipeError(f"head {path}: a file of weights ends in {', '.join(FILES)}")
    try:
        data = Store(folder or ("/" if path.startswith("/") else "."), endpoint).read(file)
    except FileNotFoundError as error:
        raise RecipeError(f"head {path} does not exist") from error
    except access_errors(path) as error:
        raise RecipeError(f"head {path} cannot be read: {' '.join(str(error).split())}") from error
    return _chain(path, _state(path, data), hashlib.sha256(data).hexdigest())


def _state(path: str, data: bytes) -> dict[str, npt.NDArray[np.float32]]:
    """The tensors of a file by their names."""
    import torch  # imported here: the scorers of captions and concepts do not need it
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        # Mapped to the CPU, as files may have been saved from a GPU (LAION's improved predictor was).
        content = (
            load(data)
            if path.endswith(".safetensors")
            else torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        )
    except pickle.UnpicklingError as error:
        if "Unsupported operand" in str(error):
            raise RecipeError(f"head {path} holds no weights; is it a web page, or a Git LFS pointer?") from error
        raise RecipeError(f"head {path} is refused: a pickle that holds more than weights") from error
    except (SafetensorError, RuntimeError, ValueError, EOFError, OSError, LookupError, struct.error) as error:
        reason = " ".join(str(error).split())[:200]
        raise RecipeError(f"head {path} holds no weights: {reason or type(error).__name__}") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise RecipeError(f"head {path} is not a state dict of tensors")
    for name, value in content.items():
        if value.layout != torch.strided or value.is_quantized or value.is_complex() or value.is_meta:
            raise RecipeError(f"head {path}: {str(name)!r} holds no plain numbers")
    return {str(name): value.detach().float().numpy() for name, value in content.items()}


def _chain(path: str, state: Mapping[str, Vectors], sha256: str) -> HeadFile:
    weights = sorted((name for name in state if re.search(r"(^|\.)weight$", name)), key=_natural)
    biases = {name: f"{name.removesuffix('weight')}bias" for name in weights}
    unknown = sorted(set(state) - set(weights) - set(biases.values()) - set(_BESIDE))
    if unknown:
        raise RecipeError(f"head {path}: {', '.join(map(repr, unknown[:3]))} is not part of a chain of linear layers")
    if not weights:
        raise RecipeError(f"head {path} holds no linear layer")
    if len({re.sub(r"\d+", "0", name) for name in weights}) > 1:
        raise RecipeError(
            f"head {path}: the order of its layers does not follow from {', '.join(map(repr, weights[:4]))}; "
            "save it with names that differ only in their numbers"
        )
    layers = []
    for name in weights:
        weight = state[name]
        bias = state.get(biases[name])
        if weight.ndim != 2 or not weight.size or (bias is not None and bias.shape != weight.shape[:1]):
            raise RecipeError(
                f"head {path}: {name!r} of shape {list(weight.shape)} is not the weight of a linear layer"
            )
        layers.append((weight, np.zeros(len(weight), np.float32) if bias is None else bias))
    for (before, after), name in zip(itertools.pairwise(layers), weights[1:], strict=True):
        if after[0].shape[1] != before[0].shape[0]:
            wanted, found = after[0].shape[1], before[0].shape[0]
            raise RecipeError(f"head {path}: {name!r} takes {wanted} numbers, the layer before it gives {found}")
    if not all(np.isfinite(values).all() for values in state.values()):
        raise RecipeError(f"head {path} holds weights that are not numbers")
    width = layers[0][0].shape[1]
    if (_MEAN in state) != (_VARIANCE in state) or any(state[name].size != width for name in _BESIDE if name in state):
        raise RecipeError(f"head {path}: {_MEAN} and {_VARIANCE} have to be two of {width} numbers")
    mean = state.get(_MEAN, np.zeros(width, np.float32)).reshape(width)
    variance = state.get(_VARIANCE, np.ones(width, np.float32)).reshape(width)
    if not (variance > 0).all():
        raise RecipeError(f"head {path}: {_VARIANCE} has to be above 0")
    return HeadFile(sha256, tuple(layers), mean, np.sqrt(variance), _touching(weights))


def _touching(weights: Sequence[str]) -> tuple[str | None, ...]:
    """Returns `HeadFile.touching`, derived from the numbers in the layers' names.

    A torch Sequential also numbers its modules without weights, so layers with consecutive numbers have no activation
    between them. Where all numbers are consecutive nothing follows: a list of layers whose activations are applied in
    code is numbered in the same way.
    """
    places = [re.fullmatch(r"(?:(.+)\.)?(\d+)\.weight", name) for name in weights]
    numbers = [int(place[2]) for place in places if place and place[1] == (places[0] or place)[1]]
    steps = [after - before for before, after in itertools.pairwise(numbers)]
    if len(numbers) < len(weights) or all(step == 1 for step in steps):
        return (None,) * (len(weights) - 1)
    named = [name.removesuffix(".weight") for name in weights]
    pairs = itertools.pairwise(named)
    return tuple(f"{one} and {two}" if step == 1 else None for (one, two), step in zip(pairs, steps, strict=True))


def _natural(name: str) -> list[tuple[int, str]]:
    """A sort key that puts layers.2 before layers.10."""
    return [(int(word), "") if word.isdecimal() else (-1, word) for word in re.split(r"(\d+)", name)]


def _activated(x: Vectors, by: str) -> Vectors:
    if by == "none":
        return x
    if by == "relu":
        return np.maximum(x, np.float32(0))
    if by == "tanh":
        return np.tanh(x)
    if by == "sigmoid":
        # Computed by tanh, which does not overflow.
        halves: Vectors = np.tanh(x * np.float32(0.5))
        halves += 1
        halves *= np.float32(0.5)
        return halves
    if by == "softmax":
        weights: Vectors = np.exp(x - x.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        return weights
    import torch

    # The exact form, with the error function, as torch's GELU by default.
    activated: Vectors = torch.nn.functional.gelu(torch.from_numpy(x)).numpy()
    return activated
