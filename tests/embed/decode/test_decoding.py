"""Images decoded ahead, in threads and in processes: the same, in order, and nothing hangs where one dies."""

import os
import pickle
import signal

import numpy as np
import pytest
from helpers.embed_parts import draw, encode, worker_of

from curate.embed.decode.decoding import Decoding
from curate.embed.decode.prepare import Prepare
from curate.embed.decode.process import _send
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


def test_a_process_that_dies_is_an_error_and_the_next_part_has_another(members):
    decoding = Decoding(1, in_processes=True)
    prepare = prepare_for(SETTINGS[:1])
    next(decoding.prepared(prepare, iter(members[:1]), 1))
    os.kill(decoding._idle[0]._process.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="decodes images died with exit code -9"):
        list(decoding.prepared(prepare, iter(members), 64))
    check(list(decoding.prepared(prepare, iter(members), 64)), prepare, members)
    decoding.close()


def test_processes_end_with_the_worker(members):
    decoding = Decoding(1, in_processes=True)
    list(decoding.prepared(prepare_for(SETTINGS[:1]), iter(members[:1]), 1))
    process = decoding._idle[0]._process
    # As when the worker is killed: its end of the socket is gone, nobody says goodbye.
    decoding._idle[0]._socket.close()
    assert process.wait(timeout=20) == 0


def test_a_worker_that_dies_in_the_middle_leaves_no_process_and_no_traceback(members, capfd):
    decoding = Decoding(1, in_processes=True)
    list(decoding.prepared(prepare_for(SETTINGS[:1]), iter(members[:1]), 1))
    decoder = decoding._idle[0]
    # A Ctrl-C reaches every process of the terminal; this one waits for its worker's word.
    os.kill(decoder._process.pid, signal.SIGINT)
    list(decoding.prepared(prepare_for(SETTINGS[:1]), iter(members[:1]), 1))
    _send(decoder._socket, None, [pickle.dumps(prepare_for(SETTINGS)), *(data for _, data in members)])
    # With its answer unread.
    decoder._socket.close()
    assert decoder._process.wait(timeout=20) == 0
    assert capfd.readouterr().err == ""


def test_a_thread_without_a_process_starts_one(members):
    """As after two of them died at once, while the third one is at work."""
    decoding = Decoding(2, in_processes=True)
    while decoding._idle:
        decoding._idle.pop().close()
    prepare = prepare_for(SETTINGS[:1])
    check(list(decoding.prepared(prepare, iter(members), 64)), prepare, members)
    decoding.close()


def test_a_worker_decodes_in_processes_to_the_same_tables(part, tiny):
    usual = part.embed(worker_of(m=tiny("vit")), "pixels", "embed-m", run="threads")
    worker = worker_of(m=tiny("vit"))
    worker._decoding = Decoding(2, in_processes=True)
    found = part.embed(worker, "pixels", "embed-m", run="processes")
    assert found.keys() == usual.keys()
    for name, table in usual.items():
        assert found[name].equals(table), name
    worker._decoding.close()
