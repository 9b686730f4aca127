import threading
import time

import pytest

from curate.fetch.http.deadline import Deadline
from curate.fetch.http.limits import Memory, Turns


def test_memory_has_a_bound_and_no_deadlock():
    """Twenty bodies of 50 grow block by block in room for 100: one more than fits may be held, never two."""
    memory, most = Memory(100), [0]
    lock = threading.Lock()

    def body():
        lease = memory.lease()
        for _ in range(5):
            lease.grow(10, Deadline(30))
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
    lease.grow(1000, Deadline(1))
    assert memory.held == 1000
    lease.release()


def test_waiting_for_memory_ends_with_the_part_and_costs_the_request_nothing():
    memory = Memory(10)
    first, second = memory.lease(), memory.lease()
    first.grow(11, Deadline(1))
    with pytest.raises(TimeoutError):
        second.grow(1, Deadline(10, time.monotonic() + 0.05))
    deadline = Deadline(10)
    before = deadline.at
    threading.Timer(0.2, first.release).start()
    second.grow(1, deadline)
    assert deadline.at > before + 0.1


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
