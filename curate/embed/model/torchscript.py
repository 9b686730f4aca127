"""Loads a file of TorchScript that embeds images: a descriptor such as SSCD, which finds copies and has no text tower.

Such a file is code. It is opened only for recipes that say `trust: true` (`curate.recipe.TorchScript`).
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.jit import optimized_execution  # type: ignore[attr-defined] # documented, but not in `__all__`

from curate.device import without_tf32
from curate.embed.batch import is_out_of_memory
from curate.embed.model import weights
from curate.embed.model.facts import ModelFacts
from curate.embed.model.names import MODEL_KEY
from curate.embed.model.preprocess import Preprocess, height_and_width
from curate.embed.model.towers import Model
from curate.errors import ModelError, one_line, shortened

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_ROWS = 2
"""Images of the batch on which a file is tried: their embeddings must be separate rows."""

See = Callable[[Tensor], Tensor]


def facts_of(path: str, image: Mapping[str, Any], endpoint: str | None = None, key: str = MODEL_KEY) -> ModelFacts:
    """Returns the facts of a file of TorchScript, after embedding two grey images with it on the CPU.

    Args:
        path: path or URL of the file.
        image: what it expects of a picture: `size`, `resize`, `interpolation`, `mean`, `std`.
        endpoint: an S3 server other than AWS.
        key: the key of the model in the recipe, for messages.

    Raises:
        ModelError: the file does not exist, is not TorchScript, or does not turn images into one finite vector each.
    """
    file = weights.local_file(path, endpoint)
    settings = _preprocess(image)
    size = height_and_width(settings["size"])
    try:
        dim = _tried(_opened(file, path, torch.float32, torch.device("cpu")), size, torch.float32, torch.device("cpu"))
    except ModelError as error:
        raise ModelError(f"{key}: {error}") from error
    canonical = json.dumps({"torchscript": True, "preprocess": settings}, sort_keys=True)
    return ModelFacts(
        weights_sha256=weights.digest(file),
        config_sha256=hashlib.sha256(canonical.encode()).hexdigest(),
        embed_dim=dim,
        context_length=None,
        image_size=size,
        logit_scale=None,
        logit_bias=None,
        preprocess=settings,
    )


def load(
    path: str,
    image: Mapping[str, Any],
    precision: str,
    device: torch.device,
    endpoint: str | None = None,
    *,
    weights_sha256: str | None = None,
) -> Model:
    """Loads a file of TorchScript for embedding.

    Args:
        path: path or URL of the file.
        image: as for `facts_of`.
        precision: fp32, bf16 or fp16; its weights and images are converted.
        device: the device of the model.
        endpoint: an S3 server other than AWS.
        weights_sha256: the digest of the file that `facts_of` returned, if it was called.

    Raises:
        ModelError: as `facts_of`; or the file has changed since, or cannot compute in that precision.
    """
    file = weights.local_file(path, endpoint)
    if weights_sha256 and weights.digest(file) != weights_sha256:
        raise ModelError(
            f"{path} is not the file that the run began with: it changed, or differs on this machine; start the run "
            "again"
        )
    without_tf32()
    dtype, settings = _DTYPES[precision], _preprocess(image)
    size = height_and_width(settings["size"])
    see = _opened(file, path, dtype, device)
    return Model(
        clip=None,
        see=see,
        read=None,
        cut=None,
        tokenize=None,
        preprocess=Preprocess.of(settings),
        device=device,
        dtype=dtype,
        dim=_tried(see, size, dtype, device),
        image_size=size,
    )


def _preprocess(image: Mapping[str, Any]) -> dict[str, Any]:
    """Returns open_clip's names of the settings, as `Preprocess` takes them."""
    return {
        "size": image["size"],
        "mode": "RGB",
        "mean": list(image["mean"]),
        "std": list(image["std"]),
        "interpolation": image["interpolation"],
        "resize_mode": image["resize"],
        "fill_color": 0,
    }


def _opened(file: Path, path: str, dtype: torch.dtype, device: torch.device) -> See:
    """Returns the file's function from images to rows of numbers, checked at each call."""
    try:
        with warnings.catch_warnings():
            # torch tells those who write such files to use torch.export; here they are only read.
            for category in (DeprecationWarning, FutureWarning):
                warnings.simplefilter("ignore", category)
            script = torch.jit.load(str(file), map_location=device).eval().to(dtype)  # type: ignore[no-untyped-call]
    except (torch.AcceleratorError, torch.OutOfMemoryError):
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"{path} is not a file of TorchScript that torch {torch.__version__} can open: {one_line(error)}"
        ) from error

    def see(images: Tensor) -> Tensor:
        try:
            # torch may fuse operations after the first calls: a part's last digits would depend on the parts before.
            with optimized_execution(should_optimize=False):
                found = script(images)
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        # torch.jit.Error, which a script's own `raise` becomes, is no RuntimeError.
        except (RuntimeError, torch.jit.Error) as error:
            if is_out_of_memory(error):
                raise
            shape = " × ".join(map(str, images.shape))
            raise ModelError(f"{path} fails for images of {shape} in {_named(dtype)}: {_last(error)}") from error
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(images):
            gives = f"a tensor of {list(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise ModelError(f"{path} gives {gives} for {len(images)} images, not one row of numbers for each")
        return found

    return see


def _tried(see: See, size: tuple[int, int], dtype: torch.dtype, device: torch.device) -> int:
    """Returns the length of an embedding, from a batch of two images that differ.

    Raises:
        ModelError: the embeddings are not finite.
    """
    ramp = torch.linspace(-1, 1, _ROWS * 3 * size[0] * size[1], device=device)
    with torch.inference_mode():
        found = see(ramp.view(_ROWS, 3, *size).to(dtype))
    if not found.shape[1] or not bool(torch.isfinite(found.float()).all()):
        raise ModelError(f"it gives embeddings that are empty or not finite in {_named(dtype)}")
    return int(found.shape[1])


def _named(dtype: torch.dtype) -> str:
    return next(name for name, of in _DTYPES.items() if of == dtype)


def _last(error: Exception) -> str:
    """The last line of a script's error, behind the traceback of its code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shortened(lines[-1]) if lines else type(error).__name__
