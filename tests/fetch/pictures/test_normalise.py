"""Pictures of every kind come out as the same picture; broken and hostile ones end with a class."""

import io
import struct
import zlib

import numpy as np
import pytest
from helpers.bounded import printed
from helpers.fetch_samples import decoded, difference, drawing, encoded, settings, with_scans
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from PIL import (
    GifImagePlugin,
    Image,
    ImageCms,
    ImageOps,
    ImageSequence,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
    features,
)

from curate import jpeg
from curate.fetch.pictures import sniff
from curate.fetch.pictures.normalise import Normaliser
from curate.fetch.pictures.picture import Refused

# As in a worker: Pillow complains of odd files in warnings too.
pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")

PLAIN = drawing()


def normalised(data, **changes):
    picture = Normaliser(settings(**changes))(data)
    image = decoded(picture.data)
    assert image.size == (picture.width, picture.height)
    assert image.mode in ("RGB", "L")
    assert not image.info.get("icc_profile")
    return image


def error_class(data, **changes):
    with pytest.raises(Refused) as error:
        Normaliser(settings(**changes))(data)
    assert str(error.value).isprintable()
    return error.value.error_class


def png_chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def layered():
    picture = PLAIN.convert("RGBA")
    alpha = np.full((64, 96), 255, np.uint8)
    alpha[:, :48] = 0
    picture.putalpha(Image.fromarray(alpha))
    white = PLAIN.copy()
    white.paste("white", (0, 0, 48, 64))
    return picture, white


