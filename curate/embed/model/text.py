"""Embeds captions, without computing on padding.

In a causal text tower whose output is taken at the end token, tokens after the end token do not change the embedding.
So captions are sorted by length, each batch is cut to its longest, and the last block is computed for the end tokens
alone (`last_block.py`). The tower's attributes tell whether it is of this kind. Every other tower gets captions at full
length: SigLIP's output is taken at the last position, CoCa appends a token, and Hugging Face's have masks of their own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transformer import TextTransformer, text_global_pool
from torch import Tensor, nn

from curate import schema
from curate.embed.model.cut import cut
from curate.embed.model.last_block import can_be_read_at, read_at


@dataclass(frozen=True)
class Captions:
    """A part's distinct captions; empty ones are left out.

    Attributes:
        distinct: the captions, each within the bounds of `cut.py`.
        of_pair: int64[pairs], the index of each pair's caption in `distinct`; -1 where the caption is empty.
        tokens: int64[distinct, context] by model, for the models that were loaded when captions were read.
        shortened: the number of pairs whose caption exceeded a bound and was cut.
    """

    distinct: list[str]
    of_pair: npt.NDArray[np.int64]
    tokens: dict[str, Tensor]
    shortened: int = 0

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> "Captions":
        """Returns the captions of the pairs' caption column, not tokenized yet."""
        texts = column.fill_null("")
        held = pc.if_else(schema.has_caption(texts), texts, pa.scalar(None, texts.type))
        encoded = held.combine_chunks().dictionary_encode()
        of_pair = encoded.indices.fill_null(-1).to_numpy().astype(np.int64)
        whole = encoded.dictionary.to_pylist()
        distinct = [cut(text) for text in whole]
        exceeds = [row for row, (text, kept) in enumerate(zip(whole, distinct, strict=True)) if text != kept]
        return cls(distinct, of_pair, {}, int(np.isin(of_pair, exceeds).sum()))


@dataclass(frozen=True)
class CausalTower:
    """A causal text tower whose captions may be cut after the end token.

    Attributes:
        parts: the module with the tower's layers: the CLIP model itself, or its separate text tower.
        pool: how the end token is found: `argmax` (it has the highest id) or `eos` (by its id).
        eos: the end token's id, for `eos`.
    """

    parts: Any
    pool: str
    eos: int

    @classmethod
    def of(cls, clip: Any) -> "CausalTower | None":
        """Returns the tower of a model, or None where its captions must keep their full length."""
        # Types are compared exactly: a subclass may compute something else in its forward pass.
        if type(clip) is CLIP:
            parts, pool, eos = clip, clip.text_pool_type, clip.text_eos_id
        elif type(clip) is CustomTextCLIP and type(clip.text) is TextTransformer:
            parts, pool, eos = clip.text, clip.text.pool_type, clip.text.eos_id
        else:
            return None
        mask = parts.attn_mask
        if mask is None or pool not in ("argmax", "eos"):
            return None
        if getattr(parts, "cls_emb", None) is not None or getattr(parts, "use_pad_mask", False):
            return None
        causal = torch.full_like(mask, float("-inf")).triu_(1)
        return cls(parts, pool, eos) if torch.equal(mask, causal) else None

    def lengths(self, tokens: Tensor) -> Tensor:
        """Returns the number of tokens of each row up to and including its end token. [n, context] → [n]."""
        ends = (tokens == self.eos).int() if self.pool == "eos" else tokens
        return ends.argmax(dim=-1) + 1

    def encode(self, tokens: Tensor) -> Tensor:
        """Returns embeddings, float[n, dim], of rows cut to a common length; the steps are those of `encode_text`."""
        parts = self.parts
        length = tokens.shape[1]
        dtype = parts.transformer.get_cast_dtype()
        embedded = parts.token_embedding(tokens).to(dtype) + parts.positional_embedding[:length].to(dtype)
        mask = parts.attn_mask[:length, :length]
        if can_be_read_at(parts.transformer):
            read = read_at(parts.transformer, embedded, self.lengths(tokens) - 1, mask)
        else:
            read = text_global_pool(parts.transformer(embedded, mask), tokens, self.pool, eos_token_id=self.eos)
        # The layer norm treats each position by itself, so it is computed for the end tokens only.
        x: Tensor = parts.ln_final(read)
        if isinstance(parts.text_projection, nn.Linear):
            x = parts.text_projection(x)
        elif parts.text_projection is not None:
            x = x @ parts.text_projection
        return x


def encode_captions(
    encode: Callable[[Tensor], Tensor], lengths: Tensor, tokens: Tensor, batch_size: int, device: torch.device
) -> Tensor:
    """Embeds captions in batches that depend on the captions alone.

    Args:
        encode: int64[batch_size, length] → float[batch_size, dim], not normalised.
        lengths: int64[n], the number of tokens of each caption that `encode` has to get.
        tokens: int64[n, context]; distinct captions.
        batch_size: rows of every forward pass. The last one is filled up with copies of a row, as kernels round
            differently for other shapes.
        device: the model's device.

    Returns:
        float32[n, dim] on the device, L2-normalised, in the order of `tokens`.
    """
    order = torch.sort(lengths, stable=True).indices
    encoded = []
    for rows in torch.split(order, batch_size):
        batch = tokens[rows, : int(lengths[rows[-1]])]
        if len(rows) < batch_size:
            batch = torch.cat([batch, batch[-1:].expand(batch_size - len(rows), -1)])
        features = encode(batch.to(device, non_blocking=True))
        encoded.append(nn.functional.normalize(features[: len(rows)].float(), dim=-1))
    return torch.cat(encoded)[torch.argsort(order).to(device, non_blocking=True)]
