"""Checks that weights fit their model, and turns the errors of open_clip, timm and torch into one line."""

import contextlib
import logging
import pickle
import re
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from open_clip.factory import load_state_dict
from safetensors import SafetensorError

from curate.embed.model import weights
from curate.errors import ModelError, one_line

_BUILD_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""The exceptions of open_clip, timm and torch for a config from which no model can be built."""
_FILE_ERRORS = (*_BUILD_ERRORS, EOFError, StopIteration, SafetensorError, pickle.UnpicklingError, struct.error)
"""The exceptions for a file that does not hold weights."""


def check_fit(origin: weights.Origin, file: Path, clip: Any) -> None:
    """Raises ModelError where open_clip would adapt weights without a message, or fail without a reason.

    open_clip interpolates positional embeddings of another length than the model's (weights for images of another size,
    or for longer captions) without a message; the scores would be those of neither model. Weights of an open_clip tag
    are not checked: they belong to their model.

    Raises:
        ModelError: the weights do not fit.
    """
    if origin.is_tag:
        return
    with opening(origin, file):
        state = load_state_dict(str(file))
        own = clip.state_dict()
        wrong = [
            f"{key} is {list(state[key].shape)}, not {list(wanted.shape)}"
            for key in ("visual.positional_embedding", "positional_embedding", "text.positional_embedding")
            # open_clip loads weights whose text tower is part of the model into a model with a separate text tower.
            for wanted in [own.get(key, own.get(f"text.{key}"))]
            if wanted is not None and key in state and state[key].shape != wanted.shape
        ]
    if "logit_bias" in state and clip.logit_bias is None:
        wrong.append("the model lacks logit_bias (they were trained with a sigmoid; such a config has init_logit_bias)")
    if wrong:
        raise ModelError(f"weights {file} do not fit model {origin.label}: {'; '.join(wrong)}")


@contextlib.contextmanager
def building(origin: weights.Origin) -> Iterator[None]:
    """Turns the errors of building a model from its config, inside the block, into ModelErrors of one line."""
    try:
        with _quiet():
            yield
    except _BUILD_ERRORS as error:
        if reason := weights.unreachable(error):
            raise ModelError(
                f"{origin.key}.name: a tokenizer or config of {origin.label} cannot be downloaded: {reason}; "
                "a config json may name a folder with the tokenizer (hf_tokenizer_name)"
            ) from error
        raise ModelError(f"model {origin.label} cannot be built: {one_line(error)}") from error


@contextlib.contextmanager
def opening(origin: weights.Origin, file: Path) -> Iterator[None]:
    """Turns the errors of reading a file of weights, inside the block, into ModelErrors of one line."""
    try:
        with _quiet():
            yield
    except torch.AcceleratorError:
        # Not an error of the file: the GPU failed while the model was moved to it.
        raise
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"model {origin.label}: the GPU's memory does not hold it; use one with more, or fewer workers per GPU"
        ) from error
    except pickle.UnpicklingError as error:
        if "Unsupported operand" in str(error):
            raise ModelError(f"{file} is not a file of weights; is it a web page, or a Git LFS pointer?") from error
        raise ModelError(f"weights {file} are refused: a pickle with more than weights may run code") from error
    except _FILE_ERRORS as error:
        text = str(error)
        if "TorchScript" in text:
            # The format in which OpenAI published its models.
            raise ModelError(
                f"weights {file} are a program (TorchScript); save its state_dict, or use a tag"
            ) from error
        if "loading state_dict" in text:
            raise ModelError(f"weights {file} do not fit model {origin.label}: {_misfit(text)}") from error
        raise ModelError(f"weights {file} cannot be loaded: {one_line(error)}") from error


def _misfit(text: str) -> str:
    """Returns torch's message about keys and shapes that do not fit, cut to the first ones."""
    parts = []
    for start, means in (("Missing key(s)", "they lack"), ("Unexpected key(s)", "the model lacks")):
        if found := re.search(re.escape(start) + r"[^:]*: (.*)", text):
            keys = re.findall(r'"([^"]+)"', found[1])
            parts.append(f"{means} {_first(keys)}")
    shape = r"size mismatch for (\S+): .*?Size\((\[.*?\])\).*?Size\((\[.*?\])\)"
    if sizes := re.findall(shape, text):
        parts.append(_first([f"{key} is {found}, not {wanted}" for key, found, wanted in sizes]))
    return "; ".join(parts) or " ".join(text.split())[:300]


def _first(words: list[str]) -> str:
    more = f" and {len(words) - 3} more" if len(words) > 3 else ""
    return ", ".join(words[:3]) + more


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences warnings about a model without weights, which is intended, and about files that are refused anyway."""
    root = logging.getLogger()

    def is_wanted(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("No pretrained weights loaded")

    root.addFilter(is_wanted)
    try:
        with warnings.catch_warnings(), weights.quiet_hub():
            warnings.filterwarnings("ignore", message=".*non-meta parameter.*is a no-op")
            warnings.filterwarnings("ignore", message=".*looks like a TorchScript archive")
            yield
    finally:
        root.removeFilter(is_wanted)
