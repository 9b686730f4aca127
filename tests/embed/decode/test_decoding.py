"""Images decoded and prepared ahead, by processes with and without torch: the same, in order, whatever dies."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from helpers.embed_parts import draw, encode, worker_of
from helpers.slow_decoding import SLOW

from curate.embed.decode import decode_job
from curate.embed.decode.decoding import Decoding
from curate.embed.decode.prepare import Prepare
from curate.embed.model.preprocess import Preprocess

SETTINGS = [
    {"size": 32},
    {"size": (32, 48)},
    {"size": (24, 32), "resize_mode": "squash", "interpolation": "bilinear"},
    {"size": 32, "resize_mode": "longest", "fill_color": 7},
]
BROKEN = (3, 4, 11)


@pytest.fixture(scope="module")
def members():
    pictures = [encode(draw(n, (60 + n, 50)), "JPEG" if n % 2 else "PNG") for n in range(30)]
    return [(100 + n, b"no picture" if n in BROKEN else data) for n, data in enumerate(pictures)]


@pytest.fixture(scope="module")
def processes():
    decoding = Decoding(2, in_processes=True)
    yield decoding
    decoding.close()


def prepare_for(settings, *, with_measures=True, is_exact=False):
    return Prepare([Preprocess.of(one) for one in settings], [48] * len(settings), with_measures, is_exact)


def check(found, prepare, members):
    assert [row for row, _ in found] == [row for row, _ in members]
    for (_, image), (_, data) in zip(found, members, strict=True):
        wanted = prepare(data)
        if wanted is None:
            assert image is None
            continue
        for crop, expected in zip(image.crops, wanted.crops, strict=True):
            np.testing.assert_array_equal(crop, expected)
        if wanted.measures is None:
            assert image.measures is None
        else:
            np.testing.assert_array_equal(image.measures.thumbnail, wanted.measures.thumbnail)
            for name in ("brightness", "contrast", "colorfulness", "sharpness"):
                assert getattr(image.measures, name) == getattr(wanted.measures, name)


@pytest.mark.parametrize("settings", [SETTINGS, SETTINGS[:1], []], ids=["models", "model", "pixels alone"])
@pytest.mark.parametrize("is_exact", [True, False])
def test_processes_give_what_threads_do(settings, is_exact, members, processes):
    threads = Decoding(2)
    for prepare in (
        prepare_for(settings, is_exact=is_exact),
        prepare_for(settings, with_measures=False, is_exact=is_exact),
    ):
        if not settings and not prepare.with_measures:
            continue
        for decoding in (processes, threads):
            check(list(decoding.prepared(prepare, iter(members), 20)), prepare, members)
    threads.close()


def test_a_part_whose_images_are_all_broken(processes):
    broken = [(n, b"no picture") for n in range(20)]
    assert list(processes.prepared(prepare_for(SETTINGS), iter(broken), 20)) == [(n, None) for n in range(20)]
    assert list(processes.prepared(prepare_for(SETTINGS), iter([]), 20)) == []


@pytest.mark.parametrize("in_turns", [True, False])
def test_no_more_is_taken_ahead_than_was_said(in_turns, members):
    decoding = Decoding(1, in_turns=in_turns)
    taken = []

    def counted():
        for member in members:
            taken.append(member[0])
            yield member

    found = decoding.prepared(prepare_for(SETTINGS[:1]), counted(), 16)
    # Begun at once, unless images and whoever takes them work in turns.
    assert len(taken) == (0 if in_turns else 16)
    for n in range(16):
        next(found)
        assert len(taken) == (16 if in_turns else min(16 + 8 * (n // 8 + 1), len(members)))
    next(found)
    assert len(taken) == len(members)
    decoding.close()


def killed(decoding):
    """Kills the processes that decode."""
    for child in list(decoding._decoders._alive):
        os.kill(child.process.pid, signal.SIGKILL)


def test_processes_that_are_killed_cost_no_image(members):
    decoding = Decoding(2)
    prepare = prepare_for(SETTINGS[:1])
    check(list(decoding.prepared(prepare, iter(members), 64)), prepare, members)
    killed(decoding)
    found = decoding.prepared(prepare, iter(members), 16)
    first = [next(found)]
    killed(decoding)
    check([*first, *found], prepare, members)
    decoding.close()


def test_an_image_that_is_beyond_its_limits_is_one_that_cannot_be_decoded(members, monkeypatch):
    """The job is replaced: Pillow decodes no file within the other bounds for ten seconds, as far as is known."""
    monkeypatch.setattr(decode_job, "NAME", "helpers.slow_decoding:opened")
    decoding = Decoding(2)
    prepare = prepare_for(SETTINGS[:1])
    slow = [*members[:5], (200, SLOW), *members[5:]]
    check(list(decoding.prepared(prepare, iter(slow), 64)), prepare, slow)
    decoding.close()


def test_what_the_code_of_another_package_raises_ends_the_part(members, monkeypatch):
    decoding = Decoding(1)
    prepare = prepare_for(SETTINGS[:1])
    with monkeypatch.context() as patched:
        patched.setattr(Prepare, "of", lambda *_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            list(decoding.prepared(prepare, iter(members), 64))
    check(list(decoding.prepared(prepare, iter(members), 64)), prepare, members)
    decoding.close()


def test_the_processes_without_torch_import_pillow_alone():
    code = f"import sys, {decode_job.__name__}; print({{'torch', 'pyarrow', 'numpy', 'open_clip'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_worker_decodes_in_processes_to_the_same_tables(part, tiny):
    usual = part.embed(worker_of(m=tiny("vit")), "pixels", "embed-m", run="threads")
    worker = worker_of(m=tiny("vit"))
    worker._decoding.close()
    worker._decoding = Decoding(2, in_processes=True)
    found = part.embed(worker, "pixels", "embed-m", run="processes")
    assert found.keys() == usual.keys()
    for name, table in usual.items():
        assert found[name].equals(table), name
    worker._decoding.close()
