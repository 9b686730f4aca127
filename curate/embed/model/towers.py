"""An open_clip model ready to embed: images and captions in, unit vectors out."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from curate.embed.model.preprocess import Preprocess, height_and_width
from curate.embed.model.text import CausalTower, encode_captions


@dataclass(frozen=True)
class Model:
    """A model ready to embed.

    Attributes:
        clip: the open_clip model, in eval mode, on its device.
        see: float[n, 3, height, width] → float[n, dim]: the vision tower, as far as it is read.
        read: int64[n, length] → float[n, dim]: the text tower, likewise.
        cut: the text tower where its captions may be cut; None where it takes them at their full length.
        tokenize: captions → int64[n, context].
        preprocess: makes of a picture what `encode_images` takes.
        device: where the model is.
        dtype: of the images that it takes.
        dim: length of an embedding.
    """

    clip: Any
    see: Callable[[Tensor], Tensor]
    read: Callable[[Tensor], Tensor]
    cut: CausalTower | None
    tokenize: Callable[[list[str]], Tensor]
    preprocess: Preprocess
    device: torch.device
    dtype: torch.dtype
    dim: int

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of what the vision tower takes, in pixels."""
        return height_and_width(self.clip.visual.preprocess_cfg["size"])

    @property
    def image_side(self) -> int:
        """The longer one of the two."""
        return max(self.image_size)

    def encode_images(
        self, prepared: Sequence[npt.NDArray[np.uint8]], batch_size: int, *, mirrored: bool = False
    ) -> Tensor:
        """Embeds up to `batch_size` prepared images; the batch is filled up to that size with black ones.

        Args:
            prepared: as `preprocess` gives them.
            batch_size: rows of the forward pass.
            mirrored: embed what is seen in a mirror: left and right change places.

        Returns:
            float32[n, dim] on the device, L2-normalised. On CUDA it may still be under way.
        """
        on_gpu = self.device.type == "cuda"
        # Pinned, it is sent while the device is still at the batch before.
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
        """Embeds captions; give each one once.

        Returns:
            float32[n, dim], L2-normalised.
        """
        return self.encode_tokens(self.tokenize(captions), batch_size).cpu().numpy()

    def encode_tokens(self, tokens: Tensor, batch_size: int) -> Tensor:
        """Embeds captions that were tokenized, int64[n, context]; give each one once.

        Returns:
            float32[n, dim] on the device, L2-normalised. On CUDA it may still be under way.
        """
        if not len(tokens):
            return torch.zeros((0, self.dim), device=self.device)
        lengths = self.cut.lengths(tokens) if self.cut else torch.full((len(tokens),), tokens.shape[1])
        with torch.inference_mode():
            return encode_captions(self.read, lengths, tokens, batch_size, self.device)

    def _by_channel(self, values: tuple[float, ...]) -> Tensor:
        return _on_device(values, self.device)


@functools.cache
def _on_device(values: tuple[float, ...], device: torch.device) -> Tensor:
    """A value by channel; sent once, for each sending waits for the device to be done with what it is at."""
    return torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1)
