"""The order in which a part's images are requested, in simulated time."""

import contextlib
import math
import random
import threading

import pytest

from curate.fetch.contract import FetchError
from curate.fetch.http.deadline import Deadline
from curate.fetch.polite.hosts import Hosts
from curate.fetch.polite.part_queue import PartQueue


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def service_of(url):
    """Of `host/row` or `host:port/row`."""
    host, _, port = url.partition("/")[0].partition(":")
    return (host, int(port or 80)) if host else None


def service_port(request):
    return service_of(request.url)[1]


def queue(clock, urls, connections=1.0, rate=None, failures=10, end=math.inf):
    return PartQueue(urls, Hosts(connections, rate, failures, clock=clock), service_of, end, clock)


def begun(the_queue):
    """All requests that can begin now."""
    found = []
    while (request := the_queue.next()) is not None:
        found.append(request)
    return found


def rows(requests):
    return [request.row for request in requests]


def end_of(request, clock, seconds=0.0, error=None):
    with contextlib.suppress(FetchError), request.stay.request(service_port(request)):
        clock.now += seconds
        if error:
            raise error
    request.leave()


def test_images_come_in_the_order_of_their_rows(clock):
    assert rows(begun(queue(clock, ["a/0", "b/1", "a/2", "c/3", "a/4"], connections=5))) == [0, 1, 2, 3, 4]


def test_images_of_a_busy_host_are_passed_over_and_come_when_it_is_free(clock):
    the_queue = queue(clock, ["a/0", "a/1", "a/2", "b/3", "", "c/5"])
    first, *others = begun(the_queue)[1:]
    assert rows([first, *others]) == [0, 3, 5]
    assert the_queue.due() == math.inf
    end_of(first, clock)
    (second,) = begun(the_queue)
    assert second.row == 1
    end_of(second, clock)
    assert rows(begun(the_queue)) == [2]


def test_what_is_not_a_url_waits_for_no_host(clock):
    (request, *_) = begun(queue(clock, ["a/0", "a/1", ""]))
    assert (request.row, request.stay) == (2, None)


def test_a_host_that_falls_behind_comes_before_later_rows(clock):
    the_queue = queue(clock, ["a/0", "a/1", "b/2", "b/3"])
    first = the_queue.next()
    end_of(first, clock)
    assert rows([the_queue.next(), the_queue.next()]) == [1, 2]


def test_a_slot_that_is_back_before_another_has_rested_is_used(clock):
    # One whole connection, and one for half of the time.
    the_queue = queue(clock, [f"a/{n}" for n in range(5)], connections=1.5)
    first, second = begun(the_queue)
    assert begun(the_queue) == []
    slots = sorted([first, second], key=lambda request: request.stay._slot.share)
    end_of(slots[0], clock, seconds=4.0)
    assert (begun(the_queue), the_queue.due()) == ([], 108.0)
    clock.now = 105.0
    end_of(slots[1], clock)
    (third,) = begun(the_queue)
    assert (third.row, third.stay._slot.share) == (2, 1.0)
    clock.now = 108.0
    assert rows(begun(the_queue)) == [3]


def test_a_rate_spaces_the_starts_and_delays_no_other_host(clock):
    the_queue = queue(clock, ["a/0", "a/1", "a/2", "b/3"], connections=9, rate=0.5)
    assert rows(begun(the_queue)) == [0, 3]
    assert the_queue.due() == 102.0
    clock.now = 102.0
    assert rows(begun(the_queue)) == [1]
    clock.now = 103.9
    assert rows(begun(the_queue)) == []
    clock.now = 104.0
    assert rows(begun(the_queue)) == [2]


def test_a_closed_port_delays_no_image_of_the_host(clock):
    """Images of the port fail at once, those of another port are requested, although the host's rate is low."""
    the_queue = queue(clock, ["a:81/0", "a:81/1", "a:81/2", "a/3", "a:81/4"], rate=0.01, failures=2)
    for start in (100.0, 200.0):
        clock.now = start
        (request,) = begun(the_queue)
        end_of(request, clock, error=FetchError("refused", "connection refused"))
    (left,) = begun(the_queue)
    with pytest.raises(FetchError, match="not requested after 2 refusals"), left.stay.request(81):
        pass
    clock.now = 300.0
    open_port, closed = begun(the_queue)
    assert rows([left, open_port, closed]) == [2, 3, 4]
    with open_port.stay.request(80):
        pass


def test_a_request_that_is_put_back_goes_on_before_later_rows(clock):
    the_queue = queue(clock, ["a/0", "b/1", "b/2", "b/3"])
    moved, busy = begun(the_queue)
    moved.leave()
    moved.tries = 2
    the_queue.put_back(moved, ("b", 80))
    assert begun(the_queue) == []
    end_of(busy, clock)
    again = the_queue.next()
    assert again is moved
    assert (again.tries, again.stay.name) == (2, "b")


