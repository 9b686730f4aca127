import itertools
import re
from collections import Counter

import pytest
from helpers.inline_engine import InlineEngine
from helpers.works import Silent, chain, reading_ahead, single, told
from hypothesis import given
from hypothesis import strategies as st

from curate.engine.local import LocalEngine
from curate.errors import IdentityError, RecipeError, RunIncomplete
from curate.runs import heartbeat
from curate.runs.driver import drive
from curate.runs.identity import check_identity, claim
from curate.runs.passes import Declaration, Pass
from curate.runs.work import UnitResult, Work
from curate.store import WHOLE, Inputs, Store


class Killed(InlineEngine):
    """An engine whose driver is killed after some results: the attempts of what was under way stay behind."""

    def __init__(self, after):
        super().__init__()
        self.after = after

    def wait(self, seconds):
        if self.after == 0:
            for name, unit, start in self.queue:
                work = self.runners[name].work
                work.store.put(f"{work.ledger}/attempts/{unit:06d}.{start}.json", b'{"session": "killed"}')
            raise KeyboardInterrupt
        self.after -= 1
        return super().wait(seconds)


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "run"))


def test_every_unit_is_done_once_and_a_chain_streams(store):
    engine = InlineEngine()
    works = chain(store, range(6))
    assert drive(works, engine, Silent()) == {"double": {}, "add": {}}
    assert Counter(engine.order) == Counter((name, unit) for name in ("double", "add") for unit in range(6))
    folder = works[1].outputs["add"].folder
    assert [folder.table("n.parquet", unit)["n"][0].as_py() for unit in range(6)] == [1, 3, 5, 7, 9, 11]
    assert engine.order.index(("add", 0)) < engine.order.index(("double", 5)), "add waited for all of double"
    assert engine.finished == ["double", "add"]
    assert store.names(f"{works[0].ledger}/attempts") == []


def test_what_is_done_is_not_done_again(store):
    drive(chain(store, range(3)), InlineEngine(), Silent())
    engine = InlineEngine()
    drive(chain(store, range(5)), engine, Silent())
    assert sorted(engine.order) == [("add", 3), ("add", 4), ("double", 3), ("double", 4)]


@given(st.lists(st.integers(0, 12), min_size=1, max_size=6), st.integers(1, 6))
def test_killed_anywhere_any_number_of_times_it_finishes(tmp_path_factory, kills, n):
    store = Store(str(tmp_path_factory.mktemp("run")))
    for after in kills:
        try:
            drive(chain(store, range(n)), Killed(after), Silent())
        except KeyboardInterrupt:
            continue
    works = chain(store, range(n))
    assert drive(works, InlineEngine(), Silent()) == {"double": {}, "add": {}}
    folder = works[1].outputs["add"].folder
    assert folder.units() == set(range(n))


def test_a_bad_part_is_tried_twice_then_set_aside_and_the_others_go_on(store, tmp_path):
    log = tmp_path / "log"
    work = single(store, "trouble", range(4), log=str(log), **{"raise": [2]})
    aside = drive([work], InlineEngine(), Silent())
    assert aside == {"out": {2: "ValueError: part 2 is bad"}}
    assert log.read_text().split().count("2") == 2
    failed = store.read_json(f"{work.ledger}/failed/000002.json")
    assert "Traceback" in failed["traceback"]
    assert failed["starts"] == 2
    assert work.done() == {0, 1, 3}
    # The same command again does not begin anew with it, unless it is told to.
    assert drive([work], InlineEngine(), Silent()) == aside
    assert log.read_text().split().count("2") == 2
    healed = single(store, "trouble", range(4), log=str(log))
    assert drive([healed], InlineEngine(), Silent(), forget_failures=True) == {"out": {}}
    assert store.names(f"{work.ledger}/failed") == []


def test_a_part_that_fails_once_is_no_failure(store, tmp_path):
    log = tmp_path / "log"
    work = single(store, "trouble", range(3), log=str(log), heal=True, **{"raise": [1]})
    assert drive([work], InlineEngine(), Silent()) == {"out": {}}
    assert log.read_text().split() == ["0", "1", "1", "2"]


def test_what_comes_after_a_bad_part_is_left_out(store):
    first = single(store, "trouble", range(3), **{"raise": [1]})
    passes = {"late": Pass.of(store, Declaration("late", "", 1, {}), [first.outputs["out"].folder])}
    late = Work("late", "helpers.workers:double", {}, passes, Inputs({}, ()), range(3), after=("out",))
    assert drive([first, late], InlineEngine(), Silent())["out"] == {1: "ValueError: part 1 is bad"}
    assert late.done() == {0, 2}


def test_too_many_bad_parts_stop_the_run(store):
    work = single(store, "trouble", range(50), **{"raise": list(range(50))})
    engine = InlineEngine()
    with pytest.raises(RunIncomplete, match=r"out: 4 parts are set aside, more than limits\.max_failed_parts"):
        drive([work], engine, Silent())
    assert len(engine.order) == 8
    many = single(Store(f"{store.url}-many"), "trouble", range(50), **{"raise": list(range(4))})
    assert len(drive([many], InlineEngine(), Silent(), max_failed=0.08)["out"]) == 4


