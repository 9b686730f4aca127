"""Pictures that look like a listed one are refused; the hash is the one of the column `phash`."""

import re

import numpy as np
import pytest
from helpers.embed_parts import draw
from helpers.fetch_samples import decoded, encoded, settings
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from curate import phash
from curate.decoding.images import REDUCED, decode
from curate.embed.pixels.basic import measure
from curate.errors import RecipeError
from curate.fetch.contract import FetchError
from curate.fetch.pictures.decoders import NormalisingDecoders
from curate.fetch.pictures.normalise import Normaliser
from curate.fetch.pictures.phash_blocklist import PhashBlocklist, read

LARGE = {"image_size": 1000, "max_bytes": 10**7}
ORIGINAL = draw(1, (640, 480))


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=50), st.integers(0, 2**64 - 1), st.integers(0, 64))
def test_the_nearest_hash_decides(hashes, own, within):
    found = PhashBlocklist(np.array(hashes, np.uint64), within).near(f"{own:016x}")
    least = min((own ^ listed).bit_count() for listed in hashes)
    assert (found is not None) == (least <= within)
    if found:
        own_digits, bits, digits = re.fullmatch(
            r"phash ([0-9a-f]{16}) differs in (\d+) bits from ([0-9a-f]{16}) of a blocklist", found
        ).groups()
        assert own_digits == f"{own:016x}"
        assert int(digits, 16) in hashes
        assert (own ^ int(digits, 16)).bit_count() == int(bits) == least


def test_the_fingerprint_is_of_the_content(tmp_path):
    (tmp_path / "a").write_text("# known\n00000000000000ff\n\nFFFFFFFFFFFFFFFF x.jpg # why\n")
    (tmp_path / "b").write_text("ffffffffffffffff\n")
    (tmp_path / "c").write_text("00000000000000ff\n00000000000000ff\n")
    whole = read([str(tmp_path / "a")], 4)
    assert whole.near("00000000000000fe")
    assert whole.fingerprint == read([str(tmp_path / "b"), str(tmp_path / "c")], 4).fingerprint
    assert whole.fingerprint != read([str(tmp_path / "a")], 3).fingerprint
    assert whole.fingerprint != read([str(tmp_path / "b")], 4).fingerprint
    assert read([], 4).fingerprint == PhashBlocklist().fingerprint == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"abc\n", "line 1: not a hash of 64 bits, 16 hex digits"),
        (b"\n" + b"0" * 15 + b"g\n", "line 2: not a hash"),
        (b"0" * 64, "line 1: not a hash"),
        (b"", "has no hash"),
        (b"# none yet\n", "has no hash"),
        (b"\xff\xfe", "cannot be read"),
        (None, "No such file"),
    ],
)
def test_a_list_that_is_none(tmp_path, content, message):
    path = tmp_path / "list"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecipeError, match=rf"^fetch\.phash_blocklists: .*{message}") as caught:
        read([str(path)], 4)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("format_", ["jpg", "png", "webp"])
@pytest.mark.parametrize("size", [(64, 48), (640, 480), (2000, 1900)])
def test_the_hash_is_that_of_the_column(format_, size):
    """A stored JPEG is decoded reduced, a large PNG shrunk; a small JPEG is stored unchanged."""
    received = encoded(draw(2, size), quality=90)
    picture = Normaliser(settings(format=format_, **LARGE))(received)
    column = phash.perceptual_hashes(measure(decode(picture.data, REDUCED)).thumbnail[None])[0]
    everything = PhashBlocklist(np.zeros(1, np.uint64), 64)
    decoders = NormalisingDecoders(settings(format=format_, **LARGE), 1, everything)
    try:
        with pytest.raises(FetchError, match=f"^phash {column} differs") as refused:
            decoders(received)
    finally:
        decoders.close()
    assert refused.value.error_class == "blocked_phash"


def test_copies_are_refused_and_other_pictures_stay():
    original = Normaliser(settings(**LARGE))(encoded(ORIGINAL, quality=95))
    listed = PhashBlocklist(np.array([int(phash.of_stored(original.data), 16)], np.uint64), 4)
    decoders = NormalisingDecoders(settings(**LARGE), 1, listed)
    copies = {
        "encoded again": encoded(ORIGINAL, quality=70),
        "another format": encoded(ORIGINAL, "WEBP", quality=80),
        "resized": encoded(ORIGINAL.resize((320, 240), Image.Resampling.LANCZOS), quality=90),
        "grey": encoded(ORIGINAL.convert("L"), quality=90),
    }
    try:
        for name, data in copies.items():
            with pytest.raises(FetchError, match="of a blocklist") as refused:
                decoders(data)
            assert refused.value.error_class == "blocked_phash", name
        other = encoded(draw(7, (640, 480)), quality=90)
        assert decoders(other).data == Normaliser(settings(**LARGE))(other).data
        assert decoded(decoders(other).data).size == (640, 480)
    finally:
        decoders.close()


def test_hashes_are_computed_only_where_some_are_listed():
    decoders = NormalisingDecoders(settings(), 1)
    try:
        assert decoders(encoded(ORIGINAL)).phash is None
    finally:
        decoders.close()
