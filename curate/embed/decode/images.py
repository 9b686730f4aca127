"""Reads a part's images from its tar, in order, and decodes images, reduced where possible."""

import io
import struct
import tarfile
import zlib
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from curate import jpeg
from curate.decoding import metadata
from curate.errors import BrokenResult
from curate.schema import FETCHED
from curate.store import Folder

UNDECODABLE = (OSError, SyntaxError, ValueError, EOFError, LookupError, struct.error, zlib.error)
"""What Pillow raises at bytes that are not a picture (mostly OSError, also for a truncated picture)."""


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
    except (*UNDECODABLE, Image.DecompressionBombError):
        return None
    return pictures


def fetched_rows(images: pa.Table) -> pa.Array:
    """Returns the rows of a part's images table that have a member in its tar."""
    return pc.indices_nonzero(pc.equal(images["status"], FETCHED).fill_null(fill_value=False))


def read_members(fetch: Folder, part: int, images: pa.Table) -> Iterator[tuple[int, bytes]]:
    """Reads a part's tar from start to end.

    Args:
        fetch: the folder of the fetch pass.
        part: number of the part.
        images: its table of images, with `status` and `file`.

    Yields:
        The row in `images` and the member's bytes, for every fetched image in order.

    Raises:
        BrokenResult: a member is missing, repeated, out of order, truncated or not in the table.
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
                    raise BrokenResult(f"{name}: {member.name!r} is not a file")
                yield row, content.read()
    except tarfile.TarError as error:
        raise BrokenResult(f"{name}: {error}") from error
    if (lacking := next(expected, None)) is not None:
        raise BrokenResult(f"{name}: it ends before {lacking[1]!r}")
