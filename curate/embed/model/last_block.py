"""The last block of a transformer, computed for the one place of each row that is read.

A tower that is read at one place (the class token of an image, the end token of a caption) throws away what its last
block says of all other places. Of that block only keys and values need every place; queries, the output projection,
and the feed-forward layers, five sixths of its arithmetic, need one. The embedding is the same but for rounding.
"""

from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock, Transformer
from torch import Tensor, nn


def can_be_read_at(transformer: Any) -> bool:
    """Whether a transformer's blocks are of the one kind that `read_at` knows: open_clip's default block.

    The exact types: a subclass, or a block of the same name with parts put in, may do otherwise in its forward pass.
    """
    return (
        type(transformer) is Transformer
        and transformer.batch_first
        and all(type(block) is ResidualAttentionBlock for block in transformer.resblocks)
        and type(transformer.resblocks[-1].attn) is nn.MultiheadAttention
    )


def read_at(transformer: Any, x: Tensor, places: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """What the transformer gives at one place of each row.

    Args:
        transformer: one that `can_be_read_at`.
        x: float[n, length, width].
        places: int64[n], which place of each row.
        attn_mask: float[length, length], added to the attention; -inf where a place must not be looked at.

    Returns:
        float[n, width].
    """
    *blocks, last = transformer.resblocks
    for block in blocks:
        x = block(x, attn_mask=attn_mask)
    rows = torch.arange(len(x), device=x.device)
    normed = last.ln_1(x)
    mask = None
    if attn_mask is not None:
        # By row and head, for the one place that asks.
        mask = attn_mask[places].to(x.dtype).repeat_interleave(last.attn.num_heads, dim=0).unsqueeze(1)
    asking = normed[rows, places].unsqueeze(1)
    heard = last.attn(asking, normed, normed, need_weights=False, attn_mask=mask)[0].squeeze(1)
    read = x[rows, places] + last.ls_1(heard)
    found: Tensor = read + last.ls_2(last.mlp(last.ln_2(read)))
    return found
