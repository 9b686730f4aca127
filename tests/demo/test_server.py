import contextlib
import http.client
import io
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image, ImageOps

from curate.demo.answers import answer
from curate.demo.corpus import SERVED_HOSTS, Corpus
from curate.demo.server import serve
from curate.errors import UsageError


def free_port():
    with socket.create_server((SERVED_HOSTS[0], 0)) as listener:
        return listener.getsockname()[1]


def alive(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.fixture(scope="module")
def web():
    corpus = Corpus(seed=7, pairs=600, port=free_port())
    with serve(corpus):
        yield corpus


def first(corpus, kind):
    return next(row for row in corpus.rows() if row.kind == kind)


def get(url):
    # No proxy of the environment: the addresses are loopback ones.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return opener.open(url, timeout=10)


def ask(url, timeout=10.0, request="GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"):
    parts = urlsplit(url)
    talk = socket.create_connection((parts.hostname, parts.port), timeout)
    talk.sendall(request.format(path=parts.path, host=parts.netloc).encode())
    return talk


@pytest.mark.parametrize("kind", ["clean", "tiny", "watermark", "exact_copy", "two_captions", "near_cropped"])
def test_pictures_come_whole_and_as_declared(web, kind):
    row = first(web, kind)
    with get(row.url) as response:
        data = response.read()
        assert response.status == 200
        assert int(response.headers["Content-Length"]) == len(data)
        assert response.headers["Content-Type"] == f"image/{Image.open(io.BytesIO(data)).format.lower()}"
    assert data == answer(web, urlsplit(row.url).path).body


def test_every_address_of_the_list_is_served(web):
    hosts = {urlsplit(row.url).hostname for row in web.rows()} & set(SERVED_HOSTS)
    assert hosts == set(SERVED_HOSTS)
    for host in hosts:
        row = next(row for row in web.rows() if urlsplit(row.url).hostname == host and row.kind == "clean")
        with get(row.url) as response:
            assert response.status == 200
    assert {urlsplit(row.url).netloc for row in web.rows() if row.kind != "unknown_host"} <= set(web.addresses())


def test_a_connection_serves_many_requests(web):
    row = first(web, "clean")
    parts = urlsplit(row.url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)
    for method, length in (("GET", None), ("HEAD", 0), ("GET", None)):
        connection.request(method, parts.path + "?size=large")
        response = connection.getresponse()
        assert response.status == 200
        data = response.read()
        assert len(data) == (int(response.headers["Content-Length"]) if length is None else length)
    connection.request("POST", parts.path)
    assert connection.getresponse().status == 405
    connection.close()


@pytest.mark.parametrize(("kind", "low", "high"), [("http_404", 400, 499), ("http_500", 500, 599)])
def test_errors_have_their_status(web, kind, low, high):
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(first(web, kind).url)
    with caught.value as error:
        assert low <= error.code <= high


def test_unknown_paths_are_404(web):
    host = f"http://{SERVED_HOSTS[0]}:{web.port}"
    moved = f"/moved{urlsplit(first(web, 'clean').url).path}"
    for path in ("/", "/photos/photo-999999.jpg", "/photos/nothing-0.bmp", moved):
        with pytest.raises(urllib.error.HTTPError, match="404") as caught:
            get(host + path)
        caught.value.close()


def test_a_redirect_leads_to_the_picture_and_others_lead_astray(web):
    row = first(web, "redirect")
    with get(row.url) as response:
        assert "/moved/" in response.url
        assert ImageOps.exif_transpose(Image.open(response)).size == row.size
    with ask(first(web, "redirect_private").url) as talk:
        head = talk.recv(4096).decode()
        assert head.startswith("HTTP/1.1 302")
        assert any(target in head for target in ("169.254.", "10.0.0.1", "[fe80::1]"))
    with pytest.raises(urllib.error.HTTPError, match="infinite loop") as caught:
        get(first(web, "redirect_loop").url)
    caught.value.close()


def test_opt_outs_stand_in_the_headers(web):
    for row in web.rows():
        if row.kind == "opt_out":
            with get(row.url) as response:
                robots = response.headers["X-Robots-Tag"]
                assert response.headers["TDM-Reservation"] == "1" if robots is None else robots.startswith("no")


def test_a_web_page_is_no_image(web):
    with get(first(web, "web_page").url) as response:
        assert response.headers["Content-Type"].startswith("text/html")
        assert response.read().startswith(b"<!doctype html>")


def test_nobody_listens_and_no_such_host(web):
    with pytest.raises(ConnectionRefusedError):
        ask(first(web, "refused").url)
    with pytest.raises(socket.gaierror):
        ask(first(web, "unknown_host").url)


def test_a_timeout_is_accepted_and_never_answered(web):
    with ask(first(web, "timeout").url, timeout=1.0) as talk, pytest.raises(TimeoutError):
        talk.recv(1)


def test_a_trickle_has_no_pause_of_a_second_and_no_end_in_sight(web):
    with ask(first(web, "trickle").url, timeout=1.5) as talk:
        head, _, body = talk.recv(4096).partition(b"\r\n\r\n")
        assert int(head.lower().partition(b"content-length: ")[2].split()[0]) > 300
        for _ in range(3):
            body += talk.recv(4096)
        assert 3 <= len(body) < 10


def test_an_endless_body_begins_as_a_picture_and_has_no_length(web):
    with ask(first(web, "endless").url) as talk:
        data = b""
        while len(data) < 5_000_000:
            data += talk.recv(1 << 20)
    head, _, body = data.partition(b"\r\n\r\n")
    assert b"content-length" not in head.lower()
    Image.open(io.BytesIO(body))


@pytest.mark.parametrize("noise", [b"\r\n\r\n", b"GET\r\n\r\n", b"\xff\xfe\r\n\r\n", b"x" * 200_000, b"GET /"])
def test_noise_harms_nobody(web, noise):
    with ask(first(web, "clean").url, request="") as talk, contextlib.suppress(OSError):
        talk.sendall(noise)
        talk.shutdown(socket.SHUT_WR)
        talk.recv(4096)
    with get(first(web, "clean").url) as response:
        assert response.status == 200


def test_the_process_ends_with_the_block_though_clients_hang(capfd):
    corpus = Corpus(0, 300, free_port())
    with serve(corpus) as pid:
        talks = [ask(first(corpus, kind).url) for kind in ("timeout", "trickle", "endless", "clean")]
        assert alive(pid)
        started = time.monotonic()
    assert time.monotonic() - started < 3
    assert not alive(pid)
    assert capfd.readouterr().err == ""
    for talk in talks:
        talk.close()
    # The port is free again at once.
    with serve(corpus):
        pass


def test_a_taken_port_is_named():
    with socket.create_server((SERVED_HOSTS[3], 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} of {SERVED_HOSTS[3]} is in use"), serve(Corpus(0, 1, port)):
            pass


def test_the_process_ends_when_its_parent_is_killed():
    port = free_port()
    script = (
        "import time; from curate.demo.corpus import Corpus; from curate.demo.server import serve\n"
        f"with serve(Corpus(0, 10, {port})) as pid: print(pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    with parent:
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(pid)


def test_it_can_be_run_by_hand():
    port = free_port()
    command = [sys.executable, "-m", "curate.demo.server", "--pairs", "5", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        twin = subprocess.run(command, capture_output=True, text=True, check=False)
        assert twin.returncode == 2
        assert "is in use" in twin.stderr
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 0
        assert process.stderr.read() == ""
