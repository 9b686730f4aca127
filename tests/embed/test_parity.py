"""Scores of the trained pocket model in low precision, against open_clip's own path in float32."""

import random

import numpy as np
import open_clip
import pytest
import torch

from curate.demo.captions import caption
from curate.demo.scenes import draw_scene, sample_scene
from curate.embed.model.loading import load
from curate.embed.model.names import POCKET

PAIRS = 160


@pytest.fixture(scope="module")
def drawn():
    """Pictures, captions (every other one of another picture), and open_clip's scores of them."""
    rng = random.Random(4)
    scenes = [sample_scene(rng) for _ in range(PAIRS)]
    pictures = [draw_scene(scene, (96, 96)) for scene in scenes]
    captions = [caption(scenes[n if n % 2 else n - 2], rng) for n in range(PAIRS)]
    open_clip.add_model_config(POCKET / "config.json")
    clip, _, preprocess = open_clip.create_model_and_transforms("config", str(POCKET / "weights.safetensors"))
    clip.eval()
    with torch.inference_mode():
        seen = clip.encode_image(torch.stack([preprocess(picture) for picture in pictures]), normalize=True)
        said = clip.encode_text(open_clip.get_tokenizer("config")(captions), normalize=True)
    return pictures, captions, (seen * said).sum(-1).numpy()


@pytest.mark.parametrize(
    ("precision", "median", "worst"), [("fp32", 1e-6, 1e-5), ("bf16", 1e-3, 0.01), ("fp16", 2e-4, 2e-3)]
)
def test_scores_keep_their_order(precision, median, worst, drawn):
    pictures, captions, expected = drawn
    model = load("pocket", None, precision, torch.device("cpu"))
    seen = model.encode_images([model.preprocess(picture) for picture in pictures], PAIRS).numpy()
    found = (seen * model.encode_captions(captions, PAIRS)).sum(-1)
    shift = np.abs(found - expected)
    assert np.median(shift) < median
    assert shift.max() < worst
    ranks = [np.argsort(np.argsort(values)) for values in (found, expected)]
    assert np.asarray(np.corrcoef(ranks))[0, 1] >= 0.999
