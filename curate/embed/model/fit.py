"""Whether weights fit their model, and one line for all that open_clip, timm and torch raise where they do not."""

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
from curate.errors import ModelError

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
"""What open_clip, timm and torch raise at a config that makes no model."""
_FILE_ERRORS = (*_BUILD_ERRORS, EOFError, StopIteration, SafetensorError, pickle.UnpicklingError, struct.error)
"""… and at a file that holds no weights."""


def check_fit(origin: weights.Origin, file: Path, clip: Any) -> None:
    """Refuses what open_clip makes fit by itself, or fails at without saying why.

    It stretches positional embeddings of another length than the model's (weights for images of another size, or for
    longer captions), and says nothing: such scores are of neither model. What belongs to a tag is open_clip's to say.

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
            # Weights with the text tower inside the model fit one that has it apart.
            for wanted in [own.get(key, own.get(f"text.{key}"))]
            if wanted is not None and key in state and state[key].shape != wanted.shape
        ]
    if "logit_bias" in state and clip.logit_bias is None:
        wrong.append("unknown is logit_bias (a model trained with a sigmoid; its config has init_logit_bias)")
    if wrong:
        raise ModelError(f"weights {file} do not fit model {origin.label}: {'; '.join(wrong)}")


@contextlib.contextmanager
def building(origin: weights.Origin) -> Iterator[None]:
    """Around what builds a model of its config. Raises ModelError, one line."""
    try:
        with _quiet():
            yield
    except _BUILD_ERRORS as error:
        if reason := weights.unreachable(error):
            raise ModelError(
                f"{origin.key}.name: a tokenizer or config of {origin.label} cannot be downloaded: {reason}; "
                "a config json may name a folder with the tokenizer (hf_tokenizer_name)"
            ) from error
        raise ModelError(f"model {origin.label} cannot be built: {weights.one_line(error)}") from error


@contextlib.contextmanager
def opening(origin: weights.Origin, file: Path) -> Iterator[None]:
    """Around what reads its weights. Raises ModelError, one line."""
    try:
        with _quiet():
            yield
    except torch.AcceleratorError:
        # Says nothing of the file: the GPU that the model was to lie on failed.
        raise
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"model {origin.label}: the GPU's memory does not hold it; take a device with more, or fewer workers on it"
        ) from error
    except pickle.UnpicklingError as error:
        if "Unsupported operand" in str(error):
            raise ModelError(f"weights {file} are none; is it a web page, or Git's pointer to a file?") from error
        raise ModelError(f"weights {file} are refused: a pickle that holds more than weights") from error
    except _FILE_ERRORS as error:
        text = str(error)
        if "TorchScript" in text:
            # As OpenAI published its models.
            raise ModelError(
                f"weights {file} are a program (TorchScript); save its state_dict, or name a tag"
            ) from error
        if "loading state_dict" in text:
            raise ModelError(f"weights {file} do not fit model {origin.label}: {_misfit(text)}") from error
        raise ModelError(f"weights {file} cannot be loaded: {weights.one_line(error)}") from error


def _misfit(text: str) -> str:
    """What torch says of keys and shapes that do not fit, cut to the first ones."""
    said = []
    for start, means in (("Missing key(s)", "they lack"), ("Unexpected key(s)", "unknown are")):
        if found := re.search(re.escape(start) + r"[^:]*: (.*)", text):
            keys = re.findall(r'"([^"]+)"', found[1])
            said.append(f"{means} {_first(keys)}")
    shape = r"size mismatch for (\S+): .*?Size\((\[.*?\])\).*?Size\((\[.*?\])\)"
    if sizes := re.findall(shape, text):
        said.append(_first([f"{key} is {found}, not {wanted}" for key, found, wanted in sizes]))
    return "; ".join(said) or " ".join(text.split())[:300]


def _first(words: list[str]) -> str:
    more = f" and {len(words) - 3} more" if len(words) > 3 else ""
    return ", ".join(words[:3]) + more


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without remarks on a model that is meant to be without weights, and on what is refused anyway."""
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
