"""robots.txt: its wildcards, its failures, and that it is asked for once."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.fetch.contract import FetchError
from curate.fetch.http.deadline import Deadline
from curate.fetch.http.urls import parse
from curate.fetch.polite import robots as module
from curate.fetch.polite.robots import Robots


def verdict(text, path, token="curate"):
    try:
        Robots(token).check(parse(f"http://a.example{path}"), lambda origin: text, Deadline(1))
    except FetchError as error:
        return {"opt_out": False}[error.error_class]
    return True


@pytest.mark.parametrize(
    ("text", "path", "allowed"),
    [
        ("", "/x.jpg", True),
        ("User-agent: *\nDisallow: /", "/x.jpg", False),
        ("User-agent: *\nDisallow:", "/x.jpg", True),
        ("User-agent: *\nDisallow: /*.jpg$", "/a/x.jpg", False),
        ("User-agent: *\nDisallow: /*.jpg$", "/a/x.jpg?size=3", True),
        ("User-agent: *\nDisallow: /private*/x", "/private-7/x.jpg", False),
        ("User-agent: *\nDisallow: /a\nAllow: /a/b", "/a/b/x.jpg", True),
        ("User-agent: *\nDisallow: /\n\nUser-agent: Curate\nAllow: /", "/x.jpg", True),
        ("User-agent: curate\nDisallow: /\n\nUser-agent: *\nAllow: /", "/x.jpg", False),
        ("User-agent: other\nDisallow: /", "/x.jpg", True),
        ("user-AGENT : *\r\ndisallow : /x", "/x.jpg", False),
        ("<html>not found</html>", "/x.jpg", True),
        ("User-agent: *\nDisallow: /%7Ejoe/", "/~joe/x.jpg", False),
    ],
)
def test_rules(text, path, allowed):
    assert verdict(text, path) == allowed


def test_a_pattern_made_to_be_slow_is_not_read():
    started = time.monotonic()
    evil = "User-agent: *\nDisallow: /" + "*a" * 500 + "*b$\nDisallow: /" + "x" * 5000
    assert verdict(evil, "/" + "a" * 3000)
    assert time.monotonic() - started < 5


@given(st.text(max_size=300))
def test_any_text_has_a_verdict(text):
    assert verdict(f"User-agent: *\n{text}", "/x.jpg") in (True, False)


def test_each_origin_is_asked_once_for_all_who_wait():
    robots, asked, gate = Robots("curate"), [], threading.Event()

    def ask(origin):
        asked.append(origin.url)
        gate.wait(5)
        return "User-agent: *\nDisallow: /no"

    def check(path):
        robots.check(parse(f"http://a.example{path}"), ask, Deadline(10))

    threads = [threading.Thread(target=check, args=(f"/{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join()
    with pytest.raises(FetchError):
        check("/no/x.jpg")
    robots.check(parse("http://a.example:81/x.jpg"), ask, Deadline(10))
    assert asked == ["http://a.example/robots.txt", "http://a.example:81/robots.txt"]


def test_failures_are_passed_on_and_forgotten(monkeypatch):
    robots = Robots("curate")

    def fail(origin):
        raise FetchError("http_5xx", "503 Service Unavailable", http_status=503)

    for ask in (fail, None):  # the second time from memory
        with pytest.raises(FetchError, match=r"robots\.txt: 503") as caught:
            robots.check(parse("http://a.example/x.jpg"), ask, Deadline(1))
        assert (caught.value.error_class, caught.value.http_status) == ("http_5xx", 503)
    monkeypatch.setattr(module, "monotonic", lambda: time.monotonic() + 61)
    robots.check(parse("http://a.example/x.jpg"), lambda origin: "", Deadline(100))


def test_the_memory_of_origins_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "SIZE", 3)
    robots, asked = Robots("curate"), []

    def ask(origin):
        asked.append(origin)
        return ""

    for host in "abcda":
        robots.check(parse(f"http://{host}.example/"), ask, Deadline(1))
    assert len(asked) == 5