def test_a_wrong_recipe_found_in_a_part_stops_at_once(store):
    work = single(store, "wrong_recipe", range(9))
    engine = InlineEngine()
    with pytest.raises(RecipeError, match="no column 'widht'"):
        drive([work], engine, Silent())
    assert engine.order == [("out", 0)]
    assert store.names(f"{work.ledger}/attempts") == []


def test_starts_that_died_with_their_driver_count_only_in_the_tenth(store):
    work = single(store, "trouble", range(1))
    for start in range(1, 9):
        store.put(f"{work.ledger}/attempts/000000.{start}.json", b'{"session": "x"}')
    assert drive([work], InlineEngine(), Silent()) == {"out": {}}
    other = single(Store(f"{store.url}-other"), "trouble", range(1))
    for start in range(1, 10):
        other.store.put(f"{other.ledger}/attempts/000000.{start}.json", b'{"session": "x"}')
    assert drive([other], InlineEngine(), Silent()) == {
        "out": {0: "9 starts ended together with their driver or machine"}
    }


def test_a_whole_is_started_again_however_often_it_was_interrupted_or_failed(store):
    work = single(store, "trouble", (WHOLE,), **{"raise": [WHOLE]})
    for _ in range(2):
        assert drive([work], InlineEngine(), Silent()) == {"out": {WHOLE: "ValueError: part -1 is bad"}}
    for start in range(1, 12):
        store.put(f"{work.ledger}/attempts/all.{start}.json", b'{"session": "x"}')
    assert drive([single(store, "trouble", (WHOLE,))], InlineEngine(), Silent()) == {"out": {}}


def test_only_missing_outputs_are_computed(store):
    old = Pass.of(store, Declaration("old", "", 1, {}))
    new = Pass.of(store, Declaration("new", "", 1, {}))
    drive([Work("w", "helpers.workers:double", {}, {"old": old}, Inputs({}, ()), (0,))], InlineEngine(), Silent())
    before = old.folder.marker(0)
    drive(
        [Work("w", "helpers.workers:double", {}, {"old": old, "new": new}, Inputs({}, ()), (0,))],
        InlineEngine(),
        Silent(),
    )
    assert old.folder.marker(0) == before
    assert new.folder.is_done(0)


@pytest.mark.parametrize("kind", ["raise", "die"])
def test_real_processes_fail_and_die_and_the_rest_is_done(store, tmp_path, kind, monkeypatch):
    work = single(store, "trouble", range(5), log=str(tmp_path / "log"), **{kind: [3]})
    engine = LocalEngine()
    try:
        aside = drive([work], engine, Silent())
    finally:
        engine.close()
    assert list(aside["out"]) == [3]
    assert ("exit code -9" if kind == "die" else "part 3 is bad") in aside["out"][3]
    assert work.done() == {0, 1, 2, 4}


def test_a_worker_that_died_once_is_replaced(store, tmp_path):
    work = single(store, "trouble", range(4), log=str(tmp_path / "log"), heal=True, die=[0, 2])
    engine = LocalEngine()
    try:
        assert drive([work], engine, Silent()) == {"out": {}}
    finally:
        engine.close()
    assert work.done() == {0, 1, 2, 3}


def test_a_worker_that_lost_its_gpu_is_replaced_though_it_lives(store, tmp_path):
    """Kept, it would fail whatever it is given."""
    pids = tmp_path / "pids"
    settings = {"log": str(tmp_path / "log"), "pids": str(pids), "heal": True, "lose": [1]}
    work = single(store, "trouble", range(3), **settings)
    engine = LocalEngine()
    try:
        assert drive([work], engine, Silent()) == {"out": {}}
    finally:
        engine.close()
    assert work.done() == {0, 1, 2}
    assert len(set(pids.read_text().split())) == 2


def test_fingerprints_follow_content_not_order_or_place(tmp_path):
    one = Pass.of(Store(str(tmp_path / "a")), Declaration("fetch", "", 1, {"x": 1, "y": [2]}))
    same = Pass.of(Store("s3://elsewhere/b"), Declaration("fetch", "", 1, {"y": [2], "x": 1}))
    assert one.folder.path == same.folder.path
    others = [
        Pass.of(one.folder.store, Declaration("fetch", "", 2, {"x": 1, "y": [2]})),
        Pass.of(one.folder.store, Declaration("fetch", "", 1, {"x": 1, "y": [3]})),
        Pass.of(one.folder.store, Declaration("fetch", "", 1, {"x": 1, "y": [2]}), [same.folder]),
    ]
    assert len({one.folder.path, *(other.folder.path for other in others)}) == 4


def test_another_identity_is_refused_and_named(store):
    claim(store, {"seed": 0, "part_size": 10})
    claim(store, {"seed": 0, "part_size": 10})
    with pytest.raises(IdentityError, match="holds a run with another part_size; choose another output"):
        check_identity(store, {"seed": 0, "part_size": 11})


