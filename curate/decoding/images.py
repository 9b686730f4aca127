"""Decodes stored images, reduced where possible. Imports Pillow alone: it runs in decoding processes."""

import io
from collections.abc import Sequence

from PIL import Image

from curate import jpeg
from curate.decoding import limits, metadata
from curate.decoding.broken import BROKEN

_JPEG = ("JPEG", "MPO")
_SCALES = (1, 2, 4, 8)
"""Factors by which libjpeg can reduce a picture while it decodes."""

REDUCED = 448
"""The least pixels of the shorter side of a picture that is decoded reduced."""


def decode(data: bytes, shorter_side: int | None = None) -> Image.Image | None:
    """Returns the decoded picture, or None where it is broken, or has too many scans or too much metadata.

    Args:
        data: a stored image.
        shorter_side: decode a JPEG at 1/2, 1/4 or 1/8 of its size (libjpeg's scaled inverse DCT), at the smallest that
            leaves its shorter side at least this many pixels. By default a JPEG is decoded at its full size.
    """
    pictures = decode_at(data, [shorter_side])
    return pictures[0] if pictures else None


def decode_at(data: bytes, shorter_sides: Sequence[int | None]) -> list[Image.Image] | None:
    """Returns `decode`'s picture for each of some `shorter_side`s, decoding once for each distinct size."""
    by_scale: dict[int, Image.Image] = {}
    pictures = []
    if metadata.excess(data):
        return None
    try:
        image = Image.open(io.BytesIO(data))
        shorter, is_jpeg = min(image.size), image.format in _JPEG
        limits.allow(image.width * image.height)
        if is_jpeg and jpeg.count_scans(data) > jpeg.allowed_scans(image.width * image.height):
            return None
        for side in shorter_sides:
            scale = max(scale for scale in _SCALES if scale * side <= shorter or scale == 1) if side and is_jpeg else 1
            if scale not in by_scale:
                if by_scale:
                    image = Image.open(io.BytesIO(data))
                if scale > 1:
                    image.draft(None, (shorter // scale, shorter // scale))
                image.load()
                by_scale[scale] = image
            pictures.append(by_scale[scale])
    except BROKEN:
        return None
    return pictures
