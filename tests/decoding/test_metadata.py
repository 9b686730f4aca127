"""Metadata is bounded before Pillow reads it: honest files pass, made ones are refused quickly."""

import io
import struct
import time
import zlib

import pytest
from helpers.fetch_samples import drawing, encoded, settings
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from curate.decoding.images import decode
from curate.decoding.metadata import MOST_BLOCKS, MOST_CHUNKS, MOST_EXIF, MOST_FILL, MOST_SEGMENTS, excess
from curate.fetch.pictures.normalise import Normaliser
from curate.fetch.pictures.picture import Refused
from curate.report.thumbnail import thumb

PLAIN = drawing()
JPEG, PNG, GIF = (encoded(PLAIN, kind) for kind in ("JPEG", "PNG", "GIF"))
FIRST_GIF_BLOCK = 13 + (3 << (GIF[10] & 7) + 1)


def segment(content, marker=0xE1):
    return bytes([0xFF, marker]) + struct.pack(">H", 2 + len(content)) + content


def chunk(name, content=b""):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def jpeg(*more):
    return JPEG[:2] + b"".join(more) + JPEG[2:]


def png(chunks):
    return PNG[:33] + chunks + PNG[33:]


def gif(blocks):
    return GIF[:FIRST_GIF_BLOCK] + blocks + GIF[FIRST_GIF_BLOCK:]


def honest():
    tags = Image.Exif()
    tags[0x010F], tags[0x9286] = "maker", b"x" * 60_000
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    texts = PngImagePlugin.PngInfo()
    for number in range(100):
        texts.add_text(f"text {number}", "value", zip=True)
    noise = Image.effect_noise((600, 400), 90).convert("RGB")
    frames = [PLAIN.quantize(16), drawing(seed=1).quantize(16)]
    return {
        "jpeg": JPEG,
        "progressive": encoded(PLAIN, progressive=True, exif=tags, icc_profile=profile, comment=b"hello"),
        "profile of many segments": encoded(PLAIN, icc_profile=profile * 4000),
        "extended xmp": jpeg(segment(b"http://ns.adobe.com/xmp/extension/\0" + b"x" * 60_000) * 300),
        "png": encoded(noise, "PNG", exif=tags, icc_profile=profile, pnginfo=texts),
        "gif": encoded(frames[0], "GIF", comment=b"x" * 2000, save_all=True, append_images=frames[1:]),
        "gif with xmp": gif(b"!\xff\x0bXMP DataXMP" + (b"\xfe" + b"x" * 254) * 2000 + b"\0"),
        "webp": encoded(PLAIN, "WEBP", exif=tags),
    }


@pytest.mark.parametrize("kind", honest())
def test_honest_files_pass(kind):
    data = honest()[kind]
    Image.open(io.BytesIO(data)).load()
    assert excess(data) is None
    assert Normaliser(settings(max_bytes=1 << 30))(data).width


MADE = {
    "exif of two bytes": (jpeg(segment(b"Exif\0\0ab") * 400_000), "segments of metadata"),
    "exif of full segments": (jpeg(segment(b"Exif\0\0" + b"x" * 65_000) * 60), "bytes of Exif"),
    "comments": (jpeg(segment(b"", 0xFE) * (MOST_SEGMENTS + 1)), "segments of metadata"),
    "fill bytes": (jpeg(b"\xff" * 4_000_000), "bytes between segments"),
    "starts of an image": (jpeg(b"\xff\xd8" * 2_000_000), "bytes between segments"),
    "rubbish": (jpeg(segment(b"", 0xFE) + b"r" * 4_000_000), "bytes between segments"),
    "texts": (png(chunk(b"tEXt", b"a\0") * 300_000), "chunks"),
    "empty pixels": (PNG[:-12] + chunk(b"IDAT") * 300_000 + PNG[-12:], "chunks"),
    "blocks": (gif(b"!\xfe" + b"\x01x" * 2_000_000 + b"\0"), "blocks of metadata"),
    "extensions": (gif(b"!\xfe\0" * 1_000_000), "blocks of metadata"),
    "bytes between blocks": (gif(b"\0" * 4_000_000), "blocks of metadata"),
}


@pytest.mark.parametrize("kind", MADE)
def test_made_files_are_refused_before_pillow_opens_them(kind, monkeypatch):
    data, what = MADE[kind]
    started = time.process_time()
    assert what in (excess(data) or "")
    assert time.process_time() - started < 0.5
    monkeypatch.setattr(io, "BytesIO", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(Refused, match=what) as error:
        Normaliser(settings())(data)
    assert error.value.error_class == "too_large"
    assert decode(data) is None
    assert thumb(data) is None


def test_the_bounds_are_where_they_are_said_to_be():
    before = JPEG[: JPEG.index(b"\xff\xda")].count(b"\xff") - 1
    room = MOST_SEGMENTS - 1 - before
    assert excess(jpeg(segment(b"", 0xFE) * room)) is None
    assert excess(jpeg(segment(b"", 0xFE) * (room + 1)))
    exif = segment(b"Exif\0\0" + b"x" * (MOST_EXIF // 2 - 9))
    assert excess(jpeg(exif * 2)) is None
    assert excess(jpeg(exif * 2, segment(b"Exif\0\0")))
    assert excess(jpeg(b"\xff" * MOST_FILL)) is None
    assert excess(jpeg(b"\xff" * (MOST_FILL + 1)))
    assert excess(PNG[:8] + chunk(b"tEXt") * MOST_CHUNKS) is None
    assert excess(PNG[:8] + chunk(b"tEXt") * (MOST_CHUNKS + 1))
    assert excess(gif(b"\0" * (MOST_BLOCKS - 1))) is None
    assert excess(gif(b"\0" * MOST_BLOCKS))


@given(st.binary(max_size=300), st.integers(0, 600))
def test_any_bytes_are_looked_at(noise, at):
    for data in (JPEG, PNG, GIF, b""):
        excess(data[:at] + noise + data[at:])
        excess(data[:20] + noise)