def listed(path, size=4520, etag="a"):
    return {"path": path, "size": size, "etag": etag}


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (
            [listed("pairs.csv", 4567, "b"), listed("more.csv")],
            "source: pairs.csv changed since this run began (4,520 -> 4,567 bytes); choose",
        ),
        (
            [listed("pairs.csv"), listed("more.csv", etag="b")],
            "source: more.csv changed since this run began (other content in 4,520 bytes); choose",
        ),
        (
            [listed("pairs.csv", 1, "b"), listed("more.csv", 2, "b")],
            "source: pairs.csv changed since this run began (4,520 -> 1 bytes); so did 1 other; choose",
        ),
        ([listed("pairs.csv")], "source; choose another output, or restore the recipe's earlier values"),
        ([listed("pairs.csv"), listed("else.csv")], "source; choose"),
    ],
)
def test_a_source_that_changed_is_told_from_another_one(store, now, said):
    claim(store, {"source": [listed("pairs.csv"), listed("more.csv")], "seed": 0})
    with pytest.raises(IdentityError) as caught:
        check_identity(store, {"source": now, "seed": 0})
    assert str(caught.value).startswith(f"{store.url} holds a run with another {said}")
    assert "\n" not in str(caught.value)
    with pytest.raises(IdentityError, match="holds a run with another seed, source; choose"):
        check_identity(store, {"source": now, "seed": 1})


def test_units_of_the_whole_run_too(store):
    work = single(store, "double", (WHOLE,))
    assert drive([work], InlineEngine(), Silent()) == {"out": {}}
    assert work.done() == {WHOLE}
    assert UnitResult(0, "done").counts == {}


def test_what_a_whole_notes_is_told_and_what_parts_note_is_not(store):
    watcher, notes = Silent(), [f"rows of kind {number} (3)" for number in range(12)]
    drive([single(store, "double", (WHOLE, 0), notes=notes)], InlineEngine(), watcher)
    assert watcher.told == [*(f"out: {note}" for note in notes[:10]), "out: 2 further notes in the report"]
    again = Silent()
    drive([single(store, "double", (WHOLE, 0), notes=notes)], InlineEngine(), again)
    assert again.told == [], "told when it was found, and not at every start"


def test_a_whole_gates_every_unit_after_it(store):
    whole = Pass.of(store, Declaration("whole", "", 1, {}))
    passes = {"late": Pass.of(store, Declaration("late", "", 1, {}), [whole.folder])}
    works = [
        Work("whole", "helpers.workers:double", {}, {"whole": whole}, Inputs({}, ()), (WHOLE,)),
        Work("late", "helpers.workers:double", {}, passes, Inputs({}, ()), range(3), after=("whole",)),
    ]
    engine = InlineEngine()
    assert drive(works, engine, Silent()) == {"whole": {}, "late": {}}
    assert engine.order == [("whole", WHOLE), ("late", 0), ("late", 1), ("late", 2)]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_worker_that_reads_ahead_is_told_its_next_unit(processes, store, tmp_path):
    work = reading_ahead(store, tmp_path / "told", range(8), processes, seconds=0.02)
    engine = LocalEngine()
    assert drive([work], engine, Silent()) == {"out": {}}
    engine.close()
    assert work.done() == set(range(8))
    workers = told(tmp_path / "told")
    assert len(workers) == processes
    assert sorted(int(unit) for worker in workers for unit, _ in worker) == list(range(8))
    kept = [following == after for worker in workers for (_, following), (after, _) in itertools.pairwise(worker)]
    # With several workers the last units go to whoever is free, whatever was told.
    assert kept.count(False) <= processes - 1
    assert [worker[-1][1] for worker in workers] == ["None"] * processes or processes > 1


def test_a_unit_that_a_dead_worker_was_told_of_is_not_blamed(store, tmp_path):
    work = reading_ahead(store, tmp_path / "told", range(4), 1, die=[1])
    engine = LocalEngine()
    aside = drive([work], engine, Silent())["out"]
    engine.close()
    assert list(aside) == [1]
    assert work.done() == {0, 2, 3}


def test_a_worker_that_hangs_is_killed_and_its_part_set_aside(store, tmp_path):
    """`limits.part_seconds`; the parts beside it are done."""
    work = single(store, "hangs", range(3), hang=[1])
    engine = LocalEngine()
    try:
        aside = drive([work], engine, Silent(), part_seconds=0.5)
    finally:
        engine.close()
    assert aside == {"out": {1: "its worker was killed after limits.part_seconds (0.5 s)"}}
    assert work.done() == {0, 2}


def test_a_quiet_run_names_its_oldest_unit(store, monkeypatch):
    monkeypatch.setattr(heartbeat, "QUIET", 0.1)
    monkeypatch.setattr(heartbeat, "_EVERY", 0.05)
    watcher = Silent()
    engine = LocalEngine()
    try:
        drive([single(store, "hangs", (4, 5), hang=[5])], engine, watcher, part_seconds=1)
    finally:
        engine.close()
    assert any(
        re.fullmatch(r"out: 000005 has run for \d s, the longest of 1 running now", line) for line in watcher.told
    )
    # Each wait is twice as long as the one before.
    assert len(watcher.told) < 12
