"""Scans are counted without decoding: of honest files exactly, of made ones quickly."""

import io
import time

import pytest
from helpers.fetch_samples import drawing, encoded, with_scans
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, JpegImagePlugin

from curate.decoding.images import decode
from curate.jpeg import MOST_PIXELS, MOST_SCANS, USUAL_SCANS, allowed_scans, count_scans
from curate.report.thumbnail import thumb

PLAIN = drawing(96, 64)
SEGMENT = b"\xff\xe4\x00\x06\xff\xda\xff\xda"
"""Metadata that looks like two scans."""


def rewritten(data, segment):
    """The same picture with a segment before every scan."""
    return data.replace(b"\xff\xda", segment + b"\xff\xda")


@pytest.mark.parametrize(
    ("data", "scans"),
    [
        (encoded(PLAIN), 1),
        (encoded(PLAIN, restart_marker_blocks=1), 1),
        (encoded(PLAIN, comment=b"\xff\xda" * 1000), 1),
        (encoded(PLAIN.convert("CMYK")), 1),
        (encoded(PLAIN.convert("L"), progressive=True), 6),
        (encoded(PLAIN, progressive=True), 10),
        (encoded(PLAIN, progressive=True, comment=b"\xff\xda" * 1000), 10),
        (encoded(PLAIN, progressive=True, restart_marker_blocks=1), 10),
        (encoded(PLAIN, progressive=True) + encoded(PLAIN, progressive=True) * 3, 10),
        (rewritten(encoded(PLAIN, progressive=True), SEGMENT), 10),
        (with_scans(PLAIN, 50), 50),
        (rewritten(with_scans(PLAIN, 50), b"\xff\xff\xff"), 50),
        (rewritten(with_scans(PLAIN, 50), b"rubbish\xff\x00"), 50),
        (with_scans(PLAIN, MOST_SCANS), MOST_SCANS),
        (with_scans(PLAIN, MOST_SCANS + 1), MOST_SCANS + 1),
        (with_scans(PLAIN, 40_000), MOST_SCANS + 1),
        # Metadata without end before the first scan.
        (b"\xff\xd8" + b"\xff\xfe\x00\x02" * 100_000, MOST_SCANS + 1),
    ],
)
def test_scans_are_counted(data, scans):
    started = time.process_time()
    assert count_scans(data) == scans
    assert time.process_time() - started < 0.5


def test_every_file_that_is_made_here_is_one_to_a_decoder():
    """So that the counts above are of what a decoder does."""
    for data in (with_scans(PLAIN, 50), rewritten(with_scans(PLAIN, 50), b"\xff\xff\xff"), with_scans(PLAIN, 101)):
        Image.open(io.BytesIO(data)).load()


@given(st.binary(max_size=300), st.integers(0, 600))
def test_any_bytes_are_counted(noise, at):
    data = encoded(PLAIN, progressive=True)
    assert 0 <= count_scans(noise) <= MOST_SCANS + 1
    assert 0 <= count_scans(data[:at] + noise + data[at:]) <= MOST_SCANS + 1


@pytest.mark.parametrize(
    ("pixels", "allowed"),
    [(1, MOST_SCANS), (1_000_000, MOST_SCANS), (50_000_000, 2 * USUAL_SCANS), (100_000_000, USUAL_SCANS), (10**9, 16)],
)
def test_large_pictures_may_have_fewer(pixels, allowed):
    assert allowed_scans(pixels, MOST_PIXELS) == allowed


@pytest.mark.parametrize("reader", [decode, thumb])
def test_readers_of_stored_pictures_refuse_them_undecoded(reader, monkeypatch):
    assert reader(with_scans(PLAIN, USUAL_SCANS)) is not None

    def load(*_):
        raise AssertionError("it was decoded")

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", load)
    assert reader(with_scans(PLAIN, 40_000)) is None
