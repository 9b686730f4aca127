"""Summaries of markers: what they cover is known without a listing, and they never say more than the markers."""

import json

import pytest
from helpers.inline_engine import InlineEngine
from helpers.works import Silent, chain
from hypothesis import given
from hypothesis import strategies as st

from curate import summaries
from curate.runs.driver import drive
from curate.store import WHOLE, Folder, Store
from curate.summaries import Summaries, done, markers, name


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(summaries, "BLOCK", 4)


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "run"))


def written(folder):
    """The blocks that have a summary, with the units in each."""
    found = {}
    for file in folder.store.names(f"{folder.bookkeeping}/summaries"):
        content = folder.store.read_json(f"{folder.bookkeeping}/summaries/{file}")
        found[int(file.removesuffix(".json"))] = sorted(map(int, content["markers"]))
    return found


def run(store, units, engine=None):
    works = chain(store, units)
    drive(works, engine or InlineEngine(), Silent())
    return [work.outputs[work.name].folder for work in works]


def test_every_full_block_and_the_last_one_have_a_summary(store):
    for folder in run(store, range(10)):
        assert written(folder) == {0: [0, 1, 2, 3], 1: [4, 5, 6, 7], 2: [8, 9]}
        for unit, marker in markers(folder, range(10)):
            assert marker == folder.marker(unit)


def test_a_pass_of_one_block_has_none(store):
    assert [written(folder) for folder in run(store, range(4))] == [{}, {}]


def test_what_summaries_cover_is_not_listed(store, monkeypatch):
    folders = run(store, range(10))
    listed = []
    names = Store.names

    def counting(self, folder):
        listed.append(folder)
        return names(self, folder)

    monkeypatch.setattr(Store, "names", counting)
    assert [done(folder, range(10)) for folder in folders] == [set(range(10))] * 2
    assert [path for path in listed if path.endswith("/done")] == []
    assert done(folders[0], [2, WHOLE]) == {2}


def test_a_sample_summarises_full_blocks_and_the_whole_run_the_rest(store):
    works = [work.__class__(**{**vars(work), "total": 10, "units": range(6)}) for work in chain(store, range(6))]
    drive(works, InlineEngine(), Silent())
    folder = works[1].outputs["add"].folder
    assert written(folder) == {0: [0, 1, 2, 3]}
    run(store, range(10))
    assert written(folder) == {0: [0, 1, 2, 3], 1: [4, 5, 6, 7], 2: [8, 9]}


class Stopped(InlineEngine):
    """Its driver is killed after so many results."""

    def __init__(self, results):
        super().__init__()
        self.left = results

    def wait(self, seconds):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return super().wait(seconds)


@given(st.lists(st.integers(0, 9), max_size=4), st.integers(5, 11))
def test_after_any_kills_summaries_are_those_of_a_run_without(tmp_path_factory, kills, units):
    store = Store(str(tmp_path_factory.mktemp("run")))
    for kill in kills:
        try:
            run(store, range(units), Stopped(kill))
        except KeyboardInterrupt:
            continue
    for folder in run(store, range(units)):
        assert sorted(unit for of in written(folder).values() for unit in of) == list(range(units))
        for unit, marker in markers(folder, range(units)):
            assert marker == folder.marker(unit)


def test_a_summary_lost_in_a_kill_is_written_by_the_next_command(store):
    folder, _ = run(store, range(10))
    store.delete(name(folder, 9))
    assert done(folder, range(10)) == set(range(10))
    run(store, range(10))
    assert 2 in written(folder)


def test_the_marker_that_stands_is_summarised_not_that_of_a_late_twin(store):
    folder = Folder(store, "twin", "0" * 12)
    first, late = folder.outputs(0), folder.outputs(0)
    assert first.commit().attempt == late.commit().attempt == first.attempt


def test_a_unit_that_another_driver_did_is_read(store):
    """Its worker wrote nothing, so the result carries no marker."""
    folder, _ = run(store, range(10))
    for unit in (0, 9):
        store.delete(name(folder, unit))
    summary = Summaries(folder, 10, range(9))
    summary.complete()
    assert written(folder) == {0: [0, 1, 2, 3], 1: [4, 5, 6, 7]}
    summary.add(9, None)
    assert written(folder)[2] == [8, 9]
    assert json.loads(store.read(name(folder, 9)))["markers"]["9"]["unit"] == 9
