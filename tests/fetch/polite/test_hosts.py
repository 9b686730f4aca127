"""Per-host limits, Retry-After and the circuit breaker, without a network."""

import contextlib
import math
import threading
import time

import pytest

from curate.fetch.contract import FetchError
from curate.fetch.http.deadline import Deadline
from curate.fetch.polite.hosts import Hosts


@contextlib.contextmanager
def visit(hosts, host, deadline):
    """One request in a stay of its own, as `Guard.get` makes it."""
    stay = hosts.wait(host, 80, deadline)
    try:
        with stay.request(80):
            yield
    finally:
        stay.leave()


def busy(hosts, seconds=0.05, host="a.example"):
    with pytest.raises(FetchError) as caught, visit(hosts, host, Deadline(seconds)):
        pass
    assert caught.value.error_class == "host_busy"
    return str(caught.value)


def refuse(hosts, error_class="refused", **facts):
    with pytest.raises(FetchError), visit(hosts, "a.example", Deadline(5)):
        raise FetchError(error_class, "no", **facts)


def crowd(hosts, count, seconds, hold=0.02):
    """How many visits there were at once at most, how many had no room, when the others began."""
    lock, now, most, turned_away, begun = threading.Lock(), [0], [0], [0], []

    def one():
        try:
            with visit(hosts, "a.example", Deadline(seconds)):
                with lock:
                    begun.append(time.monotonic())
                    now[0] += 1
                    most[0] = max(most[0], now[0])
                time.sleep(hold)
                with lock:
                    now[0] -= 1
        except FetchError:
            with lock:
                turned_away[0] += 1

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return most[0], turned_away[0], sorted(begun)


def test_no_more_connections_at_once_than_a_host_is_given():
    most, turned_away, begun = crowd(Hosts(3, None, 10), 20, 30)
    assert (most, turned_away, len(begun)) == (3, 0, 20)


def test_hosts_do_not_wait_for_each_other():
    hosts = Hosts(1, None, 10)
    with visit(hosts, "a.example", Deadline(1)), visit(hosts, "b.example", Deadline(1)):
        assert "its other requests" in busy(hosts)


def test_starts_keep_to_the_rate():
    _, turned_away, begun = crowd(Hosts(8, 50, 10), 10, 30, hold=0)
    assert turned_away == 0
    # Never earlier than the pace allows, however late the machine is.
    assert all(begun[n] - begun[0] >= n / 50 - 0.01 for n in range(10))


def test_a_rate_without_room_is_host_busy():
    hosts = Hosts(8, 0.01, 10)
    with visit(hosts, "a.example", Deadline(1)):
        pass
    assert "rate" in busy(hosts)


def test_a_share_below_one_connection_rests_between_requests():
    hosts = Hosts(0.1, None, 10)
    with visit(hosts, "a.example", Deadline(1)):
        time.sleep(0.05)
    started = time.monotonic()
    with visit(hosts, "a.example", Deadline(30)):
        assert time.monotonic() - started > 0.4


def test_waiting_for_a_slot_does_not_count_against_the_request():
    hosts = Hosts(1, None, 10)
    inside, done = threading.Event(), threading.Event()

    def hold():
        with visit(hosts, "a.example", Deadline(5)):
            inside.set()
            done.wait(0.3)

    holder = threading.Thread(target=hold)
    holder.start()
    inside.wait()
    deadline = Deadline(20)
    before = deadline.at
    with visit(hosts, "a.example", deadline):
        assert deadline.at > before + 0.1
    assert deadline.patience() < 19.9
    holder.join()


def test_a_host_that_refuses_again_and_again_is_left_alone():
    hosts = Hosts(4, None, 3)
    refuse(hosts)
    refuse(hosts, "http_4xx", http_status=403)
    with visit(hosts, "a.example", Deadline(1)):
        pass  # an answer: the count begins anew
    for _ in range(2):
        refuse(hosts, "http_5xx", http_status=500)
        refuse(hosts, "http_4xx", http_status=404)  # so is a 404
    refuse(hosts, "timeout")
    refuse(hosts, "connection")
    refuse(hosts, "http_4xx", http_status=429)
    assert "not requested after 3 refusals in a row" in busy(hosts, 60)
    with visit(hosts, "b.example", Deadline(1)):
        pass


def test_retry_after_keeps_everybody_away():
    hosts = Hosts(4, None, 10)
    refuse(hosts, "http_4xx", http_status=429, retry_after=3600.0)
    assert "its Retry-After asks for a wait" in busy(hosts, 30)  # at once: there is no point in waiting
    hosts = Hosts(4, None, 10)
    refuse(hosts, "http_5xx", http_status=503, retry_after=0.2)
    started = time.monotonic()
    with visit(hosts, "a.example", Deadline(30)):
        assert time.monotonic() - started > 0.1
    refuse(hosts, "http_4xx", http_status=404, retry_after=3600.0)
    with visit(hosts, "a.example", Deadline(1)):
        pass


