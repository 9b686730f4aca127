"""Thumbnails of stored images, made in decoding processes. Imports Pillow alone: it runs there, too."""

import base64
import io
from dataclasses import dataclass
from typing import Any

from PIL import Image

from curate import jpeg
from curate.decoding import limits, metadata
from curate.decoding.broken import BROKEN
from curate.decoding.child import Job, Result

NAME = "curate.report.thumbnail:opened"

THUMBNAIL = 160
"""The longer side of a thumbnail, in pixels."""

_FORMATS = ("JPEG", "PNG", "WEBP")
"""The formats that fetch stores; no other decoder is used."""


@dataclass(frozen=True)
class Thumbnail:
    """A picture as a data URI, and its size in pixels."""

    uri: str
    width: int
    height: int


def thumb(data: bytes) -> tuple[bytes, int, int] | None:
    """Returns a JPEG of at most THUMBNAIL pixels a side, its width and height.

    None for an image that is broken, or has too many scans or too much metadata.
    """
    if metadata.excess(data):
        return None
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
            limits.allow(opened.width * opened.height)
            if opened.format == "JPEG" and jpeg.count_scans(data) > jpeg.allowed_scans(opened.width * opened.height):
                # fetch refuses such JPEGs; versions before 0.1.0 stored them.
                return None
            opened.draft("RGB", (2 * THUMBNAIL, 2 * THUMBNAIL))
            picture = opened.convert("RGB")
    except BROKEN:
        return None
    picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    sink = io.BytesIO()
    picture.save(sink, "JPEG", quality=72, optimize=True)
    return sink.getvalue(), picture.width, picture.height


def opened(_parameters: bytes) -> Job:
    """Returns the job of decoding processes: a stored image to its thumbnail."""

    def made(data: bytes) -> Result:
        thumbnail = thumb(data)
        return (None, []) if thumbnail is None else (thumbnail[1:], [thumbnail[0]])

    return made


def read(value: Any, buffers: list[bytearray]) -> Thumbnail | None:
    """Returns a result's thumbnail; None where there is none.

    Raises:
        ValueError, TypeError, LookupError: the result is malformed.
    """
    if value is None:
        return None
    width, height = value
    if type(width) is not int or type(height) is not int or not 0 < max(width, height) <= THUMBNAIL:
        raise ValueError("not a thumbnail")
    (data,) = buffers
    return Thumbnail("data:image/jpeg;base64," + base64.b64encode(data).decode(), width, height)
