"""A part's images: read from the tar in order, decoded once."""

import io
import struct
import tarfile
import zlib
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from curate import jpeg
from curate.errors import BrokenResult
from curate.schema import FETCHED
from curate.store import Folder

UNDECODABLE = (OSError, SyntaxError, ValueError, EOFError, LookupError, struct.error, zlib.error)
"""What Pillow raises at bytes that are no picture (OSError for most, and for a cut one)."""


_JPEG = ("JPEG", "MPO")
_SCALES = (1, 2, 4, 8)
"""By which libjpeg can divide a size while it decodes."""

REDUCED = 448
"""Pixels that the shorter side of a picture keeps, at least, where it is decoded reduced."""


def decode(data: bytes, shorter_side: int | None = None) -> Image.Image | None:
    """The picture, its pixels in memory; None where the bytes cannot be decoded whole, or have too many scans.

    Args:
        data: a stored image.
        shorter_side: decode a JPEG at 1/2, 1/4 or 1/8 of its size (libjpeg's scaled inverse DCT), the smallest
            that leaves its shorter side this long. By default at its full size.
    """
    found = decode_at(data, [shorter_side])
    return found[0] if found else None


def decode_at(data: bytes, shorter_sides: Sequence[int | None]) -> list[Image.Image] | None:
    """The picture for each of some `shorter_side`s, decoded once for each size that they come to."""
    found: dict[int, Image.Image] = {}
    pictures = []
    try:
        image = Image.open(io.BytesIO(data))
        shorter, is_jpeg = min(image.size), image.format in _JPEG
        if is_jpeg and jpeg.count_scans(data) > jpeg.allowed_scans(image.width * image.height):
            return None
        for side in shorter_sides:
            scale = max(scale for scale in _SCALES if scale * side <= shorter or scale == 1) if side and is_jpeg else 1
            if scale not in found:
                if found:
                    image = Image.open(io.BytesIO(data))
                if scale > 1:
                    image.draft(None, (shorter // scale, shorter // scale))
                image.load()
                found[scale] = image
            pictures.append(found[scale])
    except (*UNDECODABLE, Image.DecompressionBombError):
        return None
    return pictures


def fetched_rows(images: pa.Table) -> pa.Array:
    """The rows of a part's images table that have a member in its tar."""
    return pc.indices_nonzero(pc.equal(images["status"], FETCHED).fill_null(fill_value=False))


def read_members(fetch: Folder, part: int, images: pa.Table) -> Iterator[tuple[int, bytes]]:
    """Reads a part's tar from front to end.

    Args:
        fetch: the folder of the fetch pass.
        part: which part.
        images: its table of images, with `status` and `file`.

    Yields:
        The row in `images` and the member's bytes, for every fetched image in order.

    Raises:
        BrokenResult: a member is missing, doubled, out of order, torn or unknown.
    """
    name = fetch.file("images.tar", part)
    rows = fetched_rows(images).to_pylist()
    files = images["file"].take(pa.array(rows, pa.int64())).to_pylist()
    expected = iter(zip(rows, files, strict=True))
    try:
        with fetch.store.open(name) as opened, tarfile.open(fileobj=opened, mode="r|") as tar:
            for member in tar:
                row, file = next(expected, (None, None))
                if row is None or member.name != file:
                    raise BrokenResult(f"{name}: it holds {member.name!r} where {file!r} should be")
                content = tar.extractfile(member)
                if content is None:
                    raise BrokenResult(f"{name}: {member.name!r} is no file")
                yield row, content.read()
    except tarfile.TarError as error:
        raise BrokenResult(f"{name}: {error}") from error
    if (lacking := next(expected, None)) is not None:
        raise BrokenResult(f"{name}: it ends before {lacking[1]!r}")
