"""Images of hosts that are at their limits, through the worker and real sockets: put back, not lost."""

import pytest
from helpers.fetch_part import fetched, members, part
from helpers.fetch_samples import drawing, encoded, section
from helpers.hostile_server import HostileServer, ok, redirect, status

from curate.fetch.polite import hosts as hosts_module
from curate.fetch.worker import open_worker
from curate.store import Store

PICTURE = encoded(drawing())


@pytest.fixture
def server():
    with HostileServer() as running:
        running.answers["/x.jpg"] = ok(PICTURE)
        yield running


@pytest.fixture
def other():
    with HostileServer("127.0.0.2") as running:
        running.answers["/x.jpg"] = ok(PICTURE)
        yield running


def urls_of(running, count, path="/x.jpg"):
    return [running.url(f"{path}?{n}") for n in range(count)]


def rows(folder, urls):
    """The error classes and messages of the part's images, in the order of the URLs."""
    from curate.schema import image_id

    by_id = {row["image_id"]: row for row in folder.table("images.parquet", 0).to_pylist()}
    assert len(by_id) == len(urls)
    return [by_id[image_id(url)] for url in urls]


def fetch(tmp_path, urls, *servers, **changes):
    store = Store(str(tmp_path))
    changes = {"timeout": 1.0, "threads": 2, "allow": [each.address for each in servers], **changes}
    folder = fetched(open_worker(section(**changes)), store, part(store, urls))
    return rows(folder, urls), folder


def test_images_of_a_host_at_its_limit_come_after_the_others(server, other, tmp_path):
    """Waiting for the host takes 2.4 seconds, more than `timeout`; other images are not delayed."""
    slow, quick = urls_of(server, 13), urls_of(other, 13)
    images, folder = fetch(tmp_path, slow + quick, server, other, host_rate=5.0)
    assert {image["error_class"] for image in images} == {None}
    assert [info.name for info, _ in members(folder)] == sorted(image["file"] for image in images)
    assert server.connections == other.connections == 13


def test_a_share_below_one_connection_loses_no_image(server, tmp_path, monkeypatch):
    monkeypatch.setattr(hosts_module, "FIRST_CYCLE", 0.01)
    images, _ = fetch(tmp_path, urls_of(server, 20), server, host_connections=1, processes=50)
    assert {image["error_class"] for image in images} == {None}


def test_a_redirect_to_a_busy_host_goes_on_where_it_was(server, other, tmp_path):
    server.answers["/moved.jpg"] = redirect(other.url("/x.jpg"))
    images, _ = fetch(tmp_path, urls_of(server, 4, "/moved.jpg"), server, other, host_rate=4.0, robots=True)
    assert {image["error_class"] for image in images} == {None}
    assert {image["host"] for image in images} == {"127.0.0.2"}
    # Each once, and robots.txt.
    assert sorted(asked.split()[1] for asked in server.asked) == sorted(
        [b"/robots.txt", *(f"/moved.jpg?{n}".encode() for n in range(4))]
    )
    assert other.connections == 5


def test_robots_and_redirects_of_one_host_need_one_turn(server, tmp_path):
    """The first image makes three requests at once, and the host's pause before the second is that of three."""
    server.answers["/moved.jpg"] = redirect("/x.jpg")
    images, _ = fetch(tmp_path, [server.url("/moved.jpg")], server, host_rate=0.01, robots=True)
    assert [image["error_class"] for image in images] == [None]
    assert [asked.split()[1] for asked in server.asked] == [b"/robots.txt", b"/moved.jpg", b"/x.jpg"]


def test_a_robots_txt_at_another_busy_host_is_requested_all_the_same(server, other, tmp_path):
    server.answers["/robots.txt"] = redirect(other.url("/robots.txt"))
    other.answers["/robots.txt"] = ok(b"User-agent: *\nDisallow: /no")
    urls = [other.url("/x.jpg?0"), server.url("/x.jpg?1"), server.url("/no.jpg")]
    images, _ = fetch(tmp_path, urls, server, other, host_rate=0.7, robots=True, threads=1)
    assert [image["error_class"] for image in images] == [None, None, "opt_out"]


def test_what_a_part_has_no_time_for_says_so(server, other, tmp_path):
    images, _ = fetch(tmp_path, urls_of(server, 5) + urls_of(other, 1), server, other, host_rate=0.01, part_timeout=1.5)
    assert sorted((image["error_class"] or "", image["error"] or "") for image in images) == [
        ("", ""),
        ("", ""),
        *[("host_busy", "its host's limits left no time for it before the part's deadline")] * 4,
    ]
    assert {image["host"] for image in images} == {"127.0.0.1", "127.0.0.2"}
    assert server.connections == 1


def test_a_retry_after_longer_than_the_timeout_is_waited_for(server, tmp_path):
    def answer(connection, over):
        next(answers, ok(PICTURE))(connection, over)

    answers = iter([status(429, "Retry-After: 2")])
    server.answers["/x.jpg"] = answer
    images, _ = fetch(tmp_path, urls_of(server, 5), server, host_connections=1)
    assert sorted(image["error_class"] or "" for image in images) == ["", "", "", "", "http_4xx"]
    assert server.connections == 5


def test_a_very_long_retry_after_and_many_refusals_are_host_busy_at_once(server, other, tmp_path):
    server.answers["/x.jpg"] = status(503, "Retry-After: 500")
    other.answers["/x.jpg"] = status(403)
    urls = urls_of(server, 5) + urls_of(other, 5)
    images, _ = fetch(tmp_path, urls, server, other, host_connections=1, host_failures=2)
    assert [image["error_class"] for image in images].count("host_busy") == 4 + 3
    assert (server.connections, other.connections) == (1, 2)
