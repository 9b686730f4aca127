"""robots.txt: its wildcards, its failures, and that it is asked for once."""

import threading
import time

import pytest
from helpers.bounded import printed
from hypothesis import given
from hypothesis import strategies as st

from curate.fetch.contract import FetchError
from curate.fetch.http.deadline import Deadline
from curate.fetch.http.urls import parse
from curate.fetch.polite import origin_file as module
from curate.fetch.polite.robots import Robots, group


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


HEAD = """
from curate.fetch.contract import FetchError
from curate.fetch.http.deadline import Deadline
from curate.fetch.http.urls import parse
from curate.fetch.polite.robots import Robots

def verdict(text, path):
    try:
        Robots("curate").check(parse("http://a.example" + path), lambda origin: text, Deadline(1e9))
    except FetchError as error:
        print(error.error_class)
    else:
        print("allowed")

"""


def test_a_pattern_made_to_be_slow_is_matched_in_bounded_time():
    """CVE-2026-55520: before Protego 0.6.2 each star doubled the time."""
    program = 'verdict("User-agent: *\\nDisallow: /" + "*1" * 40 + "*Z", "/" + "1" * 60)\n'
    program += 'verdict("User-agent: *\\nDisallow: /" + "*1" * 40 + "*", "/" + "1" * 60)\n'
    assert printed(HEAD + program) == ["allowed", "opt_out"]


def test_agents_times_rules_cost_neither_time_nor_memory():
    """14,000 agents above 30,000 rules: a copy of the rules for each would be 420 million."""
    program = 'agents = "".join(f"User-agent: a{n}\\n" for n in range(14_000))\n'
    program += 'verdict(agents + "User-agent: *\\n" + "Disallow:/a\\n" * 30_000, "/a.jpg")\n'
    assert printed(HEAD + program) == ["opt_out"]


def test_thousands_of_rules_with_wildcards_have_a_bound_for_each_url():
    """Each such rule would be compared at every character of a long URL: a second for each URL."""
    text = "User-agent: *\n" + f"Disallow: /*{'a' * 49}b{'a' * 48}\n" * 4500
    assert verdict(text, f"/{'a' * 100}.jpg")
    with pytest.raises(FetchError, match=r"robots\.txt: too many rules with wildcards to match with a URL of 80"):
        Robots("curate").check(parse(f"http://a.example/{'a' * 8000}"), lambda origin: text, Deadline(1))
    # Rules of other agents, and rules without a wildcard, cost nothing.
    assert verdict(text.replace("*", "other", 1), "/" + "a" * 8000)
    assert not verdict("User-agent: *\n" + "Disallow: /b\n" * 30_000 + "Disallow: /a", "/" + "a" * 8000)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("User-agent: *\nDisallow: /a", ["Disallow: /a"]),
        ("User-agent: a\nUser-agent: Curate/1.0 # us\nDisallow: /a\nUser-agent: b\nDisallow: /b", ["Disallow: /a"]),
        ("user agent curate\nDisallow: /a\nSitemap: x\nDisallow: /b", ["Disallow: /a", "Disallow: /b"]),
        ("User-agent: *\nSitemap: x\nUser-agent: curate\nDisallow: /a", ["Disallow: /a"]),
        ("User-agent: curate\n\nUser-agent: *\nDisallow: /a", ["Disallow: /a"]),
        ("User-agent: curate\nAllow: /\nUser-agent: *\nDisallow: /", ["Allow: /"]),
        ("User-agent: curate\nAllow: /\nUser-agent: CURATE\nDisallow: /x", ["Allow: /", "Disallow: /x"]),
        ("User-agent: cur\nDisallow: /\nUser-agent: curates\nDisallow: /", []),
        ("Disallow: /", []),
    ],
)
def test_the_group_that_applies(text, lines):
    assert group(text, "curate") == lines


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
