"""Heads: small networks on image embeddings, from a file of weights; `head_<name>` is a head's output."""

import functools
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import BeforeValidator, Field

from curate.errors import RecipeError, counted
from curate.keys import Allowed, Place, chosen
from curate.signals.contract import ModelShape, Signal, SignalKeys, Task
from curate.signals.head_file import HeadFile, read
from curate.signals.vectors import Vectors, per_pair
from curate.store import Json

ACTIVATIONS = ("none", "relu", "gelu", "tanh")


def _activation(value: Any) -> Any:
    if not all(by in ACTIVATIONS for by in (value if isinstance(value, list) else [value])):
        raise ValueError(f"write {', '.join(ACTIVATIONS[:-1])} or {ACTIVATIONS[-1]}, or a list of these")
    return value


Activation = Annotated[str, Field(max_length=10), Allowed("none, relu, gelu or tanh")]


class Head(SignalKeys):
    """A small network on image embeddings."""

    path: Place = Field(
        description="A torch or safetensors file of a linear layer or of several; local or any fsspec path."
    )
    activation: Annotated[
        Activation | Annotated[list[Activation], Field(max_length=100)], BeforeValidator(_activation)
    ] = Field(
        "none", description="Activation between its layers: none, relu, gelu or tanh; or a list, one for each place."
    )
    output: Literal["raw", "sigmoid", "softmax"] = Field("raw", description="Applied to the outputs of its last layer.")
    index: Annotated[int, Field(ge=0, le=100_000)] | None = Field(
        None, description="Which of its outputs, where it has several; from 0."
    )


class Heads(Signal[Head]):
    """The kind `heads`."""

    name = "heads"
    prefix = "head"
    version = 1
    about = "Small networks from files: `head_<name>` is a network's output for the image embedding."
    keys = Head

    def learn(self, where: str, keys: Head, model: ModelShape, endpoint: str | None) -> Json:
        """The digest of the file, and the index of the output that is the column."""
        head = read(keys.path, endpoint)
        return {"sha256": head.sha256, "index": check(where, head, keys, model)}

    def depends(self, keys: Head) -> Json:
        """The activations between its layers, and what is applied to its outputs."""
        return chosen(keys, only={"activation", "output"})

    def score(self, task: Task) -> Mapping[str, pa.Array]:
        """The chosen output, by pair.

        Raises:
            RecipeError: the file can no longer be read, or has changed since the run started.
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
    """Reads a head, once in a worker, and checks that it is the file with which the run started."""
    head = read(path, endpoint)
    if head.sha256 != sha256:
        raise RecipeError(f"head {path} changed during the run; start it again")
    return head


def check(where: str, head: HeadFile, keys: Head, model: ModelShape) -> int:
    """Checks that a head fits its model and its recipe keys.

    Args:
        where: the entry's place in the recipe, for errors.
        head: the head that was read.
        keys: the entry's keys.
        model: the model whose embeddings are its input.

    Returns:
        the index of the output that is the column.

    Raises:
        RecipeError: the head takes embeddings of another length, has several outputs and no `index` is given, or
            cannot have the activations that the keys name.
    """
    if head.width != model.dim:
        raise RecipeError(
            f"{where}: {keys.path} takes embeddings of {head.width} numbers, but those of model {model.name} have "
            f"{model.dim}; name the model that it was trained on with `model`"
        )
    index = keys.index
    if index is None and head.outputs > 1:
        raise RecipeError(f"{where}: {keys.path} has {head.outputs} outputs; choose one with `index`")
    if index is not None and index >= head.outputs:
        raise RecipeError(f"{where}: index {index}, but {keys.path} has {counted(head.outputs, 'output')}, from 0 on")
    if keys.output == "softmax" and head.outputs == 1:
        raise RecipeError(
            f"{where}: {keys.path} has one output, whose softmax is always 1; write output: sigmoid or raw"
        )
    _check_activations(where, head, keys)
    return index or 0


def _check_activations(where: str, head: HeadFile, keys: Head) -> None:
    """Raises RecipeError where the keys name activations that the numbering of the file's layers rules out."""
    activation, places = keys.activation, len(head.touching)
    if not isinstance(activation, str) and len(activation) != places:
        raise RecipeError(
            f"{where}: {counted(len(activation), 'activation')}, but {keys.path} has {counted(places + 1, 'layer')}: "
            f"write {places}, one for each gap between two layers"
        )
    between = [activation] * places if isinstance(activation, str) else activation
    wrong = [touching for touching, by in zip(head.touching, between, strict=True) if touching and by != "none"]
    if wrong:
        fitting = ["none" if touching else by for touching, by in zip(head.touching, between, strict=True)]
        raise RecipeError(
            f"{where}: {keys.path} has no activation between {wrong[0]}, as its layers are numbered; write activation: "
            f"none, or where there are others, one for each gap, such as [{', '.join(fitting)}]"
        )
