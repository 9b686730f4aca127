"""The pocket model is loaded by open_clip from its two files and tells right captions from wrong ones."""

import hashlib
import json
import random
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import curate
from curate.demo import captions, scenes

FOLDER = Path(curate.__file__).parent / "models" / "pocket"
CONFIG, WEIGHTS = FOLDER / "config.json", FOLDER / "weights.safetensors"
SEED = 31
PAIRS = 400


@pytest.fixture(scope="module")
def pocket():
    open_clip.add_model_config(CONFIG)
    model, _, preprocess = open_clip.create_model_and_transforms(CONFIG.stem, pretrained=str(WEIGHTS))
    return model.eval(), preprocess, open_clip.get_tokenizer(CONFIG.stem)


@pytest.fixture(scope="module")
def shown():
    rng = random.Random(SEED)
    return [scenes.sample_scene(rng) for _ in range(PAIRS)]


def image_embeddings(pocket, images):
    model, preprocess, _ = pocket
    with torch.inference_mode():
        return model.encode_image(torch.stack([preprocess(i) for i in images]), normalize=True).numpy()


def text_embeddings(pocket, texts):
    model, _, tokenize = pocket
    with torch.inference_mode():
        return model.encode_text(tokenize(texts), normalize=True).numpy()


@pytest.fixture(scope="module")
def embedded(pocket, shown):
    rng = random.Random(SEED + 1)
    sizes = [rng.choice(((64, 64), (120, 90), (240, 320), (500, 400))) for _ in shown]
    return image_embeddings(pocket, [scenes.draw_scene(s, size) for s, size in zip(shown, sizes, strict=True)])


def auc(positives, negatives):
    return (positives[:, None] > negatives).mean()


def similarities(pocket, embedded, write, shown):
    rng = random.Random(SEED + 2)
    return np.sum(embedded * text_embeddings(pocket, [write(scene, rng) for scene in shown]), axis=1)


def test_the_weights_are_small_and_of_numbers():
    assert WEIGHTS.stat().st_size <= 15_000_000
    with safe_open(WEIGHTS, "pt") as weights:
        for name in weights.keys():  # noqa: SIM118  safe_open is no mapping
            assert torch.isfinite(weights.get_tensor(name).float()).all(), name


def test_the_card_is_of_these_weights():
    assert hashlib.sha256(WEIGHTS.read_bytes()).hexdigest() in (FOLDER / "README.md").read_text()


def test_the_config_is_of_the_standard_tokenizer(pocket):
    config = json.loads(CONFIG.read_text())
    assert config["text_cfg"]["vocab_size"] == 49408
    assert pocket[2](["a red star"]).shape == (1, config["text_cfg"]["context_length"])


def test_right_captions_are_told_from_wrong_ones(pocket, shown, embedded):
    right = similarities(pocket, embedded, captions.caption, shown)
    assert auc(right, similarities(pocket, embedded, captions.wrong_caption, shown)) > 0.99
    assert auc(right, similarities(pocket, embedded, captions.half_wrong_caption, shown)) > 0.86


def test_the_right_caption_of_a_hundred_is_the_best(pocket, shown, embedded):
    rng = random.Random(SEED + 3)
    facts = [captions.facts_of(scene, rng) for scene in shown]
    texts = text_embeddings(pocket, [captions.say(f, rng) for f in facts])
    first = []
    for i, scene in enumerate(shown):
        start = i - i % 100
        false = [j for j in range(start, start + 100) if not captions.is_true_of(facts[j], scene)]
        first.append(embedded[i] @ texts[i] > (texts[false] @ embedded[i]).max())
    assert np.mean(first) > 0.88


def test_prompts_find_watermarks_and_text(pocket, shown, embedded):
    rng = random.Random(SEED + 4)
    marked = [scenes.with_watermark(scenes.draw_scene(scene, (160, 120)), rng) for scene in shown[:200]]
    words = [scenes.draw_text_image(captions.sample_text(rng), (160, 120), rng) for _ in range(200)]
    scale = pocket[0].logit_scale.exp().item()
    for images, prompts in (
        (marked, ["a picture with a watermark", "a picture", "a picture of shapes", "a picture of only text"]),
        (words, ["a picture of only text", "a picture of shapes", "a picture with a watermark"]),
    ):
        directions = torch.from_numpy(text_embeddings(pocket, prompts))
        with_it, without = (
            (scale * torch.from_numpy(vectors) @ directions.T).softmax(dim=1)[:, 0].numpy()
            for vectors in (image_embeddings(pocket, images), embedded)
        )
        assert (with_it > 0.7).mean() > 0.95
        assert (without > 0.7).mean() < 0.02


def test_a_smaller_copy_is_nearer_than_another_scene(pocket, shown):
    large = [scenes.draw_scene(scene, (400, 300)) for scene in shown[:100]]
    small = [image.resize((120, 90), Image.Resampling.BICUBIC) for image in large]
    alike = image_embeddings(pocket, large) @ image_embeddings(pocket, small).T
    assert (np.diag(alike) > 0.95).mean() > 0.95
    assert (alike.argmax(axis=1) == np.arange(100)).mean() > 0.97
