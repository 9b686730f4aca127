"""Models of SigLIP's shape: a sigmoid's bias, a squashed image, a last-token text tower, a tokenizer of their own."""

import json
import shutil
from typing import Any

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
from helpers.embed_parts import Tiny, draw, worker_of
from helpers.open_clip_oracle import check_against_open_clip
from helpers.small_tokenizer import TEXTS, train_tokenizer
from safetensors.torch import save_file

from curate.embed.model.describe import describe
from curate.embed.model.loading import load
from curate.errors import ModelError

CONTEXT = 16
CONFIG: dict[str, Any] = {
    "embed_dim": 64,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {
        "image_size": 160,
        "timm_model_name": "test_vit",
        "timm_pool": "map",
        "timm_proj": "none",
    },
    "text_cfg": {
        "context_length": CONTEXT,
        "vocab_size": 400,
        "hf_tokenizer_name": "tokenizer",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "width": 64,
        "heads": 4,
        "layers": 2,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
    },
}
PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic", "resize_mode": "squash"}


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    """Written to disk, and open_clip's own instance of it."""
    folder = tmp_path_factory.mktemp("siglip")
    train_tokenizer(folder / "tokenizer", [*TEXTS, "the quick brown fox jumps over the lazy dog"] * 5)
    (folder / "model.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": PREPROCESS}))
    theirs = folder / "theirs-siglip-shaped.json"
    text = {**CONFIG["text_cfg"], "hf_tokenizer_name": str(folder / "tokenizer")}
    theirs.write_text(json.dumps({**CONFIG, "text_cfg": text}))
    open_clip.add_model_config(theirs)
    torch.manual_seed(0)
    clip, _, preprocess = open_clip.create_model_and_transforms(
        theirs.stem, image_mean=(0.5,) * 3, image_std=(0.5,) * 3, image_resize_mode="squash"
    )
    clip.eval()
    save_file({k: v.contiguous().clone() for k, v in clip.state_dict().items()}, folder / "weights.safetensors")
    config, weights = str(folder / "model.json"), str(folder / "weights.safetensors")
    return Tiny(config, weights, clip, preprocess, open_clip.get_tokenizer(theirs.stem))


def test_images_and_captions_are_open_clips(siglip):
    model = load(siglip.config, siglip.weights, "fp32", torch.device("cpu"))
    found = model.encode_captions(TEXTS, 4)
    np.testing.assert_allclose(found, [siglip.embed_text(text) for text in TEXTS], atol=1e-5)
    pictures = [draw(n, size) for n, size in enumerate([(90, 60), (32, 32), (40, 200)])]
    embedded = model.encode_images([model.preprocess(picture) for picture in pictures], 4).numpy()
    np.testing.assert_allclose(embedded, [siglip.embed_image(picture) for picture in pictures], atol=1e-5)


def test_its_facts_hold_the_bias_and_the_tokenizer(siglip, tmp_path):
    facts = describe(siglip.config, siglip.weights)
    assert facts.logit_bias == pytest.approx(-10)
    assert facts.context_length == CONTEXT
    assert facts.preprocess["resize_mode"] == "squash"
    assert len(facts.tokenizer_sha256) == 64
    # The same files elsewhere are the same model; another tokenizer is another one.
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(siglip.config.removesuffix("/model.json"), elsewhere)
    assert describe(str(elsewhere / "model.json"), siglip.weights) == facts
    shutil.rmtree(elsewhere / "tokenizer")
    train_tokenizer(elsewhere / "tokenizer", ["other words make another tokenizer"] * 5)
    other = describe(str(elsewhere / "model.json"), siglip.weights)
    assert other.tokenizer_sha256 != facts.tokenizer_sha256
    assert other.config_sha256 == facts.config_sha256


def test_a_part_is_scored(siglip, part):
    tables = part.embed(worker_of(s=siglip), "embed-s")
    check_against_open_clip(part, tables, "s", siglip)


def test_a_tokenizer_that_is_not_there_or_too_large_is_one_line(siglip, tmp_path, monkeypatch):
    # The client's pauses between its tries, half a minute in all.
    monkeypatch.setattr(huggingface_hub.utils._http.time, "sleep", lambda _seconds: None)
    config = tmp_path / "model.json"
    config.write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": PREPROCESS}))
    # Which of the two depends on whether the machine has a network to ask.
    with pytest.raises(ModelError, match=r"cannot be (built|downloaded)") as caught:
        describe(str(config), siglip.weights)
    assert "\n" not in str(caught.value)
    small = {**CONFIG, "text_cfg": {**CONFIG["text_cfg"], "vocab_size": 20}}
    shutil.copytree(siglip.config.replace("model.json", "tokenizer"), tmp_path / "tokenizer")
    config.write_text(json.dumps({"model_cfg": small, "preprocess_cfg": PREPROCESS}))
    with pytest.raises(ModelError, match="its text tower 20"):
        describe(str(config), siglip.weights)
