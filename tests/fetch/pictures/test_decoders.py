"""Decoding processes normalise as the normaliser does; what ends them is a status of one picture."""

import os
import signal

import pytest
from helpers.fetch_samples import drawing, encoded, settings, with_scans
from helpers.slow_decoding import BOMB, DEADLY, FAULTY, SLOW

from curate.fetch.contract import FetchError
from curate.fetch.pictures import normalise_job
from curate.fetch.pictures.decoders import NormalisingDecoders
from curate.fetch.pictures.normalise import Normaliser
from curate.fetch.pictures.picture import Picture, Refused

PLAIN = encoded(drawing())
BODIES = {
    "unchanged": PLAIN,
    "scaled": encoded(drawing(300, 200)),
    "png": encoded(drawing(), "PNG"),
    "webp": encoded(drawing(), "WEBP"),
    "16 bits": encoded(drawing().convert("I;16"), "PNG"),
    "too many scans": with_scans(drawing(), 200),
    "too large": encoded(drawing(3000, 2000)),
    "truncated": PLAIN[: len(PLAIN) // 2],
    "a page": b"<html>",
    "nothing": b"",
}


@pytest.fixture
def decoders():
    made = NormalisingDecoders(settings(), 1)
    yield made
    made.close()


@pytest.fixture
def hostile(monkeypatch):
    monkeypatch.setattr(normalise_job, "NAME", "helpers.slow_decoding:normalising")
    made = NormalisingDecoders(settings(), 1)
    yield made
    made.close()


def ended(normalise, data):
    try:
        return normalise(data)
    except (FetchError, Refused) as error:
        return error.error_class, str(error)


def test_processes_normalise_as_the_normaliser_does(decoders):
    normalise = Normaliser(settings())
    found = {name: ended(decoders, data) for name, data in BODIES.items()}
    assert found == {name: ended(normalise, data) for name, data in BODIES.items()}
    assert found["unchanged"].data is PLAIN
    assert {result[0] for result in found.values() if isinstance(result, tuple)} == {
        "too_large",
        "undecodable",
        "not_an_image",
    }


def test_a_killed_process_costs_no_picture(decoders):
    first = decoders(PLAIN)
    for child in list(decoders._decoders._alive):
        os.kill(child.process.pid, signal.SIGKILL)
    assert decoders(PLAIN) == first


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (SLOW, "it takes more CPU time to decode than is allowed"),
        (BOMB, "it takes more memory to decode than is allowed"),
        (DEADLY, "the decoder was ended by signal 9 (Killed)"),
    ],
)
def test_what_ends_its_process_is_undecodable_and_the_next_is_stored(hostile, data, message):
    assert ended(hostile, PLAIN + data) == ("undecodable", message)
    assert hostile(PLAIN).data == PLAIN


def test_a_fault_of_curate_is_internal_and_its_traceback_is_printed(hostile, capsys):
    assert ended(hostile, PLAIN + FAULTY) == ("internal", "a fault of decoding: RuntimeError: a fault of Curate")
    assert "Traceback" in capsys.readouterr().err
    assert hostile(PLAIN).data == PLAIN


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        ["refused", "internal", "a class that decoding does not give"],
        ["refused", ["undecodable"], "text"],
        ["refused", "undecodable", 3],
        ["picture", [1, 2, 3, 4]],
        ["picture", [1, 2, 3], None],
        ["picture", [1, 2, 3, 0], None],
        ["picture", [1, 2, 3, True], None],
        ["picture", [1, 2, 3, 4.0], None],
        ["picture", [1, 2, 3, 4], 7],
        ["picture", [1, 2, 3, 4], "0" * 15],
        ["picture", [1, 2, 3, 4], "0" * 15 + "x"],
    ],
)
def test_answers_of_another_form_are_refused(value):
    with pytest.raises((ValueError, TypeError, LookupError)):
        normalise_job.read(value, [])
    assert normalise_job.read(["picture", [1, 2, 3, 4], None], [bytearray(b"x")]) == Picture(b"x", 1, 2, 3, 4)
    hashed = normalise_job.read(["picture", [1, 2, 3, 4], "0" * 16], [bytearray(b"x")])
    assert hashed == Picture(b"x", 1, 2, 3, 4, phash="0" * 16)
