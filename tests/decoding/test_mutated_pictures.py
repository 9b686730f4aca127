"""Mutated pictures in every format of the demo: each ends with a status, the same one twice, and no process is lost."""

import hashlib
import random

import numpy as np
import pytest
from helpers.fetch_samples import settings

from curate.decoding.pool import Decoders, Lost
from curate.demo.encode import ENCODINGS
from curate.demo.scenes import draw_scene, sample_scene
from curate.embed.decode import decode_job
from curate.fetch.contract import FetchError
from curate.fetch.pictures.decoders import NormalisingDecoders
from curate.report import thumbnail

SOUGHT = {"stored", "not_an_image", "too_large", "undecodable"}


def seeds():
    """A picture of each of the demo's encodings, in two sizes."""
    rng = random.Random(0)
    made = []
    for encoding in ENCODINGS.values():
        for side in (60, 200):
            picture = draw_scene(sample_scene(rng), (side, side))
            made.append(encoding.encode(picture, rng))
    return made


def mutated(data, rng):
    """Bits flipped, bytes replaced, cut out, repeated or swapped, in the header half of the time."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 10)):
        if not changed:
            break
        end = min(len(changed), 300) if rng.random() < 0.5 else len(changed)
        at, size = int(rng.integers(end)), int(rng.integers(1, 60))
        match rng.integers(6):
            case 0:
                changed[at] ^= 1 << int(rng.integers(8))
            case 1:
                changed[at : at + 4] = rng.bytes(4)
            case 2:
                changed[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"])
            case 3:
                del changed[at : at + size]
            case 4:
                changed[at:at] = changed[at : at + size] * int(rng.integers(1, 200))
            case _:
                other = int(rng.integers(len(changed)))
                changed[at : at + size], changed[other : other + size] = (
                    changed[other : other + size],
                    changed[at : at + size],
                )
    return bytes(changed)


def statuses(normalise, pictures):
    found: list[tuple[str, ...]] = []
    stored = []
    for data in pictures:
        try:
            picture = normalise(data)
        except FetchError as error:
            found.append((error.error_class, str(error)))
        else:
            found.append(("stored", hashlib.sha256(picture.data).hexdigest()))
            stored.append(picture.data)
    return found, stored


def survived(count, seed, capfd):
    rng = np.random.default_rng(seed)
    originals = seeds()
    pictures = [mutated(originals[rng.integers(len(originals))], rng) for _ in range(count)]
    normalise = NormalisingDecoders(settings(max_pixels=20_000_000), 1)
    first, stored = statuses(normalise, pictures)
    processes = {child.process.pid for child in normalise._decoders._alive}
    # In another order, so that what a picture leaves behind in its process would show.
    again, _ = statuses(normalise, pictures[::-1])
    assert again[::-1] == first
    # A mutation may kill a decoder; most do not.
    assert len(processes) == 1
    normalise.close()
    assert len(first) == count
    assert {"stored", "undecodable"} <= {status[0] for status in first} <= SOUGHT
    with Decoders(decode_job.NAME, 1) as decoders:
        # Also the mutated ones, as the bytes of an older version's pictures would be.
        results = list(decoders.each(decode_job.parameters([448, None]), pictures, decode_job.read))
        kept = list(decoders.each(decode_job.parameters([448, None]), stored, decode_job.read))
    assert len(results) == count
    assert all(kept)
    assert not any(isinstance(one, Lost) for one in kept)
    with Decoders(thumbnail.NAME, 1) as decoders:
        assert len(list(decoders.each(b"", pictures, thumbnail.read))) == count
        assert all(decoders.each(b"", stored, thumbnail.read))
    assert "Traceback" not in capfd.readouterr().err


def test_mutated_pictures_end_with_the_same_status_twice(capfd):
    survived(200, 1, capfd)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 12))
def test_ten_thousand_mutated_pictures_end_with_the_same_status_twice(seed, capfd, soak_figures):
    survived(1000, seed, capfd)
    soak_figures["pictures"] += 1000