KINDS = {
    "jpeg": (encoded(PLAIN, quality=95), PLAIN, 2),
    "progressive": (encoded(PLAIN, quality=95, progressive=True), PLAIN, 2),
    "grey jpeg": (encoded(PLAIN.convert("L"), quality=95), PLAIN.convert("L"), 2),
    "cmyk jpeg": (encoded(PLAIN.convert("CMYK"), quality=95), PLAIN, 3),
    "jpeg with a comment": (encoded(PLAIN, quality=95, comment=b"hello"), PLAIN, 2),
    "png": (encoded(PLAIN, "PNG"), PLAIN, 2),
    "grey png": (encoded(PLAIN.convert("L"), "PNG"), PLAIN.convert("L"), 2),
    "black and white": (encoded(PLAIN.convert("1"), "PNG"), PLAIN.convert("1"), 4),
    "palette": (encoded(PLAIN.quantize(64), "PNG"), PLAIN.quantize(64), 3),
    "alpha": (encoded(layered()[0], "PNG"), layered()[1], 3),
    "alpha webp": (encoded(layered()[0], "WEBP", lossless=True), layered()[1], 3),
    "grey and alpha": (encoded(layered()[0].convert("LA"), "PNG"), layered()[1].convert("L"), 3),
    "opaque alpha": (encoded(PLAIN.convert("RGBA"), "PNG"), PLAIN, 2),
    "webp": (encoded(PLAIN, "WEBP", quality=95), PLAIN, 3),
    "gif": (encoded(PLAIN.quantize(64), "GIF"), PLAIN.quantize(64), 3),
    "bmp": (encoded(PLAIN, "BMP"), PLAIN, 2),
    "interlaced gif": (encoded(PLAIN.quantize(64), "GIF", interlace=1), PLAIN.quantize(64), 3),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stored", ["jpg", "png", "webp"])
def test_every_kind_comes_out_right(kind, stored):
    data, expected, bound = KINDS[kind]
    image = normalised(data, format=stored)
    assert image.format == {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[stored]
    assert difference(image, expected) < bound


@pytest.mark.parametrize("value", [0, 100, 30000, 65535])
def test_sixteen_bits_are_scaled(value):
    deep = Image.fromarray(np.full((8, 8), value, np.uint16))
    image = normalised(encoded(deep, "PNG"), format="png")
    assert image.getextrema() == (round(value / 257), round(value / 257))


def test_sixteen_bit_colour_is_scaled():
    rows = b"".join(b"\0" + struct.pack(">HHH", 65535, 32768, 0) * 4 for _ in range(4))
    head = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + png_chunk(b"IDAT", zlib.compress(rows))
    image = normalised(data + png_chunk(b"IEND", b""), format="png")
    assert image.getpixel((1, 1)) == (255, 128, 0)


@pytest.mark.parametrize("clear", ["RGB", "L", "I;16", "P"])
def test_a_transparent_colour_becomes_white(clear):
    if clear == "I;16":
        data = encoded(Image.fromarray(np.full((8, 8), 4000, np.uint16)), "PNG")
        data = data[:33] + png_chunk(b"tRNS", struct.pack(">H", 4000)) + data[33:]
    else:
        colour = (9, 8, 7) if clear == "RGB" else 9
        image = Image.new(clear, (8, 8), colour)
        if clear == "P":
            image.putpalette(list(range(30)))
        data = encoded(image, "PNG", transparency=colour)
    assert normalised(data, format="png").convert("L").getextrema() == (255, 255)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("target", [128, 40])
def test_the_orientation_is_applied(orientation, kind, target):
    data = encoded(PLAIN, kind, exif=exif(orientation), quality=95)
    expected = ImageOps.exif_transpose(decoded(data)).convert("RGB")
    scale = min(1.0, target / max(expected.size))
    expected = expected.resize([round(side * scale) for side in expected.size], Image.Resampling.BOX)
    image = normalised(data, image_size=target)
    assert image.getexif().get(0x0112, 1) == 1
    assert difference(image, expected) < 3


def test_a_profile_is_turned_to_srgb():
    # A profile that swaps red and blue, made of the sRGB one.
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb
    red, blue = (swapped.index(tag) for tag in (b"rXYZ", b"bXYZ"))
    table = bytearray(swapped)
    table[red + 4 : red + 12], table[blue + 4 : blue + 12] = table[blue + 4 : blue + 12], table[red + 4 : red + 12]
    named = bytes(table).replace(b"s\0R\0G\0B", b"x\0R\0G\0B")
    data = encoded(PLAIN, "PNG", icc_profile=named)
    assert difference(normalised(data, format="png"), Image.merge("RGB", PLAIN.split()[::-1])) < 3
    assert difference(normalised(encoded(PLAIN, "PNG", icc_profile=srgb), format="png"), PLAIN) < 1


@pytest.mark.parametrize("profile", [b"", b"nonsense", b"\0" * 200])
def test_a_broken_profile_is_not_heeded(profile):
    assert difference(normalised(encoded(PLAIN, icc_profile=profile, quality=95)), PLAIN) < 2


def frame_count(data):
    return sum(1 for _ in ImageSequence.Iterator(decoded(data)))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_is_taken(kind):
    frames = [drawing(seed=seed) for seed in range(20)]
    if kind == "GIF":
        frames = [frame.quantize(64) for frame in frames]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert frame_count(data) == 20
    assert difference(normalised(data), frames[0]) < 3


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_thousands_of_frames_cost_one(kind, monkeypatch):
    frames = [drawing(16, 12, seed=seed).quantize(16) for seed in range(8)] * 375
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert frame_count(data) > 1000
    loads = []
    plugin = {"GIF": GifImagePlugin.GifImageFile, "WEBP": WebPImagePlugin.WebPImageFile}[kind]
    seek = plugin.seek

    def counted(self, frame):
        loads.append(frame)
        seek(self, frame)

    monkeypatch.setattr(plugin, "seek", counted)
    assert normalised(data).size == (16, 12)
    assert set(loads) <= {0}


def interlaced_png(picture):
    """Adam7, which Pillow reads but does not write."""
    pixels = np.asarray(picture.convert("RGB"))
    passes = [(0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1)]
    lines = [b"\0" + row.tobytes() for y, dy, x, dx in passes for row in pixels[y::dy, x::dx]]
    header = struct.pack(">IIBBBBB", picture.width, picture.height, 8, 2, 0, 0, 1)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"".join(lines))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(name, content) for name, content in chunks)


def test_an_interlaced_png_comes_out_right():
    assert difference(normalised(interlaced_png(PLAIN), format="png"), PLAIN) == 0


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_avif_is_read():
    assert difference(normalised(encoded(PLAIN, "AVIF", quality=90)), PLAIN) < 4


def test_avif_is_read_or_named():
    data = b"\0\0\0\x20ftypavif\0\0\0\0avifmif1miafMA1B" + b"\0" * 100
    assert error_class(data) in ("undecodable", "not_an_image")
    assert error_class(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 100) == "not_an_image"


