"""Per-host limits, Retry-After and the circuit breaker, without a network."""

import threading
import time

import pytest

from curate.fetch.contract import FetchError
from curate.fetch.http.deadline import Deadline
from curate.fetch.polite.hosts import Hosts


def busy(hosts, seconds=0.05, host="a.example"):
    with pytest.raises(FetchError) as caught, hosts.visit(host, Deadline(seconds)):
        pass
    assert caught.value.error_class == "host_busy"
    return str(caught.value)


def refuse(hosts, error_class="refused", **facts):
    with pytest.raises(FetchError), hosts.visit("a.example", Deadline(5)):
        raise FetchError(error_class, "no", **facts)


def crowd(hosts, count, seconds, hold=0.02):
    """How many visits there were at once at most, how many had no room, when the others began."""
    lock, now, most, turned_away, begun = threading.Lock(), [0], [0], [0], []

    def one():
        try:
            with hosts.visit("a.example", Deadline(seconds)):
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
    with hosts.visit("a.example", Deadline(1)), hosts.visit("b.example", Deadline(1)):
        assert "its other requests" in busy(hosts)


def test_starts_keep_to_the_rate():
    _, turned_away, begun = crowd(Hosts(8, 50, 10), 10, 30, hold=0)
    assert turned_away == 0
    # Never earlier than the pace allows, however late the machine is.
    assert all(begun[n] - begun[0] >= n / 50 - 0.01 for n in range(10))


def test_a_rate_without_room_is_host_busy():
    hosts = Hosts(8, 0.01, 10)
    with hosts.visit("a.example", Deadline(1)):
        pass
    assert "rate" in busy(hosts)


def test_a_share_below_one_connection_rests_between_requests():
    hosts = Hosts(0.1, None, 10)
    with hosts.visit("a.example", Deadline(1)):
        time.sleep(0.05)
    started = time.monotonic()
    with hosts.visit("a.example", Deadline(30)):
        assert time.monotonic() - started > 0.4


def test_waiting_for_a_slot_does_not_count_against_the_request():
    hosts = Hosts(1, None, 10)
    inside, done = threading.Event(), threading.Event()

    def hold():
        with hosts.visit("a.example", Deadline(5)):
            inside.set()
            done.wait(0.3)

    holder = threading.Thread(target=hold)
    holder.start()
    inside.wait()
    deadline = Deadline(20)
    before = deadline.at
    with hosts.visit("a.example", deadline):
        assert deadline.at > before + 0.1
    assert deadline.patience() < 19.9
    holder.join()


def test_a_host_that_refuses_again_and_again_is_left_alone():
    hosts = Hosts(4, None, 3)
    refuse(hosts)
    refuse(hosts, "http_4xx", http_status=403)
    with hosts.visit("a.example", Deadline(1)):
        pass  # an answer: the count begins anew
    for _ in range(2):
        refuse(hosts, "http_5xx", http_status=500)
        refuse(hosts, "http_4xx", http_status=404)  # so is a 404
    refuse(hosts, "timeout")
    refuse(hosts, "connection")
    refuse(hosts, "http_4xx", http_status=429)
    assert "not requested after 3 refusals in a row" in busy(hosts, 60)
    with hosts.visit("b.example", Deadline(1)):
        pass


def test_retry_after_keeps_everybody_away():
    hosts = Hosts(4, None, 10)
    refuse(hosts, "http_4xx", http_status=429, retry_after=3600.0)
    assert "its Retry-After asks for a wait" in busy(hosts, 30)  # at once: there is no point in waiting
    hosts = Hosts(4, None, 10)
    refuse(hosts, "http_5xx", http_status=503, retry_after=0.2)
    started = time.monotonic()
    with hosts.visit("a.example", Deadline(30)):
        assert time.monotonic() - started > 0.1
    refuse(hosts, "http_4xx", http_status=404, retry_after=3600.0)
    with hosts.visit("a.example", Deadline(1)):
        pass


def test_the_parts_end_ends_waiting():
    hosts = Hosts(1, None, 10)
    end = Deadline(1000, time.monotonic() + 0.05)
    with hosts.visit("a.example", Deadline(1)), pytest.raises(FetchError), hosts.visit("a.example", end):
        raise AssertionError("it was let in")