def test_images_of_a_host_that_is_left_alone_come_at_once_and_fail(clock):
    the_queue = queue(clock, [f"a/{n}" for n in range(5)], failures=1, connections=0.1)
    refused = the_queue.next()
    end_of(refused, clock, 3.0, FetchError("refused", "no"))
    for request in begun(the_queue):
        assert request.row > 0
        assert failure(request) == "host_busy"


def failure(request):
    """The class of the error with which the request fails before it is sent; None where it is sent."""
    try:
        with request.stay.request(80):
            return None
    except FetchError as error:
        return error.error_class
    finally:
        request.leave()


@pytest.mark.parametrize(("seconds", "waits"), [(100.0, True), (121.0, False)])
def test_a_retry_after_is_waited_for_up_to_a_bound(clock, seconds, waits):
    the_queue = queue(clock, ["a/0", "a/1", "b/2"], connections=2)
    first, second, _ = begun(the_queue)
    assert not second.stay.paused(80)
    end_of(first, clock, 0.0, FetchError("http_4xx", "429", http_status=429, retry_after=seconds))
    assert second.stay.paused(80) == waits
    second.leave()
    the_queue.put_back(second, ("a", 80))
    if waits:
        assert (begun(the_queue), the_queue.due()) == ([], 200.0)
        clock.now = 200.0
    (again,) = begun(the_queue)
    assert failure(again) == (None if waits else "host_busy")


def test_what_is_left_at_the_end_has_waited_for_its_host_or_was_not_reached(clock):
    the_queue = queue(clock, ["a/0", "a/1", "b/2", "c/3", "a/4"], end=110.0)
    the_queue.next()
    the_queue.next()
    clock.now = 110.0
    left = {request.row: request.passed_over for request in begun(the_queue)}
    assert left == {1: True, 3: False, 4: False}
    the_queue = queue(clock, ["a/0", "a/1", "b/2", "c/3", "a/4"], end=120.0)
    begun(the_queue)
    assert the_queue.due() == 120.0
    clock.now = 120.0
    assert {request.row: request.passed_over for request in begun(the_queue)} == {1: True, 4: True}


@pytest.mark.parametrize("seed", range(20))
def test_every_image_comes_once_whatever_the_limits(clock, seed):
    rng = random.Random(seed)
    urls = [f"{rng.choice('aaaabbc')}/{n}" for n in range(60)]
    the_queue = queue(clock, urls, rng.choice([0.1, 0.5, 1.0, 1.7, 4.0]), rng.choice([None, 0.3, 5.0]), failures=100)
    running, finished = [], []
    for _ in range(10_000):
        running += begun(the_queue)
        if len(finished) == 60:
            break
        if running and rng.random() < 0.7:
            request = running.pop(rng.randrange(len(running)))
            end_of(request, clock, rng.random())
            if rng.random() < 0.2:
                the_queue.put_back(request, (rng.choice("abc"), 80))
            else:
                finished.append(request.row)
        elif not running:
            assert math.isfinite(the_queue.due())
            clock.now = max(clock.now, the_queue.due())
    assert sorted(finished) == list(range(60))


@pytest.mark.parametrize(("connections", "rate"), [(0.7, None), (1.5, 800.0), (4.0, None)])
def test_threads_get_every_image_once(connections, rate):
    """In real time: releases, ends of rests, requests put back and waits of other requests wake threads that go on."""
    rng = random.Random(int(connections * 10))
    urls = [f"{min(rng.randrange(20), rng.randrange(20))}/{n}" for n in range(300)]
    hosts = Hosts(connections, rate, 10)
    the_queue = PartQueue(urls, hosts, service_of)
    finished, lock, calls = [], threading.Lock(), iter(range(300))

    def work():
        while next(calls, None) is not None:
            while True:
                request = the_queue.take()
                with request.stay.request(80):
                    pass
                request.leave()
                if request.row % 30 == 7:
                    with contextlib.suppress(FetchError):
                        hosts.wait("1", 80, Deadline(0.05), rested=False).leave()
                if request.row % 10 or request.tries == 2:
                    break
                request.tries = 2
                the_queue.put_back(request, ("2", 80))
            with lock:
                finished.append(request.row)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(finished) == list(range(300))


def test_threads_that_wait_are_released_at_the_end():
    the_queue = PartQueue(["a/0", "a/1", "a/2"], hosts := Hosts(1, 0.001, 10), service_of, hosts._clock() + 0.2)
    the_queue.take()
    taken = []
    threads = [threading.Thread(target=lambda: taken.append(the_queue.take()), daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {(request.row, request.passed_over, request.stay) for request in taken} == {(1, True, None), (2, True, None)}
