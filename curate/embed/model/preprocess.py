"""Turns a decoded picture into a model's input: open_clip's preprocessing before its normalisation on the device."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from open_clip.transform import MaybeToTensor, PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor
from torch.utils.dlpack import from_dlpack
from torchvision.transforms import CenterCrop, InterpolationMode, Normalize, Resize
from torchvision.transforms.v2 import functional as vectorised

_LONGEST = 256
"""The longest ratio of sides with which an image is resized by its shorter side; longer images are cropped first."""

_CHOICES = {
    "mode": ("RGB",),
    "interpolation": ("bicubic", "bilinear", "random"),
    "resize_mode": ("shortest", "longest", "squash"),
}
"""The values that open_clip supports; it fails at any other without a message."""

_CHANNELS = 3

_VECTORISED = {InterpolationMode.BICUBIC, InterpolationMode.BILINEAR}


@dataclass(frozen=True)
class Preprocess:
    """The preprocessing of one model. Thread-safe.

    Attributes:
        steps: the steps of open_clip's preprocessing that take a Pillow image.
        mean: mean of the normalisation that follows, by channel.
        std: standard deviation of the normalisation that follows, by channel.
        cuts_long: whether the image is resized by its shorter side.
        fits_into: side, in pixels, of the square that the image is scaled to fit into; None where it is resized by its
            shorter side or to a fixed size.
        resize: the resize, where torch's vectorised one can replace it, else None.
        crop: the crop that follows the resize, if any.
    """

    steps: Sequence[Callable[[Image.Image], Image.Image]]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    cuts_long: bool
    fits_into: int | None
    resize: Resize | None
    crop: CenterCrop | None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Preprocess":
        """Returns the preprocessing of open_clip's settings (size, mean, std, interpolation, resize_mode, fill_color).

        Raises:
            ValueError: a setting is not valid.
        """
        for key, values in _CHOICES.items():
            if settings.get(key, values[0]) not in values:
                raise ValueError(f"its preprocess_cfg has {key} {settings[key]!r}, not one of {', '.join(values)}")
        known = PreprocessCfg(**settings)
        *steps, to_tensor, normalize = image_transform_v2(known, is_train=False).transforms
        assert isinstance(to_tensor, MaybeToTensor), "open_clip's preprocessing has other last steps than expected"
        assert isinstance(normalize, Normalize), "open_clip's preprocessing has other last steps than expected"
        for key, found in (("mean", normalize.mean), ("std", normalize.std)):
            if len(found) != _CHANNELS or not all(isinstance(value, int | float) for value in found):
                raise ValueError(f"its preprocess_cfg has {key} {settings[key]!r}, not three numbers")
        if not all(value > 0 for value in normalize.std):
            raise ValueError(f"its preprocess_cfg has std {settings['std']!r}, not three numbers above 0")
        first, *others = steps
        # The vectorised resize takes RGB images only, so the step that converts to RGB can be left out.
        crops = [step for step in others if isinstance(step, CenterCrop)]
        is_known = isinstance(first, Resize) and first.interpolation in _VECTORISED and len(others) == len(crops) + 1
        return cls(
            steps=steps,
            mean=tuple(normalize.mean),
            std=tuple(normalize.std),
            cuts_long=known.resize_mode == "shortest",
            fits_into=min(height_and_width(known.size)) if known.resize_mode == "longest" else None,
            resize=first if is_known else None,
            crop=crops[0] if crops else None,
        )

    def __call__(self, image: Image.Image, *, exact: bool = True) -> npt.NDArray[np.uint8]:
        """Resizes and crops an image.

        Args:
            image: the decoded image.
            exact: whether the pixels equal those of open_clip. Otherwise torch's vectorised resize is used where it can
                be. It has the same filter in whole numbers, takes a quarter of the time, and differs from Pillow's by
                one or two levels in few pixels (benchmarks/decode.py).

        Returns:
            uint8[3, height, width].
        """
        short, long = sorted(image.size)
        if self.cuts_long and long > _LONGEST * short:
            # Resized as a whole, an image one pixel wide and very long would fill memory; the centre crop uses only its
            # middle.
            left, top = ((side - min(side, _LONGEST * short)) // 2 for side in image.size)
            image = image.crop((left, top, image.width - left, image.height - top))
        if self.fits_into and long > self.fits_into * short:
            # Scaled down, its shorter side would have 0 pixels: it is first widened such that 1 pixel remains.
            one_pixel = -(-long // self.fits_into)
            image = image.resize((max(image.width, one_pixel), max(image.height, one_pixel)))
        if not exact and self.resize and image.mode == "RGB":
            return self._vectorised(image, self.resize)
        for step in self.steps:
            image = step(image)
        return _planes(np.asarray(image))

    def _vectorised(self, image: Image.Image, resize: Resize) -> npt.NDArray[np.uint8]:
        small = vectorised.resize(
            _channels(image), resize.size, interpolation=resize.interpolation, max_size=resize.max_size, antialias=True
        )
        if self.crop:
            small = vectorised.center_crop(small, self.crop.size)
        return _planes(small.permute(1, 2, 0).numpy())


def height_and_width(size: Any) -> tuple[int, int]:
    """Returns height and width of a size in open_clip's settings, which may be one number."""
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _planes(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """uint8[height, width, 3 or more] → uint8[3, height, width]. With NumPy, as torch would use further threads."""
    return np.ascontiguousarray(pixels[:, :, :3].transpose(2, 0, 1))


def _channels(image: Image.Image) -> Tensor:
    """Returns an RGB image as uint8[4, height, width] with an unused fourth channel; no copy where memory allows it."""
    try:
        pixels = from_dlpack(pa.array(image).values)
    except ValueError:
        pixels = torch.from_numpy(np.array(image.convert("RGBX")))
    return pixels.view(image.height, image.width, 4).permute(2, 0, 1)