def test_the_parts_end_ends_waiting():
    hosts = Hosts(1, None, 10)
    end = Deadline(1000, time.monotonic() + 0.05)
    with visit(hosts, "a.example", Deadline(1)), pytest.raises(FetchError), visit(hosts, "a.example", end):
        raise AssertionError("it was let in")


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def one_request(hosts, clock, seconds, requests=1):
    stay = hosts.take("a.example", 80)
    assert stay is not None
    for _ in range(requests):
        with stay.request(80):
            clock.now += seconds
    stay.leave()


def one_failure(hosts, error, port=80):
    stay = hosts.take("a.example", port)
    try:
        with pytest.raises(FetchError), stay.request(port):
            raise error
    finally:
        stay.leave()


def test_a_share_is_kept_by_rests():
    clock = Clock()
    hosts = Hosts(0.25, None, 10, clock=clock)
    for start in (0.0, 8.0, 16.0):
        clock.now = hosts.ready_at("a.example", 80) if start else 0.0
        assert clock.now == start
        one_request(hosts, clock, 2.0)


def test_requests_of_one_stay_are_rested_for_together():
    clock = Clock()
    hosts = Hosts(0.25, 0.5, 10, clock=clock)
    one_request(hosts, clock, 1.0, requests=3)
    assert hosts.ready_at("a.example", 80) == 12.0
    # Three starts at one every two seconds: the rate alone would allow the next at six.
    hosts = Hosts(1.0, 0.5, 10, clock=(clock := Clock()))
    one_request(hosts, clock, 0.1, requests=3)
    assert hosts.ready_at("a.example", 80) == 6.0


def test_rests_and_retry_after_stay_for_the_next_part_and_refusals_do_not():
    clock = Clock()
    hosts = Hosts(0.5, None, 1, clock=clock)
    one_request(hosts, clock, 5.0)
    after = hosts.next_part(None)
    assert after.ready_at("a.example", 80) == 10.0
    clock.now = 10.0
    assert after.next_part(None)._hosts == {}
    one_failure(after, FetchError("http_5xx", "503", http_status=503, retry_after=60.0))
    assert after.ready_at("a.example", 80) == -math.inf
    assert after.next_part(None).ready_at("a.example", 80) == 70.0


def test_the_first_requests_of_all_workers_are_spread():
    clock = Clock()
    starts = [Hosts(0.5, 0.1, 10, phase=n / 100, clock=clock).ready_at("a.example", 80) for n in range(100)]
    assert max(starts) < 10.0
    assert all(sum(second <= start < second + 1 for start in starts) == 10 for second in range(10))
    hosts = Hosts(1.0, None, 10, phase=0.5, clock=clock)
    assert hosts.ready_at("a.example", 80) == 0.0
    hosts = Hosts(0.1, None, 10, phase=0.5, clock=clock)
    assert len({hosts.ready_at(f"{n}.example", 80) for n in range(10)}) == 10


def test_a_wait_without_rest_makes_the_next_rest_longer():
    clock = Clock()
    hosts = Hosts(0.5, None, 10, clock=clock)
    one_request(hosts, clock, 10.0)
    stay = hosts.wait("a.example", 80, Deadline(1), rested=False)
    with stay.request(80):
        clock.now += 1.0
    stay.leave()
    assert hosts.ready_at("a.example", 80) == 21.0


def test_the_first_stay_at_a_host_is_there_at_once():
    assert Hosts(1, 1.0, 10).take("a.example", 80) is not None


def test_who_waits_comes_before_the_queue():
    hosts = Hosts(1, None, 10)
    stay = hosts.take("a.example", 80)
    got = []
    waiting = threading.Thread(target=lambda: got.append(hosts.wait("a.example", 80, Deadline(60))))
    waiting.start()
    while waiting.is_alive() and not hosts._hosts["a.example"].waiting:
        time.sleep(0.001)
    with hosts.lock:
        stay.leave()
        assert hosts.take("a.example", 80) is None
    waiting.join(60)
    assert len(got) == 1
    got[0].leave()
    assert hosts.take("a.example", 80) is not None


def test_refusals_and_a_retry_after_count_for_their_port_alone():
    clock = Clock()
    hosts = Hosts(2.0, None, 3, clock=clock)
    for _ in range(3):
        one_failure(hosts, FetchError("refused", "connection refused"), 81)
    assert hosts.ready_at("a.example", 81) == -math.inf
    stay = hosts.take("a.example", 80)
    one_failure(hosts, FetchError("http_4xx", "429", http_status=429, retry_after=60.0), 8080)
    assert stay.paused(8080)
    assert not stay.paused(80)
    stay.leave()
    assert hosts.ready_at("a.example", 8080) == clock.now + 60
    for following in (hosts, hosts.next_part(None)):
        assert following.ready_at("a.example", 80) == clock.now
        stay = following.take("a.example", 80)
        with stay.request(80):
            pass
        stay.leave()
        assert following.ready_at("a.example", 8080) == clock.now + 60
    # A port that is left alone takes no slot of the host.
    alone, slot = hosts.take("a.example", 81), hosts.take("a.example", 80)
    with pytest.raises(FetchError, match="not requested after 3 refusals in a row"), alone.request(81):
        pass
    with slot.request(80):
        pass
