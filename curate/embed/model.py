"""An open_clip model: what it is (`describe`, cheap, for the driver) and the model itself (`load`).

Both go through open_clip's own `create_model`, `load_checkpoint`, `get_tokenizer` and preprocessing, so that
any model that open_clip can load is loaded here in the same way.
"""

import contextlib
import copy
import dataclasses
import functools
import hashlib
import json
import logging
import pickle
import re
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from open_clip.factory import load_checkpoint, load_state_dict
from open_clip.model import get_input_dtype
from safetensors import SafetensorError
from torch import Tensor, nn

from curate.embed import weights
from curate.embed.preprocess import Preprocess, height_and_width
from curate.embed.text import CausalTower, encode_captions
from curate.embed.vision import ClassTokenTower
from curate.errors import ModelError, UsageError

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


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model without running it. JSON-able: `dataclasses.asdict`.

    Attributes:
        weights_sha256: of the file of weights.
        config_sha256: of the architecture and the preprocessing, as canonical JSON.
        embed_dim: length of an embedding.
        context_length: tokens of a caption.
        image_size: height and width that the vision tower takes.
        logit_scale: what cosines are multiplied by before a softmax or sigmoid (already exponentiated).
        logit_bias: what SigLIP-type models then add; None for the others.
        preprocess: open_clip's preprocessing settings (size, mean, std, interpolation, resize_mode, fill_color).
        tokenizer_sha256: of a Hugging Face tokenizer, vocabulary, rules and all; None for open_clip's own.
    """

    weights_sha256: str
    config_sha256: str
    embed_dim: int
    context_length: int
    image_size: tuple[int, int]
    logit_scale: float
    logit_bias: float | None
    preprocess: dict[str, Any]
    tokenizer_sha256: str | None = None


@dataclass(frozen=True)
class Model:
    """A model ready to embed.

    Attributes:
        clip: the open_clip model, in eval mode, on its device.
        see: float[n, 3, height, width] → float[n, dim]: the vision tower, as far as it is read.
        read: int64[n, length] → float[n, dim]: the text tower, likewise.
        cut: the text tower where its captions may be cut; None where it takes them at their full length.
        tokenize: captions → int64[n, context].
        preprocess: makes of a picture what `encode_images` takes.
        device: where the model is.
        dtype: of the images that it takes.
        dim: length of an embedding.
    """

    clip: Any
    see: Callable[[Tensor], Tensor]
    read: Callable[[Tensor], Tensor]
    cut: CausalTower | None
    tokenize: Callable[[list[str]], Tensor]
    preprocess: Preprocess
    device: torch.device
    dtype: torch.dtype
    dim: int

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of what the vision tower takes, in pixels."""
        return height_and_width(self.clip.visual.preprocess_cfg["size"])

    @property
    def image_side(self) -> int:
        """The longer one of the two."""
        return max(self.image_size)

    def encode_images(
        self, prepared: Sequence[npt.NDArray[np.uint8]], batch_size: int, *, mirrored: bool = False
    ) -> Tensor:
        """Embeds up to `batch_size` prepared images; the batch is filled up to that size with black ones.

        Args:
            prepared: as `preprocess` gives them.
            batch_size: rows of the forward pass.
            mirrored: embed what is seen in a mirror: left and right change places.

        Returns:
            float32[n, dim] on the device, L2-normalised. On CUDA it may still be under way.
        """
        on_gpu = self.device.type == "cuda"
        # Pinned, it is sent while the device is still at the batch before.
        pixels = torch.empty((batch_size, *prepared[0].shape), dtype=torch.uint8, pin_memory=on_gpu)
        np.stack(prepared, out=pixels.numpy()[: len(prepared)])
        pixels[len(prepared) :] = 0
        pixels = pixels.to(self.device, non_blocking=True)
        images = pixels.to(torch.float32).div_(255)
        if mirrored:
            images = images.flip(-1)
        images.sub_(self._by_channel(self.preprocess.mean)).div_(self._by_channel(self.preprocess.std))
        with torch.inference_mode():
            features = self.see(images.to(self.dtype))
            return nn.functional.normalize(features[: len(prepared)].float(), dim=-1)

    def encode_captions(self, captions: list[str], batch_size: int) -> npt.NDArray[np.float32]:
        """Embeds captions; give each one once.

        Returns:
            float32[n, dim], L2-normalised.
        """
        return self.encode_tokens(self.tokenize(captions), batch_size).cpu().numpy()

    def encode_tokens(self, tokens: Tensor, batch_size: int) -> Tensor:
        """Embeds captions that were tokenized, int64[n, context]; give each one once.

        Returns:
            float32[n, dim] on the device, L2-normalised. On CUDA it may still be under way.
        """
        if not len(tokens):
            return torch.zeros((0, self.dim), device=self.device)
        lengths = self.cut.lengths(tokens) if self.cut else torch.full((len(tokens),), tokens.shape[1])
        with torch.inference_mode():
            return encode_captions(self.read, lengths, tokens, batch_size, self.device)

    def _by_channel(self, values: tuple[float, ...]) -> Tensor:
        return _on_device(values, self.device)


