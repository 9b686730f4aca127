"""The job of processes that decode images for a worker without a GPU. Imports Pillow alone, so that they start quickly.

Resizing for a model needs torch, so it is done by the worker's threads.
"""

import json
from collections.abc import Sequence
from typing import Any

from PIL import Image

from curate.decoding.child import Job, Result
from curate.decoding.images import decode_at
from curate.decoding.pixels import packed, unpacked

NAME = "curate.embed.decode.decode_job:opened"


def parameters(shorter_sides: Sequence[int | None]) -> bytes:
    """Returns the job's parameters: the shorter sides for `images.decode_at`."""
    return json.dumps(list(shorter_sides)).encode()


def opened(sides: bytes) -> Job:
    """Returns the job: an image's bytes to its pictures."""
    shorter_sides = json.loads(sides)

    def decoded(data: bytes) -> Result:
        pictures = decode_at(data, shorter_sides)
        if pictures is None:
            return None, []
        # Each distinct picture is sent once.
        distinct = list({id(picture): picture for picture in pictures}.values())
        places = [next(at for at, one in enumerate(distinct) if one is picture) for picture in pictures]
        values, pixels = zip(*map(packed, distinct), strict=True) if distinct else ((), ())
        return [places, values], pixels

    return decoded


def read(value: Any, buffers: list[bytearray]) -> list[Image.Image] | None:
    """Returns a result's pictures, one for each shorter side; None where the image cannot be decoded.

    Raises:
        ValueError, TypeError, LookupError: the result is malformed.
    """
    if value is None:
        return None
    places, values = value
    distinct = [unpacked(one, pixels) for one, pixels in zip(values, buffers, strict=True)]
    return [distinct[at] for at in places]
