import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.fetch.contract import FetchError
from curate.fetch.http.urls import join, parse

BAD = [
    "",
    "cat.jpg",
    "//example.org/cat.jpg",
    "file:///etc/passwd",
    "file:/etc/passwd",
    "ftp://example.org/cat.jpg",
    "data:image/png;base64,AAAA",
    "gopher://127.0.0.1:6379/_FLUSHALL",
    "javascript:alert(1)",
    "http://",
    "http:///cat.jpg",
    "http://:80/",
    "http://example.org:0/",
    "http://example.org:65536/",
    "http://example.org:http/",
    "http://exa mple.org/",
    "http://a..b/",
    "http://.example.org/",
    "http://exa\r\nHost: other\r\nmple.org/",
    "http://example.org/a\r\nX: y",
    "http://example.org/\x00",
    "http://example.org\\@127.0.0.1/",
    "http://[::1/",
    "http://[fe80::1%25eth0]/",
    "http://[v1.a]/",
    "http://%31%32%37.0.0.1/",
    f"http://{'a' * 64}.org/",
    f"http://{'a.' * 200}org/",
    f"http://example.org/{'a' * 100_000}",
]


@pytest.mark.parametrize("url", BAD, ids=lambda url: repr(url[:40]))
def test_bad_urls(url):
    with pytest.raises(FetchError) as error:
        parse(url)
    assert error.value.error_class == "bad_url"
    assert str(error.value).isprintable()
    assert len(str(error.value)) <= 200


@pytest.mark.parametrize(
    ("url", "host", "port", "path"),
    [
        ("http://example.org", "example.org", 80, "/"),
        ("HTTPS://Example.ORG./a?b#c", "example.org", 443, "/a?b"),
        ("http://example.org:8080/?q", "example.org", 8080, "/?q"),
        (" http://example.org/a b.jpg\n", "example.org", 80, "/a%20b.jpg"),
        ("http://example.org/ö%20ä?x=ü", "example.org", 80, "/%C3%B6%20%C3%A4?x=%C3%BC"),
        ("http://bücher.example/", "xn--bcher-kva.example", 80, "/"),
        ("http://１２７.0.0.1/", "127.0.0.1", 80, "/"),
        ("http://example.org@127.0.0.1/", "127.0.0.1", 80, "/"),
        ("http://user:secret@example.org/", "example.org", 80, "/"),
        ("http://[::FFFF:127.0.0.1]:81/", "::ffff:7f00:1", 81, "/"),
        ("http://2130706433/", "2130706433", 80, "/"),
        ("http://under_score.example.org/", "under_score.example.org", 80, "/"),
    ],
)
def test_taken_apart(url, host, port, path):
    target = parse(url)
    assert (target.host, target.port, target.path) == (host, port, path)
    assert parse(target.url) == target


@given(st.text())
def test_any_text_is_a_clean_target_or_a_bad_url(text):
    for url in (text, f"http://{text}", f"http://example.org/{text}", f"http://example.org/?{text}"):
        try:
            target = parse(url)
        except FetchError:
            continue
        assert target.url.isascii()
        assert target.url.isprintable()
        assert " " not in target.url
        assert parse(target.url) == target


def test_redirects_are_joined():
    base = parse("http://example.org/a/b?c")
    assert join(base, "d.jpg").url == "http://example.org/a/d.jpg"
    assert join(base, "//other.example/x").url == "http://other.example/x"
    assert join(base, "/\xc3\xb6".encode("latin-1").decode("latin-1")).url == "http://example.org/%C3%B6"
    for bad in ("file:///etc/passwd", "http://[", "javascript:1", "x" * 10_000):
        with pytest.raises(FetchError) as error:
            join(base, bad)
        assert error.value.error_class == "bad_url"