def describe(
    name: str, pretrained: str | None, endpoint: str | None = None, key: str = weights.MODEL_KEY
) -> ModelFacts:
    """Says what a model is and makes sure that it will load, without a forward pass.

    The weights are checked against a model without storage (torch's meta device), through open_clip's own
    loader and its conversions.

    Args:
        name: an open_clip model, the path or URL of a config json, or `pocket`.
        pretrained: an open_clip tag (downloaded here, if need be), or the path or URL of weights or of a folder.
        endpoint: of an S3 server other than AWS.
        key: where the recipe names the model, for messages.

    Raises:
        ModelError: an unknown model or tag; weights that cannot be read or do not fit; a tokenizer that cannot
            be had. One line.
    """
    origin = weights.find(name, pretrained, endpoint, key)
    with _building(origin):
        # First, as it is the cheapest to find missing: some need a further package.
        tokenizer = open_clip.get_tokenizer(origin.name)
    file = origin.weights_file()
    with _building(origin):
        clip = open_clip.create_model(
            origin.name,
            # A tag brings its own preprocessing.
            origin.pretrained if origin.is_tag else None,
            load_weights=False,
            pretrained_text=False,
            device="meta",
            force_preprocess_cfg=origin.preprocess or None,
        )
    inner = getattr(tokenizer, "tokenizer", None)
    tokens = getattr(tokenizer, "vocab_size", 0) if inner is None else len(inner)
    if tokens > clip.vocab_size:
        raise ModelError(f"model {origin.label}: its tokenizer has {tokens} tokens, its text tower {clip.vocab_size}")
    # These two get storage, so that loading leaves their values there.
    clip.logit_scale = nn.Parameter(torch.zeros(clip.logit_scale.shape))
    if clip.logit_bias is not None:
        clip.logit_bias = nn.Parameter(torch.zeros(clip.logit_bias.shape))
    _check_fit(origin, file, clip)
    with _loading(origin, file):
        load_checkpoint(clip, str(file), weights_only=True)
    preprocess = json.loads(json.dumps(clip.visual.preprocess_cfg))
    with _building(origin):
        Preprocess.of(preprocess)
    height, width = height_and_width(preprocess["size"])
    config = copy.deepcopy(origin.config)
    if origin.tokenizer:
        # What it is stands in its digest; where it lies is no part of a model.
        del config["text_cfg"]["hf_tokenizer_name"]
    canonical = json.dumps({"model": config, "preprocess": preprocess}, sort_keys=True)
    return ModelFacts(
        weights_sha256=_sha256(file),
        config_sha256=hashlib.sha256(canonical.encode()).hexdigest(),
        embed_dim=int(origin.config["embed_dim"]),
        context_length=int(tokenizer.context_length),
        image_size=(height, width),
        logit_scale=float(clip.logit_scale.detach().exp()),
        logit_bias=None if clip.logit_bias is None else float(clip.logit_bias.detach()),
        preprocess=preprocess,
        tokenizer_sha256=None if inner is None else _tokenizer_digest(inner),
    )


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _tokenizer_digest(tokenizer: Any) -> str:
    """Of all that decides how a Hugging Face tokenizer splits a text."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    says = fast.to_str() if fast else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    special = json.dumps({name: str(token) for name, token in tokenizer.special_tokens_map.items()}, sort_keys=True)
    return hashlib.sha256(f"{type(tokenizer).__name__}\n{special}\n{says}".encode()).hexdigest()


def load(
    name: str,
    pretrained: str | None,
    precision: str,
    device: torch.device,
    endpoint: str | None = None,
    *,
    compiled: bool = False,
    weights_sha256: str | None = None,
) -> Model:
    """Loads a model for embedding.

    As with open_clip itself, a named model with weights from a file is given the preprocessing of OpenAI's CLIP;
    where that is wrong (SigLIP), name a config json that holds `model_cfg` and `preprocess_cfg`, or the folder that
    has such a file beside the weights.

    Args:
        name: an open_clip model, the path or URL of a config json, or `pocket`.
        pretrained: an open_clip tag, or the path or URL of weights or of a folder.
        precision: fp32, bf16 or fp16: open_clip's own, which keeps layer norms in float32; where it cannot lower a
            model's weights, they stay and torch's autocast lowers what is computed with them.
        device: where it goes.
        endpoint: of an S3 server other than AWS.
        compiled: compile the towers with torch.compile; captions of any length go through one compilation.
        weights_sha256: what `describe` said of the weights, where that was said.

    Raises:
        ModelError: as `describe`; it cannot be compiled here; or the weights are others by now, or on this machine.
    """
    origin = weights.find(name, pretrained, endpoint)
    file = origin.weights_file()
    if weights_sha256 and _sha256(file) != weights_sha256:
        raise ModelError(
            f"weights {file} are not those that the run began with: they changed, or are others on this machine; "
            "start it again"
        )
    lower = get_input_dtype(precision)
    autocast = lower if lower and not _can_be_lowered(origin.config) else None
    with _loading(origin, file):
        clip = open_clip.create_model(
            origin.name,
            # A tag brings its own preprocessing; open_clip finds the file that was just downloaded.
            origin.pretrained if origin.is_tag else str(file),
            precision="fp32" if autocast else precision,
            device=device,
            force_preprocess_cfg=origin.preprocess or None,
        ).eval()
        tokenizer = open_clip.get_tokenizer(origin.name)
    _check_fit(origin, file, clip)
    clip.requires_grad_(requires_grad=False)
    classed, causal = ClassTokenTower.of(clip.visual), CausalTower.of(clip)
    see = classed.encode if classed else clip.encode_image
    read = causal.encode if causal else clip.encode_text
    model = Model(
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
    return _compiled(model, origin.label) if compiled else model


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


def _check_fit(origin: weights.Origin, file: Path, clip: Any) -> None:
    """Refuses what open_clip makes fit by itself, or fails at without saying why.

    It stretches positional embeddings of another length than the model's (weights for images of another size, or for
    longer captions), and says nothing: such scores are of neither model. What belongs to a tag is open_clip's to say.

    Raises:
        ModelError: the weights do not fit.
    """
    if origin.is_tag:
        return
    with _loading(origin, file):
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


def _compiled(model: Model, label: str) -> Model:
    """Compiles both towers, and runs them once, so that what is missing here is found now.

    The text tower is compiled for lengths that vary: captions are cut to the longest of their batch.
    """
    from torch._dynamo.exc import TorchDynamoException

    see, read = torch.compile(model.see), torch.compile(model.read, dynamic=True)
    model = dataclasses.replace(model, see=see, read=read)
    try:
        model.encode_images([np.zeros((3, *model.image_size), np.uint8)], 2)
        model.encode_captions(["a photo", "a photo of two cats on a hill"], 2)
        return model
    # A missing compiler is told in several ways, all of which are RuntimeErrors.
    except (TorchDynamoException, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        said = weights.one_line(error)
        raise ModelError(
            f"model {label} cannot be compiled here, set compile: false or install a compiler: {said}"
        ) from error


def choose_device(device: str) -> torch.device:
    """The device of a worker: `auto` takes a CUDA device where there is one. Raises UsageError."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("embed.device is cuda, but torch sees no CUDA device here")
    return torch.device(device)


@functools.cache
def _on_device(values: tuple[float, ...], device: torch.device) -> Tensor:
    """A value by channel; sent once, for each sending waits for the device to be done with what it is at."""
    return torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1)


@contextlib.contextmanager
def _building(origin: weights.Origin) -> Iterator[None]:
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
def _loading(origin: weights.Origin, file: Path) -> Iterator[None]:
    try:
        with _quiet():
            yield
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
