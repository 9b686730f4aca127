"""Images to embeddings, without work on what is not read.

A vision transformer that is read at its class token needs its last block for that token alone (`last_block.py`).
Whether a tower is of that kind is read from its attributes; every other one (those that average or attend over all
places, convolutional ones, those of timm) does its forward pass as it is.
"""

from dataclasses import dataclass
from typing import Any

import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor

from curate.embed.model.last_block import can_be_read_at, read_at


@dataclass(frozen=True)
class ClassTokenTower:
    """A vision tower that is read at its class token."""

    visual: Any

    @classmethod
    def of(cls, visual: Any) -> "ClassTokenTower | None":
        """The tower, or None where all places are read, or in a way that is not known."""
        # The exact type: a subclass may do otherwise in its forward pass.
        if type(visual) is not VisionTransformer or not can_be_read_at(visual.transformer):
            return None
        reads_class_token = visual.attn_pool is None and visual.pool_type == "tok"
        return cls(visual) if reads_class_token and not visual.output_tokens else None

    def encode(self, images: Tensor) -> Tensor:
        """Embeddings of float[n, 3, height, width]: open_clip's `VisionTransformer.forward`, part by part."""
        visual = self.visual
        embedded = visual._embeds(images)
        places = torch.zeros(len(embedded), dtype=torch.int64, device=embedded.device)
        # The layer norm works on each place by itself: before or after the pooling it gives the same.
        read: Tensor = visual.ln_post(read_at(visual.transformer, embedded, places))
        return read if visual.proj is None else read @ visual.proj
