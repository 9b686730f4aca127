"""Tiny models of several families with random weights, and parts made of drawn pictures."""

import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from curate import schema
from curate.embed.worker import open_worker
from curate.store import Folder, Inputs, Store

TEXT = {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VISION = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 64, "patch_size": None}

FAMILIES: dict[str, dict[str, Any]] = {
    "vit": {"embed_dim": 32, "vision_cfg": VISION, "text_cfg": TEXT},
    "resnet": {"embed_dim": 32, "vision_cfg": RESNET, "text_cfg": TEXT},
    "custom_text": {"embed_dim": 32, "vision_cfg": VISION, "text_cfg": TEXT, "custom_text": True},
    "eos": {
        "embed_dim": 32,
        "vision_cfg": VISION,
        "text_cfg": {**TEXT, "pool_type": "eos", "eos_id": 49407, "proj_bias": True},
        "custom_text": True,
        "quick_gelu": True,
    },
    # Scaled layers, a norm behind the pooling.
    "scaled": {
        "embed_dim": 32,
        "vision_cfg": {**VISION, "ls_init_value": 0.5, "final_ln_after_pool": True},
        "text_cfg": {**TEXT, "ls_init_value": 0.5},
    },
    # Read everywhere: the mean of all places.
    "averaged": {"embed_dim": 32, "vision_cfg": {**VISION, "pool_type": "avg"}, "text_cfg": TEXT},
    # Blocks of another kind.
    "normed": {
        "embed_dim": 32,
        "vision_cfg": {**VISION, "qk_norm": True},
        "text_cfg": {**TEXT, "qk_norm": True},
        "custom_text": True,
    },
    # As open_clip's SigLIP models are, but for their tokenizer.
    "sigmoid": {
        "embed_dim": 64,
        "vision_cfg": {"timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none", "image_size": 160},
        "text_cfg": {**TEXT, "no_causal_mask": True, "pool_type": "last", "proj_bias": True},
        "custom_text": True,
        "init_logit_bias": -10.0,
    },
    "coca": {
        "embed_dim": 32,
        "vision_cfg": {**VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
        "custom_text": True,
    },
}
CAUSAL = ("vit", "resnet", "custom_text", "eos", "scaled", "averaged", "normed")
"""Families whose captions may be cut."""

AT_THE_END = ("vit", "resnet", "custom_text", "eos", "scaled", "averaged")
"""Families whose last text block is needed for the end token alone."""

AT_THE_CLASS = ("vit", "custom_text", "eos", "scaled")
"""Families whose last vision block is needed for the class token alone."""


@dataclass(frozen=True)
class Tiny:
    """A model on disk, and open_clip's own instance of it."""

    config: str
    weights: str
    clip: Any
    preprocess: Callable[..., torch.Tensor]
    tokenize: Callable[[list[str]], torch.Tensor]

    @property
    def settings(self):
        return {
            "name": self.config,
            "pretrained": self.weights,
            "precision": "fp32",
            "batch_size": 4,
            "threads": 1,
        }

    def embed_image(self, image):
        """Open_clip's own way, one image at a time."""
        with torch.inference_mode():
            return self.clip.encode_image(self.preprocess(image)[None], normalize=True)[0].numpy()

    def embed_text(self, text):
        with torch.inference_mode():
            return self.clip.encode_text(self.tokenize([text]), normalize=True)[0].numpy()


def worker_of(device="cpu", decode="exact", mirror=False, **models):
    """An embed worker with these tiny models, by short name."""
    settings = {name: {**model.settings, "mirror": mirror} for name, model in models.items()}
    return open_worker({"models": settings, "device": device, "decode": decode, "endpoint": None})


def draw(seed: int, size: tuple[int, int] = (90, 60)) -> Image.Image:
    """A smooth coloured picture with a sharp patch."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    coarse.paste(Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8)), (7, 9))
    return coarse


def encode(image: Image.Image, kind: str = "PNG") -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind)
    return sink.getvalue()


class Part:
    """A part's committed plan and fetch, made of (picture bytes or None, captions)."""

    def __init__(self, root, rows, part=3):
        store = Store(str(root))
        self.part = part
        self.folders = {"plan": Folder(store, "plan", "x"), "fetch": Folder(store, "fetch", "x")}
        self.inputs = Inputs(self.folders, [part])
        self.store = store
        # Sorted, as plan and fetch leave them.
        named = sorted((schema.image_id(f"http://a/{i}"), f"http://a/{i}", *row) for i, row in enumerate(rows))
        plan = []
        for image_id, url, _, captions in named:
            pairs = sorted((schema.pair_id(url, caption), caption) for caption in captions)
            for i, (pair_id, caption) in enumerate(pairs):
                repeated = i > 0 and pairs[i - 1][0] == pair_id
                plan.append((pair_id, image_id, url, caption, len(plan), repeated))
        columns = zip(*plan, strict=True) if plan else [[] for _ in schema.PLAN]
        table = pa.table(
            [pa.array(column, kind) for column, kind in zip(columns, schema.PLAN.types, strict=True)],
            schema=schema.PLAN,
        )
        output = self.folders["plan"].outputs(part)
        output.put_table("pairs.parquet", table)
        output.commit()
        self.pairs = [row for row in plan if not row[5]]
        self.images = [(image_id, data) for image_id, _, data, _ in named]
        self.commit_fetch(self.images)

    def commit_fetch(self, members, name="fetch"):
        """Commits a tar of these members beside the true table of images."""
        self.folders[name] = Folder(self.store, name, "x")
        table = {
            "image_id": [image_id for image_id, _ in self.images],
            "status": ["failed" if data is None else "success" for _, data in self.images],
            "file": [None if data is None else f"{image_id.hex()}.png" for image_id, data in self.images],
        }
        images = pa.table({**table, **{k: [None] * len(self.images) for k in schema.IMAGES.names[2:-1]}})
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w") as tar:
            for image_id, data in members:
                if data is not None:
                    member = tarfile.TarInfo(f"{image_id.hex()}.png")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        output = self.folders[name].outputs(self.part)
        output.put("images.tar", sink.getvalue())
        output.put_table("images.parquet", images.select(schema.IMAGES.names).cast(schema.IMAGES))
        output.commit()
        return sink.getvalue()

    def embed(self, worker, *names, run="a"):
        """Runs the worker for these outputs; returns their tables by (output, role), and their markers."""
        folders = {name: Folder(self.store, f"{name}-{run}", "x") for name in names}
        outputs = {name: folder.outputs(self.part) for name, folder in folders.items()}
        worker(self.part, self.inputs, outputs)
        for output in outputs.values():
            output.commit()
        self.markers = {name: folder.marker(self.part) for name, folder in folders.items()}
        return {
            (name, role): folder.table(role, self.part)
            for name, folder in folders.items()
            for role in self.markers[name].files
        }
