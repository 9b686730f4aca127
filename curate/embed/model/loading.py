"""Loads a model by open_clip's own `create_model`, `get_tokenizer` and preprocessing, and compiles it if requested.

So every model that open_clip can load is loaded as by open_clip itself.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.model import get_input_dtype
from torch import Tensor

from curate.device import without_tf32
from curate.embed.model import weights
from curate.embed.model.fit import building, check_fit, opening
from curate.embed.model.hugging_face import check_text_tower, open_tokenizer
from curate.embed.model.preprocess import Preprocess, height_and_width
from curate.embed.model.text import CausalTower
from curate.embed.model.tokenize import bounded
from curate.embed.model.towers import Model
from curate.embed.model.vision import ClassTokenTower
from curate.errors import ModelError, one_line


def load(
    name: str,
    pretrained: str | None,
    precision: str,
    device: torch.device,
    endpoint: str | None = None,
    *,
    weights_sha256: str | None = None,
) -> Model:
    """Loads a model for embedding.

    As with open_clip itself, a named model with weights from a file gets the preprocessing of OpenAI's CLIP. Where that
    is wrong (SigLIP), use a config json with `model_cfg` and `preprocess_cfg`, or a folder that has such a file beside
    the weights.

    Args:
        name: an open_clip model, one on the hub, the path or URL of a config json, or `pocket`.
        pretrained: an open_clip tag, or the path or URL of weights or of a folder.
        precision: fp32, bf16 or fp16, as in open_clip, which keeps layer norms in float32. Where open_clip cannot
            convert a model's weights, they stay float32 and torch's autocast computes in the lower precision.
        device: the device of the model.
        endpoint: an S3 server other than AWS.
        weights_sha256: the digest of the weights that `describe` returned, if it was called.

    Raises:
        ModelError: as `describe`; or the weights have changed since, or differ on this machine.
    """
    origin = weights.find(name, pretrained, endpoint)
    file = origin.weights_file()
    if weights_sha256 and weights.digest(file) != weights_sha256:
        raise ModelError(
            f"weights {file} are not those that the run began with: they changed, or differ on this machine; "
            "start the run again"
        )
    lower = get_input_dtype(precision)
    autocast = lower if lower and not _can_be_lowered(origin.config) else None
    with building(origin):
        # Checked again, although the driver has done so: on another machine, the hub's cache may hold another version.
        check_text_tower(origin)
    without_tf32()
    with opening(origin, file):
        clip = open_clip.create_model(
            origin.name,
            # A tag has its own preprocessing; open_clip finds the file that `weights_file` has downloaded.
            origin.pretrained if origin.is_tag else str(file),
            precision="fp32" if autocast else precision,
            device=device,
            force_preprocess_cfg=origin.preprocess or None,
        ).eval()
        tokenizer = open_tokenizer(origin)
    if not weights_sha256:
        # Otherwise they are the weights that `describe` has checked.
        check_fit(origin, file, clip)
    clip.requires_grad_(requires_grad=False)
    classed, causal = ClassTokenTower.of(clip.visual), CausalTower.of(clip)
    see = classed.encode if classed else clip.encode_image
    read = causal.encode if causal else clip.encode_text
    return Model(
        clip=clip,
        see=_under(autocast, device, see) if autocast else see,
        read=_under(autocast, device, read) if autocast else read,
        cut=causal,
        tokenize=bounded(tokenizer),
        preprocess=Preprocess.of(clip.visual.preprocess_cfg),
        device=device,
        dtype=torch.float32 if autocast else lower or torch.float32,
        dim=int(origin.config["embed_dim"]),
        image_size=height_and_width(clip.visual.preprocess_cfg["size"]),
    )


def _can_be_lowered(config: Mapping[str, Any]) -> bool:
    """Returns whether open_clip's conversion to a lower precision covers all weights that it has to cover.

    It skips the weights of Hugging Face's text towers, of attention poolers (CoCa's) and of projections with a bias,
    which are then multiplied with converted ones, and torch raises. Towers of timm are converted as a whole.
    """
    text, vision = config["text_cfg"], config["vision_cfg"]
    if "hf_model_name" in text or "multimodal_cfg" in config:
        return False
    return "timm_model_name" in vision or not (text.get("proj_bias") or vision.get("attentional_pool"))


def _under(dtype: torch.dtype, device: torch.device, encode: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Wraps a tower such that it runs under torch's autocast."""

    def encode_lower(x: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype):
            return encode(x)

    return encode_lower


def compiled(model: Model, name: str, rows: int) -> Model:
    """Returns the model with both towers compiled and run once, so that a missing compiler is found now.

    The text tower is compiled for varying lengths, as captions are cut to the longest of their batch; the vision tower
    for one batch size, as all batches have the same.

    Args:
        model: the loaded model.
        name: name of the model, for messages.
        rows: the batch size.

    Raises:
        ModelError: the model cannot be compiled on this machine.
    """
    from torch._dynamo.exc import TorchDynamoException

    assert model.read, "files of TorchScript are not compiled"
    see: Callable[[Tensor], Tensor] = torch.compile(model.see, dynamic=False)
    read: Callable[[Tensor], Tensor] = torch.compile(model.read, dynamic=True)
    model = dataclasses.replace(model, see=see, read=read)
    try:
        model.encode_images([np.zeros((3, *model.image_size), np.uint8)], rows)
        model.encode_captions(["a photo", "a photo of two cats on a hill"], 2)
    except torch.OutOfMemoryError:
        # `BatchSize.run` finds out at the first batch how many rows memory holds.
        pass
    except torch.AcceleratorError:
        # The GPU failed; no compiler is missing.
        raise
    # torch reports a missing compiler in several ways, all of which are RuntimeErrors.
    except (TorchDynamoException, RuntimeError) as error:
        reason = one_line(error)
        raise ModelError(
            f"model {name} cannot be compiled here, set compile: false or install a compiler: {reason}"
        ) from error
    return model
