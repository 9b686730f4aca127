"""The job of the process that decodes target images: upright and composited on white, as fetch would store them."""

from typing import Any, Literal

from PIL import Image, ImageOps

from curate.decoding import limits
from curate.decoding.broken import BROKEN
from curate.decoding.child import Job, Result
from curate.decoding.images import decode
from curate.decoding.pixels import packed, unpacked

NAME = "curate.embed.target_job:opened"

DEEP: Literal["deep"] = "deep"
"""The result for an image of more than 8 bits, whose values above 255 Pillow would clip to white where fetch scales."""


def opened(_parameters: bytes) -> Job:
    """Returns the job: an image's bytes to its picture."""
    return _upright


def _upright(data: bytes) -> Result:
    decoded = decode(data)
    if decoded is None:
        return None, []
    if decoded.mode.startswith(("I", "F")):
        return DEEP, []
    limits.allow(2 * decoded.width * decoded.height)
    try:
        upright = ImageOps.exif_transpose(decoded)
    except BROKEN:
        return None, []
    if upright.has_transparency_data:
        white = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(white, upright.convert("RGBA")).convert("RGB")
    value, pixels = packed(upright)
    return value, [pixels]


def read(value: Any, buffers: list[bytearray]) -> Image.Image | Literal["deep"] | None:
    """Returns a result: a picture, DEEP, or None where the image cannot be decoded.

    Raises:
        ValueError, TypeError, LookupError: the result is malformed.
    """
    if value is None:
        return None
    if value == DEEP:
        return DEEP
    (pixels,) = buffers
    return unpacked(value, pixels)
