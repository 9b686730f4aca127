"""Measure the pocket CLIP model on scenes that it was not trained on.

    python pipelines/eval_pocket.py                   # the weights in curate/models/pocket

The model is loaded as a user would load it: by open_clip, from config and weights. The pictures have the demo's sizes
and encodings, and pass open_clip's own preprocessing.
"""

import argparse
import io
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from PIL import Image, ImageEnhance

from curate.demo import captions, scenes

POCKET = Path(__file__).parents[1] / "curate" / "models" / "pocket"
HELD_OUT_SEED = 20_261_120
THRESHOLDS = (0.90, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98)
CONCEPTS = {
    "watermark": ("a picture with a watermark", "a picture", "a picture of shapes", "a picture of only text"),
    "only_text": ("a picture of only text", "a picture of shapes", "a picture with a watermark"),
}
"""The prompts of the demo's recipe: the concept first, then the alternatives."""
CONCEPT_THRESHOLD = 0.7

Vectors = npt.NDArray[np.float32]


class Pocket:
    """The model, its preprocessing and its tokenizer."""

    def __init__(self, config: Path, weights: Path) -> None:
        open_clip.add_model_config(config)
        self.model, _, self.preprocess = open_clip.create_model_and_transforms(config.stem, str(weights))
        self.model.eval()
        self.tokenize = open_clip.get_tokenizer(config.stem)

    @torch.inference_mode()
    def images(self, images: Sequence[Image.Image]) -> Vectors:
        """Return the pictures' embeddings, L2-normalised."""
        batches = (torch.stack([self.preprocess(i) for i in images[k : k + 256]]) for k in range(0, len(images), 256))
        return np.concatenate([self.model.encode_image(b, normalize=True).numpy() for b in batches])

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Vectors:
        """Return the captions' embeddings, L2-normalised."""
        batches = (self.tokenize(list(texts[k : k + 256])) for k in range(0, len(texts), 256))
        return np.concatenate([self.model.encode_text(b, normalize=True).numpy() for b in batches])

    @torch.inference_mode()
    def first_share(self, images: Vectors, prompts: Vectors) -> Vectors:
        """Return the first prompt's share of the softmax over all prompts, for each picture."""
        logits = self.model.logit_scale.exp() * torch.from_numpy(images @ prompts.T)
        share: Vectors = logits.softmax(dim=1)[:, 0].numpy()
        return share


@dataclass(frozen=True)
class Captions:
    """Figures of how well scores separate right captions from wrong ones.

    Attributes:
        auc_wrong: ROC AUC of right captions against captions of other scenes.
        auc_half_wrong: ROC AUC of right captions against those with one wrong colour or number.
        rank_1_of_100: Share of pictures whose own caption scores highest of 100, where the 99 others are false of it.
        rank_1_of_any_100: The same with any 99 other captions, some of which are true of the picture, too.
    """

    auc_wrong: float
    auc_half_wrong: float
    rank_1_of_100: float
    rank_1_of_any_100: float


def measure_captions(pocket: Pocket, n: int, seed: int) -> Captions:
    """Return the figures for n pictures; n is a multiple of 100."""
    rng = random.Random(seed)
    shown = [scenes.sample_scene(rng) for _ in range(n)]
    facts = [captions.facts_of(scene, rng) for scene in shown]
    images = pocket.images([encoded(scenes.draw_scene(s, sample_size(rng)), rng.randint(60, 95)) for s in shown])
    right = pocket.texts([captions.say(f, rng) for f in facts])
    wrong = pocket.texts([captions.wrong_caption(s, rng) for s in shown])
    half = pocket.texts([captions.half_wrong_caption(s, rng) for s in shown])
    own = np.sum(images * right, axis=1)
    firsts, firsts_of_any = [], []
    for k in range(0, n, 100):
        similar = images[k : k + 100] @ right[k : k + 100].T
        better = similar > similar.diagonal()[:, None]
        true = np.array([[captions.is_true_of(f, s) for f in facts[k : k + 100]] for s in shown[k : k + 100]])
        firsts.append(~(better & ~true).any(axis=1))
        firsts_of_any.append(~better.any(axis=1))
    return Captions(
        auc_wrong=auc(own, np.sum(images * wrong, axis=1)),
        auc_half_wrong=auc(own, np.sum(images * half, axis=1)),
        rank_1_of_100=float(np.mean(firsts)),
        rank_1_of_any_100=float(np.mean(firsts_of_any)),
    )


@dataclass(frozen=True)
class Copies:
    """The figures of copy detection at one threshold of image similarity.

    Attributes:
        recall: Share of copies at or above the threshold, by kind of copy.
        look_alikes: Share of pictures with a picture of other content at or above the threshold.
    """

    threshold: float
    recall: dict[str, float]
    look_alikes: float