@pytest.mark.parametrize("size", [(1600, 1200), (999, 1501), (513, 400), (260, 256)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_scaled_decoding_stays_near_the_full_one(size, mode):
    # A photo's spectrum: noise of many scales on the smooth drawing.
    rng = np.random.default_rng(5)
    pixels = np.asarray(drawing(*size)).astype(float)
    for step in (2, 8, 32):
        coarse = rng.normal(0, 12, (size[1] // step + 1, size[0] // step + 1))
        pixels += np.kron(coarse, np.ones((step, step)))[: size[1], : size[0], None]
    photo = Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert(mode)
    data = encoded(photo, quality=92)
    full = decoded(data)
    full = full.resize([round(side * 128 / max(size)) for side in size], Image.Resampling.BOX)
    assert difference(normalised(data, format="png"), full) < 3.0


def test_a_plain_jpeg_keeps_its_bytes_and_others_do_not():
    plain = encoded(PLAIN, quality=90)
    kept = Normaliser(settings())
    assert kept(plain).data == plain
    grey = encoded(PLAIN.convert("L"), progressive=True)
    assert kept(grey).data == grey
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    tagged = encoded(PLAIN, icc_profile=profile.replace(b"s\0R\0G\0B", b"x\0R\0G\0B"))
    for changed in (
        encoded(PLAIN, exif=exif(6)),
        encoded(PLAIN.convert("CMYK")),
        tagged,
        plain + b"PK\x03\x04 a zip archive",
        encoded(PLAIN, comment=b"x" * 60_000),
        encoded(PLAIN.resize((200, 130))),
    ):
        assert kept(changed).data != changed
        assert b"PK\x03\x04" not in kept(changed).data
        assert len(kept(changed).data) < 20_000
    assert Normaliser(settings(format="png"))(plain).data != plain


def test_the_same_bytes_give_the_same_bytes():
    for data, _, _ in KINDS.values():
        for changes in ({}, {"image_size": 40}, {"format": "webp"}):
            assert Normaliser(settings(**changes))(data) == Normaliser(settings(**changes))(data)


BOMBS = {
    "png": b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)),
    "gif": b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\0" * 20,
    "webp": b"RIFF\x40\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xfe\x3f\0" * 2 + b"\0" * 40,
    "webp lossless": b"RIFF\x40\0\0\0WEBPVP8L\x20\0\0\0\x2f" + struct.pack("<I", 0x0FFFFFFF) + b"\0" * 40,
    "webp lossy": b"RIFF\x40\0\0\0WEBPVP8 \x20\0\0\0\0\0\0\x9d\x01\x2a" + b"\xff\x3f" * 2 + b"\0" * 40,
    "bmp": b"BM" + b"\0" * 12 + struct.pack("<IiiHHI", 40, 50_000, 50_000, 1, 24, 0) + b"\0" * 40,
    "jpeg": encoded(PLAIN).replace(struct.pack(">HH", 64, 96), struct.pack(">HH", 50_000, 50_000)),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_are_refused_by_their_head(kind):
    assert error_class(BOMBS[kind]) == "too_large"


def test_scans_without_end_are_refused_undecoded(monkeypatch):
    """Half a megabyte of them took 79 s."""
    kept = Normaliser(settings())
    usual = with_scans(PLAIN, jpeg.USUAL_SCANS)
    assert kept(usual).data == usual
    more = with_scans(PLAIN, jpeg.USUAL_SCANS + 1)
    changed = kept(more)
    assert jpeg.count_scans(changed.data) == 1
    assert difference(decoded(changed.data), decoded(more)) < 3
    assert kept(with_scans(PLAIN, jpeg.MOST_SCANS)).width == 96
    large = drawing(2000, 1500)
    assert Normaliser(settings())(with_scans(large, 20)).width == 128
    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", lambda *_: pytest.fail("it was decoded"))
    assert error_class(with_scans(PLAIN, jpeg.MOST_SCANS + 1)) == "too_large"
    assert error_class(with_scans(PLAIN, 34_583)) == "too_large"
    # Four times the usual scans of three of the four million pixels that are allowed.
    assert error_class(with_scans(large, 64)) == "too_large"


def test_an_exif_of_repeated_headers_takes_no_time():
    """CVE-2026-96643: before Pillow 13.0, two megabytes of them took minutes."""
    program = """
from helpers.fetch_samples import drawing, encoded, settings
from curate.fetch.pictures.normalise import Normaliser
from curate.fetch.pictures.picture import Refused

plain = encoded(drawing())
exif = b"Exif\\0\\0" * 10_900
segment = b"\\xff\\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
try:
    print(Normaliser(settings())(plain[:2] + segment * 30 + plain[2:]).width)
except Refused as error:
    print(error.error_class)
"""
    assert printed(program) in (["96"], ["too_large"])


def test_what_resizing_would_blow_up_is_refused():
    sliver = encoded(Image.new("L", (1, 30_000)), "PNG")
    assert error_class(sliver, resize="keep_ratio", image_size=512, only_if_bigger=False) == "too_large"
    assert error_class(encoded(Image.new("L", (70_000, 2)), "PNG"), resize="no") == "too_large"
    assert error_class(encoded(Image.new("L", (17_000, 2)), "PNG"), resize="no", format="webp") == "too_large"


def test_a_text_bomb_in_a_png():
    texts = PngImagePlugin.PngInfo()
    texts.add_text("a", "x" * 50_000_000, zip=True)
    data = encoded(Image.new("L", (4, 4)), "PNG", pnginfo=texts)
    assert len(data) < 100_000
    assert error_class(data) == "undecodable"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<!DOCTYPE html><html>cat.jpg</html>",
        b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        b"%PDF-1.7",
        b"PK\x03\x04" + b"\0" * 50,
        b"\0\0\0\x18ftypmp42" + b"\0" * 50,
        b"\x1f\x8b\x08" + b"\0" * 50,
        b"II*\0" + b"\0" * 50,
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"BM is how this text begins",
        b"just words",
    ],
    ids=lambda data: repr(data[:12]),
)
def test_what_is_not_an_image(data):
    assert error_class(data) == "not_an_image"


@pytest.mark.parametrize("kind", ["jpeg", "progressive", "grey jpeg", "cmyk jpeg", "png", "webp", "gif", "bmp"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("target", [128, 40])
def test_truncated(kind, share, target):
    data = KINDS[kind][0]
    assert error_class(data[: int(len(data) * share)], image_size=target) == "undecodable"


SEEDS = [data for data, _, _ in KINDS.values()] + [
    encoded(PLAIN, exif=exif(6)),
    encoded(PLAIN, "PNG", exif=exif(8), icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
    encoded(drawing(300, 200), quality=80),
]


def mutated(rng):
    data = bytearray(SEEDS[rng.integers(len(SEEDS))])
    for _ in range(rng.integers(1, 8)):
        at = int(rng.integers(min(len(data), 200) if rng.random() < 0.5 else len(data)))
        what = rng.integers(4)
        if what == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif what == 1:
            data[at : at + 4] = rng.bytes(4)
        elif what == 2:
            del data[at : at + int(rng.integers(1, 50))]
        else:
            data[at:at] = data[: int(rng.integers(1, 50))]
        if not data:
            break
    return bytes(data)


def fuzz(rounds, seed):
    rng = np.random.default_rng(seed)
    normalise = Normaliser(settings(image_size=48))
    ended = {"stored": 0}
    for _ in range(rounds):
        data = mutated(rng)
        try:
            stored = normalise(data)
        except Refused as error:
            ended[error.error_class] = ended.get(error.error_class, 0) + 1
        else:
            assert decoded(stored.data).size == (stored.width, stored.height)
            ended["stored"] += 1
    assert sum(ended.values()) == rounds
    assert {"stored", "undecodable"} <= set(ended) <= {"stored", "not_an_image", "too_large", "undecodable"}


def test_mutated_pictures_end_with_a_class():
    fuzz(800, seed=1)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 14))
def test_mutated_pictures_end_with_a_class_for_long(seed):
    fuzz(10_000, seed)


@effort(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.sampled_from([b"", *{data[:16] for data in SEEDS}]))
def test_any_bytes_end_with_a_class(data, start):
    with pytest.raises(Refused):
        Normaliser(settings())(start + data)


@pytest.mark.parametrize("endian", ["<", ">"])
@given(st.integers(0, 20))
def test_orientations_are_read_as_pillow_reads_them(endian, value):
    tags = Image.Exif()
    tags.endian = endian
    tags[0x010F], tags[0x0112], tags[0x8298] = "maker", value, "rights"
    assert sniff.orientation(tags.tobytes()) == (value if 1 <= value <= 8 else 1)


@given(st.binary(max_size=200))
def test_broken_exif_is_upright_or_turned(data):
    for start in (b"", b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08", b"II*\0\x08\0\0\0"):
        assert sniff.orientation(start + data) in range(1, 9)


@given(st.binary(max_size=64))
def test_sniffing_never_fails(data):
    for start in (b"", b"\xff\xd8\xff", b"RIFF....WEBPVP8X", b"BM", b"\0\0\0\x20ftyp"):
        kind = sniff.kind(start + data)
        if kind:
            sniff.declared_size(start + data, kind)
        sniff.what_else(start + data)
        sniff.plain_jpeg(start + data)


@pytest.mark.parametrize("kind", ["png", "gif", "webp", "alpha webp"])
def test_declared_sizes_are_pillows(kind):
    data = KINDS[kind][0]
    assert sniff.declared_size(data, sniff.kind(data)) == Image.open(io.BytesIO(data)).size
