"""Draw the pairs that the pocket CLIP model is trained on.

Pictures are drawn in twos that are next to each other in a batch. Most second pictures are twins of the first, with one
number, colour or shape changed, or without its watermark: they are hard negatives.
"""

import hashlib
import os
import random
import time
from dataclasses import replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
from eval_pocket import POCKET, encoded
from PIL import Image

from curate.demo import captions, scenes
from curate.demo.scenes import Scene

CAPTIONS_PER_IMAGE = 4
CHUNK = 500
"""Pictures per job of the drawing processes."""


def register() -> str:
    """Register the pocket model's config in open_clip and return its name there."""
    open_clip.add_model_config(POCKET / "config.json")
    return "config"


@cache
def tokenizer() -> Any:
    """Return the standard CLIP tokenizer with the pocket model's context length."""
    return open_clip.get_tokenizer(register())


def twin(scene: Scene, rng: random.Random) -> Scene:
    """Return the scene with one group changed in number, colour or shape."""
    at = rng.randrange(len(scene.groups))
    group = scene.groups[at]
    change = rng.choices(("count", "colour", "shape"), (60, 28, 12))[0]
    if change == "count" and group.count > 1:
        changed = replace(group, places=tuple(rng.sample(group.places, rng.randint(1, group.count - 1))))
    elif change == "shape" or scene.grey:
        taken = {g.shape for g in scene.groups}
        changed = replace(group, shape=rng.choice([s for s in scenes.SHAPES if s not in taken]))
    else:
        colour, rgb = scenes.sample_colour(scene.background, rng, other_than=group.colour)
        changed = replace(group, colour=colour, rgb=rgb)
    return replace(scene, groups=(*scene.groups[:at], changed, *scene.groups[at + 1 :]))


def telling_captions(scene: Scene, other: Scene, rng: random.Random) -> list[str]:
    """Return captions that are true of the scene and, nearly always, false of the other."""
    texts = []
    for _ in range(CAPTIONS_PER_IMAGE):
        for _ in range(12):
            facts = captions.facts_of(scene, rng)
            if not captions.is_true_of(facts, other):
                break
        texts.append(captions.say(facts, rng))
    return texts


def sample_size(rng: random.Random) -> tuple[int, int]:
    """Return a width and a height between 3:4 and 4:3. Small, as a larger picture looks the same once it is reduced."""
    short = rng.choice((64, 64, 64, 64, 72, 96, 128, 192))
    long = round(short * rng.choice((1, 1, 1.2, 4 / 3)))
    return (short, long) if rng.random() < 0.4 else (long, short)


def as_seen(image: Image.Image, rng: random.Random, side: int) -> npt.NDArray[np.uint8]:
    """Return the picture, half of the time JPEG-compressed, after open_clip's resize and crop: uint8[side, side, 3]."""
    if rng.random() < 0.5:
        image = encoded(image, rng.randint(40, 95))
    scale = side / min(image.size)
    image = image.resize(
        (max(side, round(image.width * scale)), max(side, round(image.height * scale))), Image.Resampling.BICUBIC
    )
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(image.crop((left, top, left + side, top + side)))


def sample_two(rng: random.Random) -> list[tuple[Image.Image, list[str]]]:
    """Draw two pictures that are next to each other in a batch, with their captions."""
    scene = scenes.sample_scene(rng)
    kind = rng.random()
    n = CAPTIONS_PER_IMAGE
    if kind < 0.12:
        facts = [captions.facts_of(scene, rng) for _ in range(n)]
        true_captions = [captions.say(replace(f, watermark=True), rng) for f in facts]
        true_captions[0] = captions.watermark_caption(rng)
        plain = [captions.plain_caption(rng), *(captions.say(f, rng) for f in facts[1:])]
        image = scenes.draw_scene(scene, sample_size(rng))
        return [(scenes.with_watermark(image, rng), true_captions), (scenes.draw_scene(scene, sample_size(rng)), plain)]
    if kind < 0.16:
        text = captions.sample_text(rng)
        image = scenes.draw_text_image(text, sample_size(rng), rng)
        true_captions = [captions.text_caption(text, rng) for _ in range(n)]
        plain = [captions.plain_caption(rng), *(captions.caption(scene, rng) for _ in range(n - 1))]
        return [(image, true_captions), (scenes.draw_scene(scene, sample_size(rng)), plain)]
    other = scenes.sample_scene(rng) if kind < 0.3 else twin(scene, rng)
    return [
        (scenes.draw_scene(a, sample_size(rng)), telling_captions(a, b, rng))
        for a, b in ((scene, other), (other, scene))
    ]


def _draw_chunk(job: tuple[int, int, int]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint16]]:
    seed, chunk, side = job
    rng = random.Random(seed * 1_000_003 + chunk)
    tokenize = tokenizer()
    images, texts = [], []
    for _ in range(CHUNK // 2):
        for image, of_picture in sample_two(rng):
            images.append(as_seen(image, rng, side))
            texts += of_picture
    tokens = tokenize(texts).numpy().astype(np.uint16)
    return np.stack(images), tokens.reshape(CHUNK, CAPTIONS_PER_IMAGE, -1)


def draw_cache(
    folder: Path, seed: int, n_images: int, side: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint16]]:
    """Draw training pairs, or open those that an earlier call has drawn."""
    folder.mkdir(parents=True, exist_ok=True)
    # The pictures depend on this code, too: a cache that other code has drawn must not be used.
    sources = b"".join(Path(str(module.__file__)).read_bytes() for module in (scenes, captions))
    digest = hashlib.blake2b(sources + Path(__file__).read_bytes(), digest_size=4).hexdigest()
    paths = [folder / f"{name}-{seed}-{n_images}-{side}-{digest}.npy" for name in ("images", "tokens")]
    if not paths[1].exists():
        started = time.monotonic()
        jobs = [(seed, chunk, side) for chunk in range(n_images // CHUNK)]
        images = np.lib.format.open_memmap(paths[0], "w+", np.uint8, (n_images, side, side, 3))
        tokens = []
        with get_context("spawn").Pool(os.cpu_count()) as pool:
            for i, (drawn, said) in enumerate(pool.imap(_draw_chunk, jobs)):
                images[i * CHUNK : (i + 1) * CHUNK] = drawn
                tokens.append(said)
                if i % 40 == 39:
                    rate = (i + 1) * CHUNK / (time.monotonic() - started)
                    print(f"drawn {(i + 1) * CHUNK}/{n_images}, {rate:.0f}/s", flush=True)
        images.flush()
        # Written last, so that the file of tokens shows that the cache is complete.
        unfinished = paths[1].with_suffix(".part.npy")
        np.save(unfinished, np.concatenate(tokens))
        unfinished.rename(paths[1])
    return np.load(paths[0], mmap_mode="r"), np.load(paths[1])
