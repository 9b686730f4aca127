"""Runs a transformer with its last block computed for one position of each row.

A tower whose output is taken from one position (the class token of an image, the end token of a caption) discards what
its last block computes for all others. In that block, only keys and values are needed for every position; queries, the
output projection and the feed-forward layers, five sixths of its arithmetic, are needed for one. The embedding differs
by rounding only.
"""

from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock, Transformer
from torch import Tensor, nn


def can_be_read_at(transformer: Any) -> bool:
    """Returns whether all blocks of a transformer are open_clip's default block, the one kind that `read_at` supports.

    Types are compared exactly: a subclass, or a default block with other modules inside, may compute something else.
    """
    return (
        type(transformer) is Transformer
        and transformer.batch_first
        and all(type(block) is ResidualAttentionBlock for block in transformer.resblocks)
        and type(transformer.resblocks[-1].attn) is nn.MultiheadAttention
    )


def read_at(transformer: Any, x: Tensor, places: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """Returns the transformer's output at one position of each row.

    Args:
        transformer: a transformer for which `can_be_read_at` is true.
        x: float[n, length, width].
        places: int64[n], the position in each row.
        attn_mask: float[length, length], added to the attention weights; -inf where a position is masked.

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
        # float[n × heads, 1, length]: the mask of each row's one query, repeated for the heads.
        mask = attn_mask[places].to(x.dtype).repeat_interleave(last.attn.num_heads, dim=0).unsqueeze(1)
    query = normed[rows, places].unsqueeze(1)
    attended = last.attn(query, normed, normed, need_weights=False, attn_mask=mask)[0].squeeze(1)
    read = x[rows, places] + last.ls_1(attended)
    output: Tensor = read + last.ls_2(last.mlp(last.ln_2(read)))
    return output
