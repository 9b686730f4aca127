"""Train the pocket CLIP model from drawn scenes, with open_clip's own contrastive loss.

    python pipelines/train_pocket.py                  # about an hour on two cores; continues where it was stopped
    python pipelines/train_pocket.py --eval-only      # measure the weights in curate/models/pocket

1. pocket_pairs.py draws pictures and captions into a cache, with all cores; training reads them there.
2. The loss compares each picture with the batch's captions, and some pictures with an augmented copy of themselves, so
   that the embedding of a cropped or brightened copy stays near.
3. The weights are written as float16 safetensors, which open_clip loads by itself, and eval_pocket.py measures
   them on scenes of another seed.
"""

import argparse
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import eval_pocket
import numpy as np
import numpy.typing as npt
import open_clip
import torch
from eval_pocket import POCKET
from open_clip.loss import ClipLoss
from pocket_pairs import CAPTIONS_PER_IMAGE, draw_cache, register
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

SEED = 7


@dataclass(frozen=True)
class Plan:
    """The settings of the training. With other settings, training starts from the beginning."""

    n_images: int = 96_000
    """Pictures in a cache."""
    caches: int = 2
    epochs_per_cache: int = 3
    batch: int = 256
    rate: float = 1.5e-3
    token_rate: float = 1.5e-3
    warmup: int = 150
    decay: float = 0.1
    views: float = 0.25
    """Share of a batch whose pictures are also compared with an augmented copy of themselves."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every picture of a cache is used once."""
        return self.n_images // self.batch

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.steps_per_epoch * self.epochs_per_cache * self.caches


def augmented(images: Tensor, n_unchanged: int, generator: torch.Generator) -> Tensor:
    """Return the pictures normalised as in open_clip, all but the first few slightly cropped, moved and brightened."""
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
    """Return pictures with values of 0 to 1, normalised with open_clip's mean and standard deviation."""
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(open_clip.OPENAI_DATASET_STD, device=images.device).view(1, 3, 1, 1)
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


def embed_text(model: Any, tokens: Tensor) -> Tensor:
    """Return the result of `model.encode_text(tokens, normalize=True)`, with tokens cut to the batch's longest caption.

    The text tower is causal and its output is taken at the end token, so later tokens do not change the result.
    """
    n = int((tokens != 0).sum(dim=1).max())
    tokens = tokens[:, :n]
    x = model.token_embedding(tokens) + model.positional_embedding[:n]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:n, :n]))
    x = x[torch.arange(len(x)), tokens.argmax(dim=1)] @ model.text_projection
    return functional.normalize(x, dim=-1)


class Training:
    """A model, its optimisers and the state of the training."""

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
        # A batch uses about a hundred of the token table's 49,408 rows; sparse gradients update only those.
        self.optimisers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=plan.rate, betas=(0.9, 0.98), eps=1e-6),
            torch.optim.SparseAdam([table], lr=plan.token_rate, betas=(0.9, 0.98)),
        ]
        self.loss = ClipLoss()
        self.step = 0
        self.seconds = 0.0

    def rate_now(self) -> float:
        """Return the current share of the full learning rate: a linear warm-up, then half a cosine."""
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
        text = embed_text(self.model, tokens.to(self.device).long())
        scale = self.model.logit_scale.exp()
        loss = self.loss(seen[: len(images)], text, scale)
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
        """Write a checkpoint atomically."""
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
        """Continue from a checkpoint with the same settings."""
        state = torch.load(path, map_location=self.device)
        if state["plan"] != asdict(self.plan):
            raise SystemExit(f"{path} has other settings ({state['plan']}): remove it to start from the beginning")
        self.step, self.seconds = state["step"], state["seconds"]
        self.model.load_state_dict(state["model"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)


def rows_of(plan: Plan, step: int) -> npt.NDArray[np.intp]:
    """Return the rows of the cache that a step uses; twins stay next to each other."""
    epoch, at = divmod(step, plan.steps_per_epoch)
    order = np.random.default_rng((SEED, epoch)).permutation(plan.n_images // 2)
    firsts = np.sort(order[at * plan.batch // 2 : (at + 1) * plan.batch // 2]) * 2
    return np.stack([firsts, firsts + 1], axis=1).ravel()


def image_side(model: Any) -> int:
    """Return the side of the model's square input, in pixels."""
    size = model.visual.image_size
    return int(size if isinstance(size, int) else size[0])


def train(plan: Plan, work: Path, *, go_on: bool = True) -> Training:
    """Train, continuing from the checkpoint if there is one; without `go_on`, only load the checkpoint."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    training = Training(plan, device)
    checkpoint = work / "checkpoint.pt"
    if checkpoint.exists() or not go_on:
        training.load(checkpoint)
        print(f"continuing at step {training.step}, after {training.seconds / 60:.0f} min", flush=True)
    if not go_on:
        return training
    training.model.train()
    saved = reported = time.monotonic()
    losses: list[float] = []
    at, images, tokens = None, np.empty(0, np.uint8), np.empty(0, np.uint16)
    while (step := training.step) < plan.steps:
        cache = step // (plan.steps_per_epoch * plan.epochs_per_cache)
        if cache != at:
            at = cache
            images, tokens = draw_cache(work, SEED + cache, plan.n_images, image_side(training.model))
        rows = rows_of(plan, step)
        pick = np.random.default_rng((SEED, 1, step)).integers(0, CAPTIONS_PER_IMAGE, len(rows))
        chosen = tokens[rows, pick].astype(np.int32)
        losses.append(training.advance(torch.from_numpy(images[rows]), torch.from_numpy(chosen)))
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


def export(model: nn.Module, tokens: npt.NDArray[np.uint16], path: Path) -> None:
    """Write the weights for open_clip.

    Matrices are stored as float16. Rows of tokens that training did not use still have random values: they are set to
    zero, so that an unknown word changes a caption's embedding as little as possible.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    unmet = torch.ones(len(state["token_embedding.weight"]), dtype=torch.bool)
    unmet[torch.from_numpy(np.unique(tokens).astype(np.int64))] = False
    state["token_embedding.weight"] = state["token_embedding.weight"].masked_fill(unmet[:, None], 0)
    halved = {name: value.half() if value.ndim > 1 else value for name, value in state.items()}
    save_file(halved, path, metadata={"format": "pt"})
    # safetensors writes a file that only its owner can read, and it would be installed with this mode.
    path.chmod(0o644)


def main() -> None:
    """Read the command line; train and measure, or only measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/pocket"), help="folder of cache and checkpoint")
    parser.add_argument("--to", type=Path, default=POCKET / "weights.safetensors", help="where the weights go")
    parser.add_argument("--export-only", action="store_true", help="only write the weights of the last checkpoint")
    parser.add_argument("--eval-only", action="store_true", help="only measure the existing weights")
    options = parser.parse_args()
    if not options.eval_only:
        plan = Plan()
        training = train(plan, options.work, go_on=not options.export_only)
        side = image_side(training.model)
        caches = [draw_cache(options.work, SEED + i, plan.n_images, side) for i in range(plan.caches)]
        export(training.model, np.concatenate([np.unique(tokens) for _, tokens in caches]), options.to)
    if not options.export_only:
        print(eval_pocket.figures(eval_pocket.Pocket(POCKET / "config.json", options.to)))


if __name__ == "__main__":
    main()
