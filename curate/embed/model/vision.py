"""Embeds images; computes the last block of a vision transformer for the class token alone, where that is enough.

Where a vision transformer's output is taken at its class token, its last block is needed for that token only
(`last_block.py`). The tower's attributes tell whether it is of this kind. Every other tower (those that average or
attend over all positions, convolutional ones, those of timm) runs its own forward pass.
"""

from dataclasses import dataclass
from typing import Any

import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor

from curate.embed.model.last_block import can_be_read_at, read_at


@dataclass(frozen=True)
class ClassTokenTower:
    """A vision tower whose output is taken at its class token."""

    visual: Any

    @classmethod
    def of(cls, visual: Any) -> "ClassTokenTower | None":
        """Returns the tower, or None where its output needs all positions or is taken in an unknown way."""
        # Types are compared exactly: a subclass may compute something else in its forward pass.
        if type(visual) is not VisionTransformer or not can_be_read_at(visual.transformer):
            return None
        reads_class_token = visual.attn_pool is None and visual.pool_type == "tok"
        return cls(visual) if reads_class_token and not visual.output_tokens else None

    def encode(self, images: Tensor) -> Tensor:
        """float[n, 3, height, width] → float[n, dim]: step by step open_clip's `VisionTransformer.forward`."""
        visual = self.visual
        embedded = visual._embeds(images)
        places = torch.zeros(len(embedded), dtype=torch.int64, device=embedded.device)
        # The layer norm treats each position by itself, so the result is the same before and after pooling.
        read: Tensor = visual.ln_post(read_at(visual.transformer, embedded, places))
        return read if visual.proj is None else read @ visual.proj
