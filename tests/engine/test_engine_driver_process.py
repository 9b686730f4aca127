"""Small works run in the driver's process; everything else in an engine that only they start."""

import dataclasses

import pytest
from helpers.inline_engine import InlineEngine
from helpers.works import Silent, chain, single

from curate.engine.driver_process import DriverProcess
from curate.runs.driver import drive
from curate.store import WHOLE, Store


class Opened:
    """Opens engines, and keeps them."""

    def __init__(self):
        self.engines = []

    def __call__(self):
        self.engines.append(InlineEngine())
        return self.engines[-1]

    def ran(self):
        return [unit for engine in self.engines for unit in engine.order]


@pytest.fixture
def opened():
    return Opened()


def small(work):
    return dataclasses.replace(work, is_small=True)


def test_small_works_start_no_engine(tmp_path, opened):
    works = [small(work) for work in chain(Store(str(tmp_path)), range(3))]
    engine = DriverProcess(opened)
    assert drive(works, engine, Silent()) == {"double": {}, "add": {}}
    engine.close()
    assert [work.done() for work in works] == [{0, 1, 2}] * 2
    assert opened.engines == []


def test_a_small_work_of_parts_runs_where_the_works_before_it_run(tmp_path, opened):
    first, second = chain(Store(str(tmp_path)), range(3))
    drive([first, small(second)], DriverProcess(opened), Silent())
    assert len(opened.engines) == 1
    assert sorted(opened.ran()) == [("add", 0), ("add", 1), ("add", 2), ("double", 0), ("double", 1), ("double", 2)]


def test_a_small_whole_runs_here_even_beside_an_engine(tmp_path, opened):
    engine = DriverProcess(opened)
    drive(chain(Store(str(tmp_path / "parts")), range(2)), engine, Silent())
    before = len(opened.ran())
    whole = small(single(Store(str(tmp_path / "whole")), "double", (WHOLE,)))
    drive([whole], engine, Silent())
    assert whole.done() == {WHOLE}
    assert len(opened.ran()) == before


def test_what_fails_here_starts_again_in_a_process_of_its_own(tmp_path, opened):
    log = tmp_path / "log"
    work = small(single(Store(str(tmp_path)), "trouble", (WHOLE,), log=str(log), heal=True, **{"raise": [WHOLE]}))
    assert drive([work], DriverProcess(opened), Silent()) == {"out": {}}
    assert opened.ran() == [("out", WHOLE)]


def test_a_unit_whose_driver_died_in_it_is_not_run_in_the_driver_again(tmp_path, opened):
    work = small(single(Store(str(tmp_path)), "double", (WHOLE,)))
    work.store.put(f"{work.ledger}/attempts/all.1.json", b'{"session":"before"}')
    drive([work], DriverProcess(opened), Silent())
    assert work.done() == {WHOLE}
    assert opened.ran() == [("out", WHOLE)]
