"""The job of fetch's decoding processes: received bytes to the stored picture. Imports Pillow alone."""

import dataclasses
import json
from typing import Any

from curate.decoding.child import Job, Result
from curate.fetch.pictures.normalise import Normaliser
from curate.fetch.pictures.picture import REFUSALS, Picture, Refused
from curate.fetch.settings import Settings

NAME = "curate.fetch.pictures.normalise_job:opened"

_SIZES = 4


def parameters(settings: Settings) -> bytes:
    """Returns the job's parameters."""
    return json.dumps(dataclasses.asdict(settings)).encode()


def opened(settings: bytes) -> Job:
    """Returns the job: received bytes to a picture's sizes and bytes, which are left out where unchanged."""
    section = json.loads(settings)
    normalise = Normaliser(Settings.of({**section, "allow": tuple(section["allow"])}))

    def normalised(data: bytes) -> Result:
        try:
            picture = normalise(data)
        except Refused as refused:
            return ["refused", refused.error_class, str(refused)], []
        sizes = [picture.width, picture.height, picture.original_width, picture.original_height]
        return ["picture", sizes], [] if picture.data is data else [picture.data]

    return normalised


def read(value: Any, buffers: list[bytearray]) -> Picture | Refused:
    """Returns a result; a picture without data is one whose bytes are stored unchanged.

    Raises:
        ValueError, TypeError, LookupError: the result is malformed.
    """
    match value:
        case ["refused", str(error_class), str(message)] if error_class in REFUSALS:
            return Refused(error_class, message)
        case ["picture", [*sizes]] if len(sizes) == _SIZES and all(type(size) is int and size > 0 for size in sizes):
            data = bytes(buffers[0]) if buffers else b""
            return Picture(data, *sizes)
    raise ValueError("neither a picture nor a reason")
