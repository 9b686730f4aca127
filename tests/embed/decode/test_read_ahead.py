"""A part is read while the one before it is computed: within a bound, and without doing it harm."""

import dataclasses
import threading

import pytest
from helpers.embed_parts import Part, draw, encode, worker_of

from curate.embed.decode import read_ahead as reading
from curate.embed.decode.read_ahead import Reading
from curate.errors import BrokenResult
from curate.store import Folder


@pytest.fixture
def two(tmp_path):
    """Two parts of one run."""
    return [
        Part(tmp_path / "run", [(encode(draw(10 * part + i)), [f"number {i}", "a cat"]) for i in range(5)], part)
        for part in (3, 4)
    ]


def wait_for_reader(worker):
    """Reading is done by one thread, in order."""
    worker._reader.submit(lambda: None).result()
    # What that one began in turn.
    worker._reader.submit(lambda: None).result()


def embed(worker, part, run, following=None):
    folders = {name: Folder(part.store, f"{name}-{run}", "x") for name in ("pixels", "embed-m")}
    outputs = {name: folder.outputs(part.part) for name, folder in folders.items()}
    worker(part.part, part.inputs, outputs, following)
    return {
        (name, role): part.store.read(f"{folders[name].path}/{info.name}")
        for name, output in outputs.items()
        for role, info in output.files.items()
    }


def remove_tar(part):
    part.store.delete(part.folders["fetch"].file("images.tar", part.part))


def test_the_next_part_is_in_memory_before_it_is_asked_for(two, tiny):
    first, second = two
    alone = embed(worker_of(m=tiny("vit")), second, "alone")
    worker = worker_of(m=tiny("vit"))
    embed(worker, first, "ahead", following=4)
    wait_for_reader(worker)
    remove_tar(second)
    assert embed(worker, second, "ahead") == alone


def test_the_next_parts_captions_are_tokenized_before_it_is_asked_for(two, tiny):
    worker = worker_of(m=tiny("vit"))
    model, size = worker._model("m")
    by = []

    def noted(captions):
        by.append((len(captions), threading.current_thread().name.partition("_")[0]))
        return model.tokenize(captions)

    worker._loaded["m"] = dataclasses.replace(model, tokenize=noted), size
    first, second = two
    embed(worker, first, "a", following=4)
    wait_for_reader(worker)
    # Five numbers, and the cat that is said of each.
    assert by == [(6, "read"), (6, "read")]
    embed(worker, second, "a")
    assert len(by) == 2


def test_no_more_is_read_ahead_than_the_bound(two, tiny, monkeypatch):
    monkeypatch.setattr(reading, "_CHUNK", 1)
    monkeypatch.setattr(reading, "_CHUNKS", 2)
    read = []
    real = reading.read_all

    def counted(fetch, part, images):
        for member in real(fetch, part, images):
            read.append(part)
            yield member

    monkeypatch.setattr(reading, "read_all", counted)
    first, second = two
    worker = worker_of(m=tiny("vit"))
    embed(worker, first, "a", following=4)
    wait_for_reader(worker)
    assert (read.count(3), read.count(4)) == (5, 2)
    embed(worker, second, "a")
    assert (read.count(3), read.count(4)) == (5, 5)


def test_a_wrong_guess_costs_nothing_but_the_reading(two, tiny):
    first, second = two
    alone = embed(worker_of(m=tiny("vit")), first, "alone")
    worker = worker_of(m=tiny("vit"))
    embed(worker, second, "a", following=77)
    assert embed(worker, first, "a", following=4) == alone
    # Begun again, as after a failure.
    assert embed(worker, first, "b") == alone


def test_what_is_wrong_with_the_next_part_is_its_own_failure(two, tiny):
    first, second = two
    worker = worker_of(m=tiny("vit"))
    name = second.folders["fetch"].file("images.tar", 4)
    whole = second.store.read(name)
    second.store.put(name, whole[:1500])
    embed(worker, first, "a", following=4)
    with pytest.raises(BrokenResult, match=r"images/000004\.\w+\.tar"):
        embed(worker, second, "a", following=3)
    second.store.put(name, whole)
    assert embed(worker, second, "b") == embed(worker_of(m=tiny("vit")), second, "alone")
    assert embed(worker, first, "b") == embed(worker, first, "c")


def test_a_reading_that_was_closed_reads_no_more(two, tiny):
    worker, part = worker_of(m=tiny("vit")), two[0]
    coming = Reading(3, part.inputs, worker._reader, worker._tokenize)
    coming.close()
    coming.begin()
    wait_for_reader(worker)
    assert coming._tables is None
    begun = Reading(3, part.inputs, worker._reader, worker._tokenize)
    begun.begin()
    members = begun.members()
    next(members)
    begun.close()
    wait_for_reader(worker)
    assert list(begun._members) == []
    assert not begun._chunks
