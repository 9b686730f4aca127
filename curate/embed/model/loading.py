"""A model from its weights, through open_clip's own `create_model`, `get_tokenizer` and preprocessing.

So any model that open_clip can load is loaded here in the same way.
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
from curate.embed.model.preprocess import Preprocess
from curate.embed.model.text import CausalTower
from curate.embed.model.towers import Model
from curate.embed.model.vision import ClassTokenTower
from curate.errors import ModelError


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

    As with open_clip itself, a named model with weights from a file is given the preprocessing of OpenAI's CLIP;
    where that is wrong (SigLIP), name a config json that holds `model_cfg` and `preprocess_cfg`, or the folder that
    has such a file beside the weights.

    Args:
        name: an open_clip model, one on the hub, the path or URL of a config json, or `pocket`.
        pretrained: an open_clip tag, or the path or URL of weights or of a folder.
        precision: fp32, bf16 or fp16: open_clip's own, which keeps layer norms in float32; where it cannot lower a
            model's weights, they stay and torch's autocast lowers what is computed with them.
        device: where it goes.
        endpoint: of an S3 server other than AWS.
        weights_sha256: what `describe` said of the weights, where that was said.

    Raises:
        ModelError: as `describe`; or the weights are others by now, or on this machine.
    """
    origin = weights.find(name, pretrained, endpoint)
    file = origin.weights_file()
    if weights_sha256 and weights.digest(file) != weights_sha256:
        raise ModelError(
            f"weights {file} are not those that the run began with: they changed, or are others on this machine; "
            "start it again"
        )
    lower = get_input_dtype(precision)
    autocast = lower if lower and not _can_be_lowered(origin.config) else None
    with building(origin):
        # Again, though the driver asked for it: this may be another machine, whose hub says something else.
        check_text_tower(origin)
    without_tf32()
    with opening(origin, file):
        clip = open_clip.create_model(
            origin.name,
            # A tag brings its own preprocessing; open_clip finds the file that was just downloaded.
            origin.pretrained if origin.is_tag else str(file),
            precision="fp32" if autocast else precision,
            device=device,
            force_preprocess_cfg=origin.preprocess or None,
        ).eval()
        tokenizer = open_tokenizer(origin)
    if not weights_sha256:
        # Else they are those that `describe` found to fit.
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
        tokenize=tokenizer,
        preprocess=Preprocess.of(clip.visual.preprocess_cfg),
        device=device,
        dtype=torch.float32 if autocast else lower or torch.float32,
        dim=int(origin.config["embed_dim"]),
    )


def _can_be_lowered(config: Mapping[str, Any]) -> bool:
    """Whether open_clip's conversion reaches all weights of a model that have to be of one precision.

    It leaves those of Hugging Face's text towers, of attention poolers (CoCa's) and of projections with a bias, which
    then meet others in one product; towers of timm are converted in another way, as a whole.
    """
    text, vision = config["text_cfg"], config["vision_cfg"]
    if "hf_model_name" in text or "multimodal_cfg" in config:
        return False
    return "timm_model_name" in vision or not (text.get("proj_bias") or vision.get("attentional_pool"))


def _under(dtype: torch.dtype, device: torch.device, encode: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A tower under torch's autocast."""

    def encode_lower(x: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype):
            return encode(x)

    return encode_lower


def compiled(model: Model, name: str, rows: int) -> Model:
    """The model with both towers compiled, and run once, so that what is missing here is found now.

    The text tower is compiled for lengths that vary, as captions are cut to the longest of their batch; the vision
    tower for batches of one size, which all are.

    Args:
        model: as it was loaded.
        name: what messages call it.
        rows: of a batch.

    Raises:
        ModelError: it cannot be compiled here.
    """
    from torch._dynamo.exc import TorchDynamoException

    see, read = torch.compile(model.see, dynamic=False), torch.compile(model.read, dynamic=True)
    model = dataclasses.replace(model, see=see, read=read)
    try:
        model.encode_images([np.zeros((3, *model.image_size), np.uint8)], rows)
        model.encode_captions(["a photo", "a photo of two cats on a hill"], 2)
    except torch.OutOfMemoryError:
        # The first batch will find out how many rows memory holds.
        pass
    except torch.AcceleratorError:
        # A GPU that failed, not a compiler that is missing.
        raise
    # A missing compiler is told in several ways, all of which are RuntimeErrors.
    except (TorchDynamoException, RuntimeError) as error:
        said = weights.one_line(error)
        raise ModelError(
            f"model {name} cannot be compiled here, set compile: false or install a compiler: {said}"
        ) from error
    return model
