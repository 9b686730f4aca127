"""How much work a JPEG is beyond its pixels: its scans, counted without decoding.

Each scan of a progressive JPEG passes over all coefficients once more, and may be a dozen bytes long: half a megabyte
of them keeps a decoder busy for more than a minute. libjpeg leaves the bound to its caller ("Two Issues with the JPEG
Standard", libjpeg-turbo, LJT-01-003). Scans × pixels is the cost: about a nanosecond each.
"""

import re

USUAL_SCANS = 16
"""What encoders write at most: Pillow and libjpeg 10 (greyscale 6), mozjpeg's search for the smallest file up to 16."""

MOST_SCANS = 100
"""More than this many no encoder writes on its own, whatever the size of the picture."""

MOST_PIXELS = 100_000_000
"""Of a picture, where no recipe says how many (`fetch.max_pixels`, by default)."""

_MOST_SEGMENTS = 10_000
"""Of a file, apart from its scans' data; a scan has a few, and the largest metadata some hundreds."""

_SOS, _EOI = 0xDA, 0xD9
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = frozenset({0xC0, 0xC1, 0xC9})
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]", re.DOTALL)
"""A marker with a segment, or the end: not a stuffed byte, and none of those that stand alone."""


def count_scans(data: bytes) -> int:
    """The number of scans that a decoder meets in a JPEG; where it exceeds MOST_SCANS, MOST_SCANS + 1.

    Up to USUAL_SCANS, what looks like a scan in the metadata between two scans is counted as well.

    Markers are walked as libjpeg does: the bytes between segments are skipped up to the next marker, a segment by its
    length, and what follows the end of the image is not read.
    """
    scans = at = 0
    frame, components = 0, 0
    for _ in range(_MOST_SEGMENTS):
        found = _MARKER.search(data, at)
        if found is None or data[found.start() + 1] == _EOI:
            return scans
        marker, body = data[found.start() + 1], found.end()
        if marker in _SOF:
            frame, components = marker, int.from_bytes(data[body + 7 : body + 8])
        elif marker == _SOS:
            if scans == 0:
                if frame in _SEQUENTIAL and int.from_bytes(data[body + 2 : body + 3]) == components:
                    # All components in one scan, which is the whole picture: a decoder stops behind it.
                    return 1
                # Quick, as it is no walk: a tenth of the time that decoding at an eighth of the size takes.
                marked = data.count(b"\xff\xda", found.start())
                if marked <= USUAL_SCANS:
                    return marked
            scans += 1
            if scans > MOST_SCANS:
                return scans
        at = body + int.from_bytes(data[body : body + 2])
    return MOST_SCANS + 1


def allowed_scans(pixels: int, max_pixels: int = MOST_PIXELS) -> int:
    """How many scans a JPEG may have: as many as make it no more work than one of `max_pixels` with the usual number.

    Args:
        pixels: of the picture.
        max_pixels: that any picture may have.
    """
    return min(MOST_SCANS, max(USUAL_SCANS, USUAL_SCANS * max_pixels // max(pixels, 1)))
