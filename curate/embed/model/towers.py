"""A loaded model: embeds images and, where it has a text tower, captions as L2-normalised vectors."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from curate.embed.model.preprocess import Preprocess
from curate.embed.model.text import CausalTower, encode_captions


@dataclass(frozen=True)
class Model:
    """A loaded model.

    Attributes:
        clip: the open_clip model, in eval mode, on its device; None for a file of TorchScript.
        see: float[n, 3, height, width] → float[n, dim]: the vision tower, without work that does not affect the result.
        read: int64[n, length] → float[n, dim]: the text tower, likewise; None where there is none.
        cut: the text tower, where its captions may be cut; None where it needs them at full length.
        tokenize: captions → int64[n, context]; what exceeds a bound is cut first (`cut.py`); None
            without a text tower.
        preprocess: turns a decoded picture into the input of `encode_images`.
        device: the device of the model.
        dtype: type of the images that the vision tower takes.
        dim: length of an embedding.
        image_size: height and width of the vision tower's input, in pixels.
    """

    clip: Any
    see: Callable[[Tensor], Tensor]
    read: Callable[[Tensor], Tensor] | None
    cut: CausalTower | None
    tokenize: Callable[[list[str]], Tensor] | None
    preprocess: Preprocess
    device: torch.device
    dtype: torch.dtype
    dim: int
    image_size: tuple[int, int]

    @property
    def has_text(self) -> bool:
        """Whether it has a text tower; without, it embeds images alone."""
        return self.read is not None

    @property
    def image_side(self) -> int:
        """The longer side of the vision tower's input, in pixels."""
        return max(self.image_size)

    def encode_images(
        self, prepared: Sequence[npt.NDArray[np.uint8]], batch_size: int, *, mirrored: bool = False
    ) -> Tensor:
        """Embeds up to `batch_size` prepared images; the batch is filled up to that size with black ones.

        Args:
            prepared: uint8[3, height, width] each, as `preprocess` returns them.
            batch_size: rows of the forward pass.
            mirrored: whether to embed the images flipped left to right.

        Returns:
            float32[n, dim] on the device, L2-normalised. On CUDA it may not be computed yet.
        """
        on_gpu = self.device.type == "cuda"
        # From pinned memory, the batch is copied while the device still computes the batch before.
        pixels = torch.empty((batch_size, *prepared[0].shape), dtype=torch.uint8, pin_memory=on_gpu)
        np.stack(prepared, out=pixels.numpy()[: len(prepared)])
        pixels[len(prepared) :] = 0
        pixels = pixels.to(self.device, non_blocking=True)
        images = pixels.to(torch.float32).div_(255)
        if mirrored:
            images = images.flip(-1)
        images.sub_(self._by_channel(self.preprocess.mean)).div_(self._by_channel(self.preprocess.std))
        with torch.inference_mode():
            features = self.see(images.to(self.dtype))
            return nn.functional.normalize(features[: len(prepared)].float(), dim=-1)

    def encode_captions(self, captions: list[str], batch_size: int) -> npt.NDArray[np.float32]:
        """Embeds distinct captions.

        Returns:
            float32[n, dim], L2-normalised.
        """
        assert self.tokenize, "a model without a text tower embeds no captions"
        return self.encode_tokens(self.tokenize(captions), batch_size).cpu().numpy()

    def encode_tokens(self, tokens: Tensor, batch_size: int) -> Tensor:
        """Embeds distinct captions that are tokenized, int64[n, context].

        Returns:
            float32[n, dim] on the device, L2-normalised. On CUDA it may not be computed yet.
        """
        assert self.read, "a model without a text tower embeds no captions"
        if not len(tokens):
            return torch.zeros((0, self.dim), device=self.device)
        lengths = self.cut.lengths(tokens) if self.cut else torch.full((len(tokens),), tokens.shape[1])
        with torch.inference_mode():
            return encode_captions(self.read, lengths, tokens, batch_size, self.device)

    def _by_channel(self, values: tuple[float, ...]) -> Tensor:
        return _on_device(values, self.device)


@functools.cache
def _on_device(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Returns values by channel on the device; cached, as each copy waits until the device has finished its work."""
    return torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1)
