"""The job of fetch's decoding processes: received bytes to the stored picture.

Imports Pillow alone, unless hashes are needed.
"""

import dataclasses
import json
import re
from collections.abc import Callable
from typing import Any

from curate.decoding.child import Job, Result
from curate.fetch.pictures.normalise import Normaliser
from curate.fetch.pictures.picture import REFUSALS, Picture, Refused
from curate.fetch.settings import Settings

NAME = "curate.fetch.pictures.normalise_job:opened"

_SIZES = 4
_HASH = re.compile(r"[0-9a-f]{16}")


def parameters(settings: Settings, *, with_phash: bool = False) -> bytes:
    """Returns the job's parameters."""
    return json.dumps([dataclasses.asdict(settings), with_phash]).encode()


def opened(parameters: bytes) -> Job:
    """Returns the job: received bytes to a picture's sizes, hash and bytes, which are left out where unchanged."""
    section, with_phash = json.loads(parameters)
    settings = Settings.of({**section, "allow": tuple(section["allow"])})
    normalise = Normaliser(settings)
    hash_of: Callable[[bytes], str | None] | None = None
    if with_phash:
        # Imported here: it needs numpy, which doubles the start of a decoding process.
        from curate.phash import of_stored as hash_of

    def normalised(data: bytes) -> Result:
        try:
            picture = normalise(data)
        except Refused as refused:
            return ["refused", refused.error_class, str(refused)], []
        phash = hash_of(picture.data) if hash_of else None
        if hash_of and phash is None:
            # It was decoded at another size, or from other bytes; without a hash it cannot be compared.
            return ["refused", "undecodable", "its perceptual hash cannot be computed"], []
        sizes = [picture.width, picture.height, picture.original_width, picture.original_height]
        return ["picture", sizes, phash], [] if picture.data is data else [picture.data]

    return normalised


def read(value: Any, buffers: list[bytearray]) -> Picture | Refused:
    """Returns a result; a picture without data is one whose bytes are stored unchanged.

    Raises:
        ValueError, TypeError, LookupError: the result is malformed.
    """
    match value:
        case ["refused", str(error_class), str(message)] if error_class in REFUSALS:
            return Refused(error_class, message)
        case ["picture", [*sizes], phash] if len(sizes) == _SIZES and all(
            type(size) is int and size > 0 for size in sizes
        ):
            if phash is not None and not _HASH.fullmatch(phash):
                raise ValueError("not a hash")
            data = bytes(buffers[0]) if buffers else b""
            return dataclasses.replace(Picture(data, *sizes), phash=phash)
    raise ValueError("neither a picture nor a reason")
