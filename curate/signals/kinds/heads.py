"""Heads: small networks on image embeddings, from a file of weights; `head_<name>` is what one gives."""

import functools
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import BeforeValidator, Field

from curate.errors import RecipeError, counted
from curate.keys import Place, chosen
from curate.signals.contract import ModelShape, Signal, SignalKeys, Task
from curate.signals.head_file import HeadFile, read
from curate.signals.vectors import Vectors, per_pair
from curate.store import Json

ACTIVATIONS = ("none", "relu", "gelu", "tanh")


def _activation(value: Any) -> Any:
    if not all(by in ACTIVATIONS for by in (value if isinstance(value, list) else [value])):
        raise ValueError(f"write {', '.join(ACTIVATIONS[:-1])} or {ACTIVATIONS[-1]}, or a list of these")
    return value


class Head(SignalKeys):
    """A small network on image embeddings."""

    path: Place = Field(
        description="A torch or safetensors file of a linear layer or of several; local or any fsspec path."
    )
    activation: Annotated[str | list[str], BeforeValidator(_activation)] = Field(
        "none", description="Between its layers: none, relu, gelu, tanh; or a list, one for each place."
    )
    output: Literal["raw", "sigmoid", "softmax"] = Field("raw", description="What becomes of its last layer's numbers.")
    index: Annotated[int, Field(ge=0)] | None = Field(None, description="Which of its numbers, where it gives several.")


class Heads(Signal[Head]):
    """The kind `heads`."""

    name = "heads"
    prefix = "head"
    version = 1
    about = "Networks from files: `head_<name>` is what one says of the image's embedding."
    keys = Head

    def learn(self, where: str, keys: Head, model: ModelShape, endpoint: str | None) -> Json:
        """The digest of the file, and which of its outputs is the column."""
        found = read(keys.path, endpoint)
        return {"sha256": found.sha256, "index": check(where, found, keys, model)}

    def depends(self, keys: Head) -> Json:
        """What stands between and after its layers."""
        return chosen(keys, only={"activation", "output"})

    def score(self, task: Task) -> Mapping[str, pa.Array]:
        """The chosen output, by pair.

        Raises:
            RecipeError: the file cannot be read any more, or is another one by now.
        """
        keys: Head = task.keys
        head, index = _expected(keys.path, task.endpoint, task.learned["sha256"]), task.learned["index"]

        def measure(images: Vectors) -> Vectors:
            return head(images, keys.activation, keys.output)[:, index][:, None]

        (found,) = per_pair(task, head.width, keys.path, 1, measure)
        return {task.scorer: found}


SIGNAL = Heads()


@functools.lru_cache(maxsize=16)
def _expected(path: str, endpoint: str | None, sha256: str) -> HeadFile:
    """Reads a head once in a worker, and sees to it that it is the one that the run began with."""
    head = read(path, endpoint)
    if head.sha256 != sha256:
        raise RecipeError(f"head {path} changed during the run; start it again")
    return head


def check(where: str, head: HeadFile, keys: Head, model: ModelShape) -> int:
    """Whether a head fits a model and the recipe.

    Args:
        where: the entry's place in the recipe, for errors.
        head: what was read.
        keys: what the recipe says.
        model: whose embeddings it is given.

    Returns:
        which of its outputs is the column.

    Raises:
        RecipeError: it takes embeddings of another length, gives more numbers than the recipe tells apart, or cannot
            have those activations.
    """
    if head.width != model.dim:
        raise RecipeError(
            f"{where}: {keys.path} takes embeddings of {head.width} numbers, but those of model {model.name} have "
            f"{model.dim}; name the model that it was trained on with `model`"
        )
    index = keys.index
    if index is None and head.outputs > 1:
        raise RecipeError(f"{where}: {keys.path} gives {head.outputs} numbers; name one with `index`")
    if index is not None and index >= head.outputs:
        raise RecipeError(f"{where}: index {index}, but {keys.path} gives {counted(head.outputs, 'number')}, from 0 on")
    if keys.output == "softmax" and head.outputs == 1:
        raise RecipeError(
            f"{where}: the softmax of the one number that {keys.path} gives is always 1; write output: sigmoid or raw"
        )
    _check_activations(where, head, keys)
    return index or 0


def _check_activations(where: str, head: HeadFile, keys: Head) -> None:
    """What a file says of what stands between its layers is little, but the recipe must not contradict it."""
    activation, places = keys.activation, len(head.touching)
    if not isinstance(activation, str) and len(activation) != places:
        raise RecipeError(
            f"{where}: {counted(len(activation), 'activation')}, but {keys.path} has {counted(places + 1, 'layer')}: "
            f"write {places}, one for each place between two"
        )
    between = [activation] * places if isinstance(activation, str) else activation
    wrong = [touching for touching, by in zip(head.touching, between, strict=True) if touching and by != "none"]
    if wrong:
        fitting = ["none" if touching else by for touching, by in zip(head.touching, between, strict=True)]
        raise RecipeError(
            f"{where}: nothing stands between {wrong[0]} of {keys.path}, so no activation does; write activation: "
            f"none, or if there are others, one for each place, such as [{', '.join(fitting)}]"
        )
