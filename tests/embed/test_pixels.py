import imagehash
import numpy as np
import pytest
import scipy.fft
from helpers.embed_parts import draw, encode
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from curate.decoding.images import decode
from curate.embed.pixels.basic import measure
from curate.phash import perceptual_hashes


@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 80), st.integers(1, 80)),
    st.sampled_from(["RGB", "L", "P", "1"]),
)
def test_hashes_are_those_of_imagehash(seed, size, mode):
    image = draw(seed, size).convert(mode).convert("RGB")
    thumbnail = measure(image).thumbnail
    # Where a frequency meets the median, rounding decides the bits of imagehash.
    low = scipy.fft.dctn(thumbnail.astype(float))[:8, :8]
    assume(abs(low - np.median(low)).min() > 1e-6)
    assert perceptual_hashes(thumbnail[None]) == [str(imagehash.phash(image))]


@pytest.mark.parametrize("level", [0, 1, 127, 255])
def test_a_blank_picture_has_one_hash_and_no_contrast(level):
    measures = measure(Image.new("RGB", (300, 200), (level, level, level)))
    assert (measures.brightness, measures.contrast) == (level, 0)
    assert (measures.colorfulness, measures.sharpness) == (0, 0)
    assert perceptual_hashes(measures.thumbnail[None]) == ["8" + "0" * 15 if level else "0" * 16]


@given(st.integers(0, 2**32 - 1), st.tuples(st.integers(1, 600), st.integers(1, 600)))
def test_measures_are_those_of_their_formulas(seed, size):
    image = draw(seed, size)
    found = measure(image)
    luma = np.asarray(image.convert("L"), np.float64)
    assert found.brightness == pytest.approx(luma.mean())
    assert found.contrast == pytest.approx(luma.std(), abs=1e-9)
    colours = image.reduce(factor) if (factor := min(size) // 128) > 1 else image
    r, g, b = np.moveaxis(np.asarray(colours, np.float64), 2, 0)
    rg, yb = r - g, (r + g) / 2 - b
    m3 = np.sqrt(rg.std() ** 2 + yb.std() ** 2) + 0.3 * np.sqrt(rg.mean() ** 2 + yb.mean() ** 2)
    assert found.colorfulness == pytest.approx(m3)
    y = np.asarray(image.convert("L").resize((224, 224), Image.Resampling.BILINEAR), np.float64)
    rows, columns = np.diff(y, 2, axis=0)[:, 1:-1], np.diff(y, 2, axis=1)[1:-1]
    assert found.sharpness == pytest.approx((rows + columns).var())


@given(st.binary(max_size=200))
def test_bytes_that_are_no_picture_are_none(data):
    assert decode(data) is None


@given(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "TIFF"]), st.floats(0, 1), st.integers(0, 255))
def test_a_damaged_file_is_a_picture_or_none(kind, at, byte):
    data = bytearray(encode(draw(1), kind))
    data[int(at * (len(data) - 1))] = byte
    assert decode(bytes(data)) is None or decode(bytes(data)).size
    assert decode(bytes(data[: len(data) // 2])) is None


@given(st.floats(0, 1), st.integers(0, 255), st.booleans())
def test_a_damaged_jpeg_decodes_reduced_exactly_where_it_decodes_whole(at, byte, is_cut):
    data = bytearray(encode(draw(1, (920, 900)), "JPEG"))
    place = int(at * (len(data) - 1))
    data[place] = byte
    if is_cut:
        del data[place:]
    whole, reduced = decode(bytes(data)), decode(bytes(data), 448)
    assert (whole is None) == (reduced is None)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_large_pictures_are_measured_at_a_bounded_size(kind):
    data = encode(draw(3, (2000, 1900)), kind)
    found = measure(decode(data, 448))
    small = decode(data, 448) if kind == "JPEG" else decode(data).reduce(4)
    assert min(small.size) == 475
    luma = np.asarray(small.convert("L"), np.float64)
    assert (found.brightness, found.contrast) == pytest.approx((luma.mean(), luma.std()))
    assert perceptual_hashes(found.thumbnail[None]) == [str(imagehash.phash(small))]