def measure_copies(pocket: Pocket, n: int, n_others: int, seed: int) -> list[Copies]:
    """Return the figures for copies of n pictures, and for look-alikes among n_others pictures, by threshold."""
    rng = random.Random(seed)
    originals = [scenes.draw_scene(scenes.sample_scene(rng), sample_size(rng)) for _ in range(n)]
    embedded = pocket.images([encoded(image, rng.randint(75, 92)) for image in originals])
    alike = {
        name: np.sum(embedded * pocket.images([change(image, rng) for image in originals]), axis=1)
        for name, change in CHANGES.items()
    }
    by_key = {scenes.scene_key(s): s for s in (scenes.sample_scene(rng) for _ in range(n_others))}
    others = pocket.images([encoded(scenes.draw_scene(s, sample_size(rng)), 85) for s in by_key.values()])
    similar = others @ others.T
    np.fill_diagonal(similar, -1)
    nearest = similar.max(axis=1)
    return [
        Copies(t, {name: float(np.mean(v >= t)) for name, v in alike.items()}, float(np.mean(nearest >= t)))
        for t in THRESHOLDS
    ]


@dataclass(frozen=True)
class Concept:
    """Figures of how well prompts detect a concept in pictures.

    The score is the first prompt's share of the softmax over the prompts, as in zero-shot classification.

    Attributes:
        auc: ROC AUC of the score.
        found: Share of the pictures with the concept whose score is above the threshold.
        mistaken: Share of plain pictures whose score is above the threshold.
    """

    auc: float
    found: float
    mistaken: float


def measure_concepts(pocket: Pocket, n: int, seed: int) -> dict[str, Concept]:
    """Return the figures of each concept for n plain pictures, the same with a watermark, and n of only text."""
    rng = random.Random(seed)
    plain = [scenes.draw_scene(scenes.sample_scene(rng), sample_size(rng)) for _ in range(n)]
    without = pocket.images([encoded(image, rng.randint(60, 95)) for image in plain])
    having = {
        "watermark": [scenes.with_watermark(image, rng) for image in plain],
        "only_text": [scenes.draw_text_image(captions.sample_text(rng), sample_size(rng), rng) for _ in range(n)],
    }
    measured = {}
    for name, prompts in CONCEPTS.items():
        directions = pocket.texts(prompts)
        embedded = pocket.images([encoded(image, rng.randint(60, 95)) for image in having[name]])
        yes, no = pocket.first_share(embedded, directions), pocket.first_share(without, directions)
        found, mistaken = (float(np.mean(share > CONCEPT_THRESHOLD)) for share in (yes, no))
        measured[name] = Concept(auc(yes, no), found, mistaken)
    return measured


def auc(positives: Vectors, negatives: Vectors) -> float:
    """Return the probability that a positive is above a negative; ties count half."""
    below = np.searchsorted(np.sort(negatives), positives, "left")
    not_above = np.searchsorted(np.sort(negatives), positives, "right")
    return float(np.mean(below + not_above) / 2 / len(negatives))


def sample_size(rng: random.Random) -> tuple[int, int]:
    """Return a width and a height as on the demo's web: mostly small, up to 1,200 pixels."""
    long = 91 * (1200 / 91) ** (rng.random() ** 2)
    short = max(68, round(long * rng.uniform(0.75, 1)))
    long = max(short, round(long))
    return (long, short) if rng.random() < 0.6 else (short, long)


def encoded(image: Image.Image, quality: int) -> Image.Image:
    """Return the picture after a JPEG round trip."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def _resized(image: Image.Image, rng: random.Random) -> Image.Image:
    factor = rng.uniform(0.5, 0.8) if min(image.size) >= 128 else rng.uniform(1.3, 1.8)
    size = (round(image.width * factor), round(image.height * factor))
    return encoded(image.resize(size, Image.Resampling.LANCZOS), 85)


def _cropped(image: Image.Image, rng: random.Random) -> Image.Image:
    width, height = round(image.width * 0.95), round(image.height * 0.95)
    left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
    return encoded(image.crop((left, top, left + width, top + height)), 85)


def _brightened(image: Image.Image, rng: random.Random) -> Image.Image:
    return encoded(ImageEnhance.Brightness(image).enhance(rng.uniform(1.12, 1.25)), 85)


CHANGES: dict[str, Callable[[Image.Image, random.Random], Image.Image]] = {
    "reencoded": lambda image, rng: encoded(image, rng.randint(35, 95)),
    "resized": _resized,
    "cropped": _cropped,
    "brightened": _brightened,
}


def figures(pocket: Pocket, seed: int = HELD_OUT_SEED) -> str:
    """Measure everything and return the figures as JSON."""
    measured = {
        "captions": asdict(measure_captions(pocket, 5_000, seed)),
        "concepts": {name: asdict(v) for name, v in measure_concepts(pocket, 1_000, seed + 1).items()},
        "copies": [asdict(c) for c in measure_copies(pocket, 1_000, 3_000, seed + 2)],
    }
    return json.dumps(measured, indent=1)


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=POCKET / "weights.safetensors")
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEED)
    options = parser.parse_args()
    print(figures(Pocket(POCKET / "config.json", options.weights), options.seed))


if __name__ == "__main__":
    main()
