import threading
import time

import pytest

from curate.fetch.http.deadline import Deadline
from curate.fetch.http.limits import Memory, Turns


def a_turn(deadline):
    return Turns(1).turn(deadline)


def test_memory_has_a_bound_and_no_deadlock():
    """Twenty bodies of 50 grow block by block in room for 100: one more than fits may be held, never two."""
    memory, most = Memory(100), [0]
    lock = threading.Lock()

    def body():
        lease = memory.lease()
        for _ in range(5):
            lease.grow(10, deadline := Deadline(30), a_turn(deadline))
            with lock:
                most[0] = max(most[0], memory.held)
            time.sleep(0.001)
        lease.release()
        lease.release()

    threads = [threading.Thread(target=body) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert memory.held == 0
    assert 100 <= most[0] <= 150


def test_a_body_larger_than_all_memory_still_passes():
    memory = Memory(10)
    lease = memory.lease()
    lease.grow(1000, deadline := Deadline(1), a_turn(deadline))
    assert memory.held == 1000
    lease.release()


def test_waiting_for_memory_ends_with_the_part_and_costs_the_request_nothing():
    memory = Memory(10)
    first, second = memory.lease(), memory.lease()
    first.grow(11, deadline := Deadline(1), a_turn(deadline))
    with pytest.raises(TimeoutError):
        second.grow(1, deadline := Deadline(10, time.monotonic() + 0.05), a_turn(deadline))
    deadline = Deadline(10)
    before = deadline.at
    threading.Timer(0.2, first.release).start()
    second.grow(1, deadline, a_turn(deadline))
    assert deadline.at > before + 0.1


def test_a_request_that_waits_for_memory_holds_no_turn():
    """The request whose body fills the memory needs the only turn to read its rest."""
    memory, turns = Memory(10), Turns(1)
    deadline = Deadline(60, time.monotonic() + 30)
    full, waiting = memory.lease(), memory.lease()
    first, second = turns.turn(deadline), turns.turn(deadline)
    full.grow(11, deadline, first)  # its server is silent, so it has given its turn
    grown = threading.Event()

    def grow():
        second.take()
        waiting.grow(5, deadline, second)
        grown.set()

    thread = threading.Thread(target=grow)
    thread.start()
    first.take()
    assert not grown.is_set()
    full.release()
    first.give()
    thread.join(30)
    assert grown.is_set()
    with pytest.raises(TimeoutError):  # it has its turn again
        turns.turn(Deadline(10, time.monotonic() + 0.05)).take()
    waiting.release()
    assert memory.held == 0


def test_turns():
    turns = Turns(1)
    first = turns.turn(Deadline(1))
    first.take()
    with pytest.raises(TimeoutError):
        turns.turn(Deadline(10, time.monotonic() + 0.05)).take()
    first.give()
    first.give()
    second = turns.turn(Deadline(1))
    second.take()
    with pytest.raises(TimeoutError):
        turns.turn(Deadline(10, time.monotonic() + 0.05)).take()
