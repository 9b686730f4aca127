"""Bounds the metadata of a picture, before Pillow reads it.

Pillow reads metadata in Python, segment by segment, and concatenates what comes in pieces. So a few megabytes of tiny
segments take seconds, and more take minutes. The bounds depend on the bytes alone.
"""

import re
import struct

MOST_SEGMENTS = 1000
"""The most segments of a JPEG before its first scan. Profiles and extended XMP have some hundreds at most."""

MOST_EXIF = 128 << 10
"""The most bytes of all Exif segments of a JPEG: two full segments. The standard allows one."""

MOST_FILL = 64 << 10
"""The most bytes of a JPEG that lie between segments, before its first scan."""

MOST_CHUNKS = 20_000
"""The most chunks of a PNG. libpng writes one for 8 kB of pixels."""

MOST_BLOCKS = 4000
"""The most data blocks, of up to 255 bytes each, of a GIF's extensions before its first picture: a megabyte."""

_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]", re.DOTALL)
_SOS, _EOI, _APP1 = 0xDA, 0xD9, 0xE1
_EXIF = b"Exif\0\0"
_PNG, _GIF = b"\x89PNG\r\n\x1a\n", (b"GIF87a", b"GIF89a")
_GIF_HEAD = 13
_EXTENSION = 0x21


def excess(data: bytes) -> str | None:
    """Returns what a JPEG, PNG or GIF has too much of, such as "more than 20,000 chunks"; None where it is in bounds.

    Files of other types, whose metadata is read by their libraries, have no bounds here.
    """
    if data.startswith(b"\xff\xd8"):
        return _of_jpeg(data)
    if data.startswith(_PNG):
        return _of_png(data)
    if data.startswith(_GIF):
        return _of_gif(data)
    return None


def _of_jpeg(data: bytes) -> str | None:
    at, fill, exif = 2, 0, 0
    for _ in range(MOST_SEGMENTS):
        match = _MARKER.search(data, at)
        fill += (match.start() if match else len(data)) - at
        if fill > MOST_FILL:
            return f"more than {MOST_FILL:,} bytes between segments"
        if match is None or data[match.start() + 1] in (_SOS, _EOI):
            return None
        body = match.end()
        length = int.from_bytes(data[body : body + 2])
        if data[match.start() + 1] == _APP1 and data.startswith(_EXIF, body + 2):
            exif += length
            if exif > MOST_EXIF:
                return f"more than {MOST_EXIF:,} bytes of Exif"
        at = body + max(length, 2)
    return f"more than {MOST_SEGMENTS:,} segments of metadata"


def _of_png(data: bytes) -> str | None:
    at = len(_PNG)
    for _ in range(MOST_CHUNKS):
        if at + 8 > len(data):
            return None
        (length,) = struct.unpack_from(">I", data, at)
        at += 12 + length
    return f"more than {MOST_CHUNKS:,} chunks" if at < len(data) else None


def _of_gif(data: bytes) -> str | None:
    if len(data) < _GIF_HEAD:
        return None
    flags = data[_GIF_HEAD - 3]
    at = _GIF_HEAD + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    inside = False
    for _ in range(MOST_BLOCKS):
        # Bytes that begin no block are skipped by Pillow, one by one; each counts as a block here.
        if at >= len(data) or (not inside and data[at] in b",;"):
            return None
        if inside:
            inside = data[at] != 0
            at += 1 + data[at]
        elif data[at] == _EXTENSION:
            inside = True
            at += 2
        else:
            at += 1
    return f"more than {MOST_BLOCKS:,} blocks of metadata"
