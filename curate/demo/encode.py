"""Encodes pictures as files: formats of the web, unusual variants of them, and files made to do harm.

Each encoding exercises one feature of the fetcher's decoding: apply an orientation, composite alpha on white, scale 16
bits, convert CMYK, expand a palette, take the first frame.
"""

import functools
import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

BOMB_SIDE = 30_000
"""Width and height of the decompression bomb, in pixels."""

_ORIENTATION = 0x0112
# The transformation of an upright picture such that a decoder that applies the tag shows it upright.
_STORED_AS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@dataclass(frozen=True, slots=True)
class Encoding:
    """A file format with its options.

    Attributes:
        extension: The file extension, with the dot.
        content_type: The Content-Type that the server sends.
        share: Weight among the encodings of its group (colour or grey).
        encode: Turns an upright RGB picture, with a random generator, into the file's bytes.
    """

    extension: str
    content_type: str
    share: float
    encode: Callable[[Image.Image, random.Random], bytes]


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def _quality(rng: random.Random) -> int:
    return rng.randint(75, 92)


def _jpeg(image: Image.Image, rng: random.Random) -> bytes:
    return _saved(image, "JPEG", quality=_quality(rng))


def _jpeg_progressive(image: Image.Image, rng: random.Random) -> bytes:
    return _saved(image, "JPEG", quality=_quality(rng), progressive=True)


def _jpeg_rotated(image: Image.Image, rng: random.Random) -> bytes:
    tag = rng.choice(tuple(_STORED_AS))
    exif = Image.Exif()
    exif[_ORIENTATION] = tag
    return _saved(image.transpose(_STORED_AS[tag]), "JPEG", quality=_quality(rng), exif=exif)


def _jpeg_cmyk(image: Image.Image, rng: random.Random) -> bytes:
    return _saved(image.convert("CMYK"), "JPEG", quality=_quality(rng))


def _jpeg_grey(image: Image.Image, rng: random.Random) -> bytes:
    return _saved(image.convert("L"), "JPEG", quality=_quality(rng))


def _palette(image: Image.Image) -> Image.Image:
    return image.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)


def _png_palette(image: Image.Image, _: random.Random) -> bytes:
    return _saved(_palette(image), "PNG", compress_level=3)


def _png_alpha(image: Image.Image, _: random.Random) -> bytes:
    # The border is transparent, and black beneath: a decoder that ignores alpha shows a black frame.
    width, height = image.size
    border = max(1, min(width, height) // 64)
    inside = (border, border, width - border - 1, height - border - 1)
    alpha = Image.new("L", image.size)
    ImageDraw.Draw(alpha).rounded_rectangle(inside, radius=2 * border, fill=255)
    framed = Image.new("RGB", image.size)
    framed.paste(image, mask=alpha)
    framed.putalpha(alpha)
    return _saved(framed, "PNG", compress_level=3)


def _png_16bit(image: Image.Image, _: random.Random) -> bytes:
    return _png(image.size, 16, 2, _deep_rows(np.asarray(image)))


def _png_grey_16bit(image: Image.Image, _: random.Random) -> bytes:
    return _png(image.size, 16, 0, _deep_rows(np.asarray(image.convert("L"))))


def _webp(image: Image.Image, rng: random.Random) -> bytes:
    return _saved(image, "WEBP", quality=_quality(rng), method=1)


def _gif(image: Image.Image, _: random.Random) -> bytes:
    return _saved(_palette(image), "GIF")


def _gif_animated(image: Image.Image, _: random.Random) -> bytes:
    # The second frame shows nothing of the caption: the caption is true of the first frame only.
    second = Image.new("RGB", image.size, (128, 128, 128))
    rest = [_palette(second)]
    return _saved(_palette(image), "GIF", save_all=True, append_images=rest, duration=500, loop=0)


COLOUR_ENCODINGS: dict[str, Encoding] = {
    "jpeg": Encoding(".jpg", "image/jpeg", 40, _jpeg),
    "jpeg_progressive": Encoding(".jpg", "image/jpeg", 14, _jpeg_progressive),
    "jpeg_rotated": Encoding(".jpeg", "image/jpeg", 10, _jpeg_rotated),
    "jpeg_cmyk": Encoding(".jpg", "image/jpeg", 3, _jpeg_cmyk),
    "png_palette": Encoding(".png", "image/png", 6, _png_palette),
    "png_alpha": Encoding(".png", "image/png", 8, _png_alpha),
    "png_16bit": Encoding(".png", "image/png", 3, _png_16bit),
    "webp": Encoding(".webp", "image/webp", 10, _webp),
    "gif": Encoding(".gif", "image/gif", 4, _gif),
    "gif_animated": Encoding(".gif", "image/gif", 2, _gif_animated),
}
GREY_ENCODINGS: dict[str, Encoding] = {
    "jpeg_grey": Encoding(".jpg", "image/jpeg", 70, _jpeg_grey),
    "png_grey_16bit": Encoding(".png", "image/png", 30, _png_grey_16bit),
}
"""Encodings for pictures without colour only, so that no caption becomes wrong by the encoding."""

ENCODINGS: dict[str, Encoding] = {**COLOUR_ENCODINGS, **GREY_ENCODINGS}


def sample_encoding(rng: random.Random, *, grey: bool) -> str:
    """Returns the name of a random encoding, weighted by the shares of its group."""
    group = GREY_ENCODINGS if grey else COLOUR_ENCODINGS
    return rng.choices(tuple(group), [encoding.share for encoding in group.values()])[0]


def low_quality(image: Image.Image, rng: random.Random) -> bytes:
    """Returns the picture as a JPEG with visible compression artefacts."""
    return _saved(image, "JPEG", quality=rng.randint(35, 55))


def truncated(data: bytes, rng: random.Random) -> bytes:
    """Returns the first 40 to 60 % of a file: its header can be read, its picture cannot be decoded to the end."""
    return data[: int(len(data) * rng.uniform(0.4, 0.6))]


@functools.cache
def bomb() -> bytes:
    """Returns a valid PNG of about 110 KB whose picture is black and has 900 megapixels; takes half a second."""
    row = bytes(1 + BOMB_SIDE // 8)
    return _png((BOMB_SIDE, BOMB_SIDE), 1, 0, (row * 1000 for _ in range(BOMB_SIDE // 1000)), level=9)


def _deep_rows(pixels: np.ndarray) -> Iterator[bytes]:
    deep = pixels.reshape(len(pixels), -1).astype(">u2") * np.uint16(257)
    filter_none = np.zeros((len(pixels), 1), np.uint8)
    yield np.hstack([filter_none, deep.astype(">u2").view(np.uint8)]).tobytes()


def _png(size: tuple[int, int], depth: int, colour: int, rows: Iterator[bytes], level: int = 3) -> bytes:
    """Returns a PNG; Pillow can write neither 16-bit RGB nor a picture row by row, without holding it in memory."""
    deflate = zlib.compressobj(level)
    packed = b"".join(deflate.compress(chunk) for chunk in rows) + deflate.flush()
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
