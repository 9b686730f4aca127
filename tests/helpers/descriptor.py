"""Scripts small image descriptors, sound and faulty ones, as files of TorchScript."""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

IMAGE = {
    "trust": True,
    "size": 32,
    "resize": "squash",
    "interpolation": "bilinear",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
}
"""What the descriptors expect of a picture, as in a recipe."""


class Descriptor(nn.Module):
    """The mean of eight filters over 4 × 4 fields, without that of the picture: 128 numbers."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.filters = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.fields = nn.AdaptiveAvgPool2d(4)

    def forward(self, images: Tensor) -> Tensor:
        found = self.fields(self.filters(images))
        return (found - found.mean((2, 3), keepdim=True)).flatten(1)


class OfAllImages(nn.Module):
    """Gives one row for all images together."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((0, 2, 3))[None]


class OfPixels(nn.Module):
    """Gives an image for an image."""

    def forward(self, images: Tensor) -> Tensor:
        return images * 2


class Pair(nn.Module):
    """Gives two tensors."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images.mean((2, 3)), images.mean((2, 3))


class NotANumber(nn.Module):
    """Divides zero by zero."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) * 0 / 0


class Raising(nn.Module):
    """Raises an error of its own."""

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[0] > 0:
            raise ValueError("another picture, please")
        return images.mean((2, 3))


class OfAnotherSize(nn.Module):
    """Takes pictures of 16 × 16 pixels alone."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Linear(3 * 16 * 16, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.rows(images.flatten(1))


def scripted(module: nn.Module, path: Path) -> Path:
    """Saves a module as a file of TorchScript; returns its path."""
    with warnings.catch_warnings():
        # torch has deprecated TorchScript, in a warning whose class depends on its release.
        warnings.simplefilter("ignore")
        torch.jit.script(module.eval()).save(str(path))
    return path
