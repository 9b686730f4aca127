"""Reads file type, declared size and orientation from the first bytes of a file, before anything decodes it.

Pillow is then given the one decoder for that type. Sizes are read here for the types whose Pillow decoder allocates
memory by the declared size while opening.
"""

import struct

_IMAGES = {
    b"\xff\xd8\xff": "jpeg",
    b"\x89PNG\r\n\x1a\n": "png",
    b"GIF87a": "gif",
    b"GIF89a": "gif",
}
# Types that are named in the message where the bytes are not an image of a supported type.
_OTHERS = {
    b"%PDF": "a PDF",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "gzip",
    b"II*\0": "a TIFF, which is not supported",
    b"MM\0*": "a TIFF, which is not supported",
    b"\0\0\1\0": "an icon, which is not supported",
    b"\x1aE\xdf\xa3": "a video",
    b"8BPS": "a Photoshop file, which is not supported",
    b"\xff\x0a": "a JPEG XL, which is not supported",
    b"\0\0\0\x0cJXL ": "a JPEG XL, which is not supported",
}
_BMP_HEADS = frozenset({12, 40, 52, 56, 64, 108, 124})
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"})


def kind(data: bytes) -> str | None:
    """Returns the file type: `jpeg`, `png`, `gif`, `webp`, `bmp` or `avif`; None for everything else."""
    for magic, name in _IMAGES.items():
        if data.startswith(magic):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[4:8] == b"ftyp" and b"avif" in _brands(data):
        return "avif"
    if data[:2] == b"BM" and len(data) > 18 and struct.unpack_from("<I", data, 14)[0] in _BMP_HEADS:
        return "bmp"
    return None


def what_else(data: bytes) -> str:
    """Returns a description of bytes that are not an image of a supported type."""
    if not data:
        return "no bytes"
    for magic, name in _OTHERS.items():
        if data.startswith(magic):
            return name
    if data[4:8] == b"ftyp":
        return "HEIC, which is not supported" if _HEIF_BRANDS & set(_brands(data)) else "a video"
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in head:
        return "an SVG, which is not supported"
    if head.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<script", b"<!--")):
        return "a web page"
    return "not a known image format"


def declared_size(data: bytes, kind: str) -> tuple[int, int] | None:
    """Returns the declared width and height of a png, gif or webp; None for other types and for broken headers."""
    try:
        if kind == "png" and data[12:16] == b"IHDR":
            width, height = struct.unpack_from(">II", data, 16)
            return width, height
        if kind == "gif":
            width, height = struct.unpack_from("<HH", data, 6)
            return width, height
        if kind == "webp":
            return _webp_size(data)
    except struct.error:
        pass
    return None


def plain_jpeg(data: bytes) -> bool:
    """Returns whether all decoders read a JPEG alike: 8 bits, Huffman, baseline to progressive, complete to its end."""
    at = 2
    while at + 5 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in (0xC0, 0xC1, 0xC2):
            return data[at + 4] == 8 and data.endswith(b"\xff\xd9")
        if marker == 0xFF:  # a fill byte
            at += 1
        elif 0xE0 <= marker <= 0xFE or marker in (0xDB, 0xC4, 0xDD):
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        else:
            return False
    return False


def orientation(exif: bytes) -> int:
    """Returns the EXIF orientation, 1 to 8, or 1 where there is none. No other tag is read, so none can do harm."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, at)
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind, values, value = struct.unpack_from(f"{order}HHIH", tiff, entry)
            if (tag, kind, values) == (0x0112, 3, 1):
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _brands(data: bytes) -> list[bytes]:
    size = min(int.from_bytes(data[:4], "big"), 256)
    return [data[8:12], *(data[at : at + 4] for at in range(16, min(size, len(data)), 4))]


def _webp_size(data: bytes) -> tuple[int, int] | None:
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8L" and data[20:21] == b"\x2f":
        bits = struct.unpack_from("<I", data, 21)[0]
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None
