"""Train the pocket CLIP model from drawn scenes, with open_clip's own contrastive loss.

    python pipelines/train_pocket.py                  # about an hour on two cores; goes on where it was stopped
    python pipelines/train_pocket.py --eval-only      # measure the weights in curate/models/pocket

1. The pictures and captions are drawn once into a cache, by all cores; training then reads it.
2. Most pictures stand beside a twin, which differs in one colour, number or shape: a batch so holds the
   negatives that are hard to tell.
3. The weights are written as float16 safetensors, which open_clip loads by itself, and are measured by
   eval_pocket.py on scenes from another seed.
"""

import argparse
import math
import os
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import eval_pocket
import numpy as np
import numpy.typing as npt
import open_clip
import torch
from eval_pocket import POCKET, encoded
from open_clip.loss import ClipLoss
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from curate.demo import captions, scenes
from curate.demo.scenes import Scene

SEED = 7
CAPTIONS_PER_IMAGE = 4
CHUNK = 500


# 1. Data ----------------------------------------------------------------------------------------------------


def twin(scene: Scene, rng: random.Random) -> Scene:
    """Return the scene with one group changed in number, colour or shape."""
    at = rng.randrange(len(scene.groups))
    group = scene.groups[at]
    change = rng.choices(("count", "colour", "shape"), (45, 40, 15))[0]
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
    """Return a width and a height between 3:4 and 4:3. Small, as what is larger looks the same once reduced."""
    short = rng.choice((64, 64, 64, 72, 96, 128, 192, 256))
    long = round(short * rng.choice((1, 1, 1.2, 4 / 3)))
    return (short, long) if rng.random() < 0.4 else (long, short)


def as_seen(image: Image.Image, rng: random.Random, side: int) -> npt.NDArray[np.uint8]:
    """Return the picture as it comes from the web and through open_clip's preprocessing, before normalising."""
    if rng.random() < 0.5:
        image = encoded(image, rng.randint(40, 95))
    scale = side / min(image.size)
    image = image.resize(
        (max(side, round(image.width * scale)), max(side, round(image.height * scale))), Image.Resampling.BICUBIC
    )
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(image.crop((left, top, left + side, top + side)))


def sample_two(rng: random.Random) -> list[tuple[Image.Image, list[str]]]:
    """Draw two pictures that belong beside each other in a batch, with their captions."""
    scene = scenes.sample_scene(rng)
    kind = rng.random()
    n = CAPTIONS_PER_IMAGE
    if kind < 0.06:
        marked = replace(scene, watermark=rng.choice(scenes.WATERMARKS))
        said = [captions.watermark_caption(rng) for _ in range(n // 2)]
        said += [captions.caption(marked, rng) for _ in range(n - len(said))]
        plain = [captions.plain_caption(rng), *(captions.caption(scene, rng) for _ in range(n - 1))]
        image = scenes.draw_scene(scene, sample_size(rng))
        return [(scenes.with_watermark(image, rng), said), (scenes.draw_scene(scene, sample_size(rng)), plain)]
    if kind < 0.10:
        text = captions.sample_text(rng)
        image = scenes.draw_text_image(text, sample_size(rng), rng)
        said = [captions.text_caption(text, rng) for _ in range(n)]
        plain = [captions.plain_caption(rng), *(captions.caption(scene, rng) for _ in range(n - 1))]
        return [(image, said), (scenes.draw_scene(scene, sample_size(rng)), plain)]
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
        for image, said in sample_two(rng):
            images.append(as_seen(image, rng, side))
            texts += said
    tokens = tokenize(texts).numpy().astype(np.uint16)
    return np.stack(images), tokens.reshape(CHUNK, CAPTIONS_PER_IMAGE, -1)


def draw_cache(folder: Path, n_images: int, side: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint16]]:
    """Draw the training pairs, or open those that an earlier start has drawn."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}-{SEED}-{n_images}-{side}.npy" for name in ("images", "tokens")]
    if not paths[1].exists():
        started = time.monotonic()
        jobs = [(SEED, chunk, side) for chunk in range(n_images // CHUNK)]
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
        # Written last: the tokens say that the cache is complete.
        unfinished = paths[1].with_suffix(".part.npy")
        np.save(unfinished, np.concatenate(tokens))
        unfinished.rename(paths[1])
    return np.load(paths[0], mmap_mode="r"), np.load(paths[1])


# 2. Training ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """How the training goes. A change of any of these starts it anew."""

    n_images: int = 96_000
    batch: int = 256
    steps: int = 2_200
    rate: float = 1.5e-3
    token_rate: float = 1.5e-3
    warmup: int = 150
    decay: float = 0.1
    views: float = 0.25
    """Share of a batch whose pictures are also compared with a second look at themselves."""


def register() -> str:
    """Make the pocket's config known to open_clip and return its name there."""
    open_clip.add_model_config(POCKET / "config.json")
    return "config"


@cache
def tokenizer() -> Any:
    """Return the standard tokenizer, with the pocket's context length."""
    return open_clip.get_tokenizer(register())


def augmented(images: Tensor, n_unchanged: int, generator: torch.Generator) -> Tensor:
    """Return the pictures, all but the first few cropped, moved and lit a little, normalised as open_clip does."""
    n = len(images)
    changed = (torch.arange(n) >= n_unchanged).float()
    zoom = 1 + changed * (torch.rand(n, generator=generator) * 0.13 - 0.11)
    shift = changed[:, None] * (torch.rand(n, 2, generator=generator) - 0.5) * 0.1
    light = 1 + changed * (torch.rand(n, generator=generator) * 0.4 - 0.15)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = zoom
    theta[:, :, 2] = shift
    grid = functional.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
    seen = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return normalised((seen * light.view(n, 1, 1, 1).to(images.device)).clamp(0, 1))


def normalised(images: Tensor) -> Tensor:
    """Return pictures of 0 to 1 with open_clip's mean and deviation."""
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(open_clip.OPENAI_DATASET_STD, device=images.device).view(1, 3, 1, 1)
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


def embed_text(model: Any, tokens: Tensor) -> Tensor:
    """Return what `model.encode_text(tokens, normalize=True)` does, cut to the batch's longest caption.

    The text tower is causal and read at the end token, so what follows cannot matter.
    """
    n = int((tokens != 0).sum(dim=1).max())
    tokens = tokens[:, :n]
    x = model.token_embedding(tokens) + model.positional_embedding[:n]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:n, :n]))
    x = x[torch.arange(len(x)), tokens.argmax(dim=1)] @ model.text_projection
    return functional.normalize(x, dim=-1)


