"""Which unit a worker is given, and which one it is told to be its next."""

from hypothesis import given
from hypothesis import strategies as st

from curate.engine.queue import Queue


def filled(*units):
    queue = Queue()
    for unit in units:
        queue.put(unit, 1)
    return queue


def test_a_worker_is_given_what_it_was_told():
    queue = filled(0, 1, 2, 3)
    assert queue.take("a") == (0, 1, 1)
    assert queue.take("b") == (2, 1, 3)
    # Whatever comes first again, such as a unit that failed.
    queue.put(9, 2)
    assert queue.take("b") == (3, 1, 9)
    assert queue.take("a") == (1, 1, None)
    assert queue.take("a") == (9, 2, None)
    assert len(queue) == 0


def test_a_worker_that_is_free_takes_what_another_was_told_where_nothing_else_waits():
    queue = filled(0, 1)
    assert queue.take("a") == (0, 1, 1)
    assert queue.take("b") == (1, 1, None)
    queue.put(2, 1)
    assert queue.take("a") == (2, 1, None)


def test_what_a_dead_worker_was_told_is_anybodys():
    queue = filled(0, 1, 2)
    assert queue.take("a") == (0, 1, 1)
    queue.forget("a")
    assert queue.take("b") == (1, 1, 2)


@given(st.lists(st.one_of(st.just("put"), st.sampled_from("abc")), max_size=40))
def test_every_unit_is_given_once(moves):
    queue, put, given_out = Queue(), 0, []
    for move in moves:
        if move == "put":
            queue.put(put, 1)
            put += 1
        elif len(queue):
            unit, _, following = queue.take(move)
            assert following is None or following not in given_out
            given_out.append(unit)
    while len(queue):
        given_out.append(queue.take("a")[0])
    assert sorted(given_out) == list(range(put))
