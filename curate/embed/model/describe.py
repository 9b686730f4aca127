"""Finds out the facts of a model without running it, and checks that its weights will load."""

import copy
import hashlib
import json
from typing import Any

import open_clip
import torch
from open_clip.factory import load_checkpoint
from torch import nn

from curate.embed.model import weights
from curate.embed.model.facts import ModelFacts
from curate.embed.model.fit import building, check_fit, opening
from curate.embed.model.hugging_face import check_text_tower, open_tokenizer
from curate.embed.model.names import MODEL_KEY
from curate.embed.model.preprocess import Preprocess, height_and_width
from curate.errors import ModelError


def describe(name: str, pretrained: str | None, endpoint: str | None = None, key: str = MODEL_KEY) -> ModelFacts:
    """Returns the facts of a model by its name and weights; arguments as for `weights.find`, rest as `facts_of`."""
    return facts_of(weights.find(name, pretrained, endpoint, key))


def facts_of(origin: weights.Origin) -> ModelFacts:
    """Returns the facts of a model, and checks that it will load, without a forward pass.

    The weights are loaded into a model without storage (torch's meta device), by open_clip's own loader with its
    conversions.

    Args:
        origin: the model; the weights of a tag are downloaded here where needed.

    Raises:
        ModelError: the weights cannot be read or do not fit, or the tokenizer cannot be loaded. One line.
    """
    with building(origin):
        # The tokenizer first, as its check is the cheapest: some tokenizers need a further package.
        tokenizer = open_tokenizer(origin)
        check_text_tower(origin)
    file = origin.weights_file()
    with building(origin):
        clip = open_clip.create_model(
            origin.name,
            # A tag has its own preprocessing.
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
    # These two parameters get storage, so that their values can be read after loading.
    clip.logit_scale = nn.Parameter(torch.zeros(clip.logit_scale.shape))
    if clip.logit_bias is not None:
        clip.logit_bias = nn.Parameter(torch.zeros(clip.logit_bias.shape))
    check_fit(origin, file, clip)
    with opening(origin, file):
        load_checkpoint(clip, str(file), weights_only=True)
    preprocess = json.loads(json.dumps(clip.visual.preprocess_cfg))
    with building(origin):
        Preprocess.of(preprocess)
    height, width = height_and_width(preprocess["size"])
    config = copy.deepcopy(origin.config)
    if origin.tokenizer:
        # The tokenizer's content is in its digest; its path is not part of the model's identity.
        del config["text_cfg"]["hf_tokenizer_name"]
    canonical = json.dumps({"model": config, "preprocess": preprocess}, sort_keys=True)
    return ModelFacts(
        weights_sha256=weights.digest(file),
        config_sha256=hashlib.sha256(canonical.encode()).hexdigest(),
        embed_dim=int(origin.config["embed_dim"]),
        context_length=int(tokenizer.context_length),
        image_size=(height, width),
        logit_scale=float(clip.logit_scale.detach().exp()),
        logit_bias=None if clip.logit_bias is None else float(clip.logit_bias.detach()),
        preprocess=preprocess,
        tokenizer_sha256=None if inner is None else _tokenizer_digest(inner),
    )


def _tokenizer_digest(tokenizer: Any) -> str:
    """Returns a digest of everything that decides how a Hugging Face tokenizer splits a text."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    content = fast.to_str() if fast else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    special = json.dumps({name: str(token) for name, token in tokenizer.special_tokens_map.items()}, sort_keys=True)
    return hashlib.sha256(f"{type(tokenizer).__name__}\n{special}\n{content}".encode()).hexdigest()