class Training:
    """A model, its optimisers and where they stand."""

    def __init__(self, plan: Plan, device: torch.device) -> None:
        torch.manual_seed(SEED)
        self.plan = plan
        self.device = device
        self.model = open_clip.create_model(register()).to(device, memory_format=torch.channels_last)
        self.model.token_embedding.sparse = True
        table = self.model.token_embedding.weight
        rest = [p for p in self.model.parameters() if p is not table]
        self.rest = rest
        groups = [
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": plan.decay},
            {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
        ]
        # A batch has a hundred of the table's 49,408 rows: only those are touched.
        self.optimisers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=plan.rate, betas=(0.9, 0.98), eps=1e-6),
            torch.optim.SparseAdam([table], lr=plan.token_rate, betas=(0.9, 0.98)),
        ]
        self.loss = ClipLoss()
        self.step = 0
        self.seconds = 0.0

    def rate_now(self) -> float:
        """Return the share of the full learning rate: a linear start, then half a cosine."""
        if self.step < self.plan.warmup:
            return (self.step + 1) / self.plan.warmup
        done = (self.step - self.plan.warmup) / max(1, self.plan.steps - self.plan.warmup)
        return 0.5 * (1 + math.cos(math.pi * done))

    def advance(self, images: Tensor, tokens: Tensor) -> float:
        """Take one step and return the loss."""
        share = self.rate_now()
        for optimiser, full in zip(self.optimisers, (self.plan.rate, self.plan.token_rate), strict=True):
            for group in optimiser.param_groups:
                group["lr"] = full * share
            optimiser.zero_grad()
        generator = torch.Generator().manual_seed(SEED * 1_000_003 + self.step)
        images = images.to(self.device).permute(0, 3, 1, 2).float() / 255
        n_views = round(len(images) * self.plan.views)
        looks = augmented(torch.cat([images, images[:n_views]]), len(images) // 2, generator)
        seen = self.model.encode_image(looks, normalize=True)
        said = embed_text(self.model, tokens.to(self.device).long())
        scale = self.model.logit_scale.exp()
        loss = self.loss(seen[: len(images)], said, scale)
        if n_views:
            loss = loss + 0.25 * self.loss(seen[:n_views], seen[len(images) :], scale)
        loss.backward()
        nn.utils.clip_grad_norm_(self.rest, 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, math.log(100))
        self.step += 1
        return float(loss.detach())

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        state = {
            "plan": asdict(self.plan),
            "step": self.step,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "optimisers": [o.state_dict() for o in self.optimisers],
        }
        unfinished = path.with_suffix(".part")
        torch.save(state, unfinished)
        unfinished.rename(path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint of the same plan."""
        state = torch.load(path, map_location=self.device)
        if state["plan"] != asdict(self.plan):
            raise SystemExit(f"{path} is of another plan ({state['plan']}): remove it to start anew")
        self.step, self.seconds = state["step"], state["seconds"]
        self.model.load_state_dict(state["model"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)


def batches(plan: Plan, start: int) -> Iterator[tuple[npt.NDArray[np.intp], int]]:
    """Yield, from step `start` on, each step's images and which of their captions it uses; twins stay together."""
    per_epoch = plan.n_images // plan.batch
    for step in range(start, plan.steps):
        epoch, at = divmod(step, per_epoch)
        order = np.random.default_rng((SEED, epoch)).permutation(plan.n_images // 2)
        firsts = np.sort(order[at * plan.batch // 2 : (at + 1) * plan.batch // 2]) * 2
        yield np.stack([firsts, firsts + 1], axis=1).ravel(), step


def image_side(model: Any) -> int:
    """Return the side of the pictures that the model takes."""
    size = model.visual.image_size
    return int(size if isinstance(size, int) else size[0])


def train(plan: Plan, work: Path, *, go_on: bool = True) -> Training:
    """Train, going on from the checkpoint if there is one; without `go_on` only load that."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    training = Training(plan, device)
    checkpoint = work / "checkpoint.pt"
    if checkpoint.exists() or not go_on:
        training.load(checkpoint)
        print(f"stands at step {training.step} after {training.seconds / 60:.0f} min", flush=True)
    if not go_on:
        return training
    images, tokens = draw_cache(work, plan.n_images, image_side(training.model))
    training.model.train()
    saved = reported = time.monotonic()
    losses: list[float] = []
    for rows, step in batches(plan, training.step):
        pick = np.random.default_rng((SEED, 1, step)).integers(0, CAPTIONS_PER_IMAGE, len(rows))
        losses.append(
            training.advance(torch.from_numpy(images[rows]), torch.from_numpy(tokens[rows, pick].astype(np.int32)))
        )
        now = time.monotonic()
        if now - reported > 20 or training.step == plan.steps:
            training.seconds += now - reported
            rate = len(losses) / (now - reported)
            left = (plan.steps - training.step) / rate / 60
            print(
                f"step {training.step}/{plan.steps}, loss {np.mean(losses):.3f}, {rate * plan.batch:.0f} pairs/s, "
                f"{left:.0f} min left",
                flush=True,
            )
            reported, losses = now, []
        if now - saved > 180 or training.step == plan.steps:
            training.save(checkpoint)
            saved = now
    return training


# 3. Weights -------------------------------------------------------------------------------------------------


def export(model: nn.Module, tokens: npt.NDArray[np.uint16], path: Path) -> None:
    """Write the weights for open_clip.

    Matrices are halved to float16. The rows of tokens that training never met hold chance alone: they become
    zero, so that an unknown word changes a caption's embedding as little as possible.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    unmet = torch.ones(len(state["token_embedding.weight"]), dtype=torch.bool)
    unmet[torch.from_numpy(np.unique(tokens).astype(np.int64))] = False
    state["token_embedding.weight"] = state["token_embedding.weight"].masked_fill(unmet[:, None], 0)
    halved = {name: value.half() if value.ndim > 1 else value for name, value in state.items()}
    save_file(halved, path, metadata={"format": "pt"})
    # safetensors makes the file readable to its owner alone, and so it would be installed.
    path.chmod(0o644)


def main() -> None:
    """Read the command line; train and measure, or only measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/pocket"), help="folder of cache and checkpoint")
    parser.add_argument("--to", type=Path, default=POCKET / "weights.safetensors", help="where the weights go")
    parser.add_argument("--export-only", action="store_true", help="write the weights of the last checkpoint")
    parser.add_argument("--eval-only", action="store_true", help="measure the weights that are there")
    options = parser.parse_args()
    if not options.eval_only:
        plan = Plan()
        training = train(plan, options.work, go_on=not options.export_only)
        _, tokens = draw_cache(options.work, plan.n_images, image_side(training.model))
        export(training.model, tokens, options.to)
    if not options.export_only:
        print(eval_pocket.figures(eval_pocket.Pocket(POCKET / "config.json", options.to)))


if __name__ == "__main__":
    main()
