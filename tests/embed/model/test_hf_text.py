"""Models with a text tower of Hugging Face's, as open_clip's multilingual ones have."""

import json
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from helpers.embed_parts import VISION, Tiny, draw
from helpers.small_tokenizer import TEXTS, train_tokenizer
from safetensors.torch import save_file
from transformers import XLMRobertaConfig

from curate.embed.model.describe import describe
from curate.embed.model.loading import load

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def multilingual(tmp_path_factory):
    """Written to disk, and open_clip's own instance of it."""
    folder = tmp_path_factory.mktemp("multilingual")
    train_tokenizer(folder / "tokenizer", [*TEXTS, "the quick brown fox jumps over the lazy dog"] * 5)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    XLMRobertaConfig(vocab_size=400, max_position_embeddings=40, **sizes).save_pretrained(folder / "tower")
    text: dict[str, Any] = {"hf_model_name": str(folder / "tower"), "hf_tokenizer_name": str(folder / "tokenizer")}
    text |= {"hf_proj_type": "mlp", "hf_pooler_type": "mean_pooler", "context_length": 16}
    config = folder / "tiny-multilingual.json"
    config.write_text(json.dumps({"embed_dim": 32, "vision_cfg": VISION, "text_cfg": text, "custom_text": True}))
    open_clip.add_model_config(config)
    torch.manual_seed(0)
    clip, _, preprocess = open_clip.create_model_and_transforms(config.stem, pretrained_text=False)
    clip.eval()
    save_file({k: v.contiguous().clone() for k, v in clip.state_dict().items()}, folder / "weights.safetensors")
    tokenize = open_clip.get_tokenizer(config.stem)
    return Tiny(str(config), str(folder / "weights.safetensors"), clip, preprocess, tokenize)


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-5), ("bf16", 5e-3), ("fp16", 1e-4)])
def test_captions_and_images_are_open_clips(multilingual, precision, bound):
    model = load(multilingual.config, multilingual.weights, precision, CPU)
    assert model.cut is None
    said = model.encode_captions(TEXTS, 4)
    assert (1 - (said * [multilingual.embed_text(text) for text in TEXTS]).sum(1)).max() < bound
    pictures = [draw(n) for n in range(3)]
    seen = model.encode_images([model.preprocess(picture) for picture in pictures], 4).numpy()
    assert (1 - (seen * [multilingual.embed_image(picture) for picture in pictures]).sum(1)).max() < bound
    assert np.isfinite(seen).all()


def test_its_facts(multilingual):
    facts = describe(multilingual.config, multilingual.weights)
    assert (facts.context_length, facts.embed_dim) == (16, 32)
    assert facts.tokenizer_sha256
