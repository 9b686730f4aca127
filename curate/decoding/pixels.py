"""Packs decoded pictures into messages, and reads them from messages, which are untrusted."""

from typing import Any

from PIL import Image

MODES = frozenset({"1", "L", "P", "LA", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "F"})
"""The modes of pictures that a message may hold."""

_RAW = {"RGB": "RGBX"}
"""The layout of the bytes, where it is not the mode's own: Pillow holds RGB in four bytes a pixel."""


def packed(image: Image.Image) -> tuple[Any, bytes]:
    """Returns mode, size and palette of a loaded picture as a JSON value, and its pixels."""
    palette = None
    if image.mode in ("P", "PA") and image.palette:
        kind = image.palette.mode
        palette = [kind, image.getpalette(kind)]
    return [image.mode, image.size, palette], image.tobytes("raw", _RAW.get(image.mode, image.mode))


def unpacked(value: Any, pixels: bytearray) -> Image.Image:
    """Returns the picture that `packed` was given.

    Raises:
        ValueError, TypeError, LookupError: the value is not what `packed` returns, or there are too few bytes.
    """
    mode, (width, height), palette = value
    if mode not in MODES or type(width) is not int or type(height) is not int or min(width, height) < 1:
        raise ValueError("not a picture")
    if width * height > 8 * len(pixels):
        raise ValueError("a size without pixels")
    # Raises ValueError where there are fewer bytes than the size says.
    image = Image.frombytes(mode, (width, height), pixels, "raw", _RAW.get(mode, mode))
    if palette is not None:
        kind, colours = palette
        if kind not in ("RGB", "RGBA") or not isinstance(colours, list):
            raise ValueError("not a palette")
        image.putpalette(bytes(colours), kind)
    return image
