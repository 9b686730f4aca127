from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from curate.fetch.contract import FetchError
from curate.fetch.polite.retry import pause, retry_after
from curate.schema import ERROR_CLASSES


@pytest.mark.parametrize("error_class", ERROR_CLASSES)
def test_classes_that_can_heal(error_class):
    assert (pause(FetchError(error_class, "x"), 1) is not None) == (error_class in ("refused", "connection"))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 429, 451, 500, 501, 502, 503, 504])
def test_status_that_can_heal(status):
    error = FetchError("http_4xx" if status < 500 else "http_5xx", "x", http_status=status)
    assert (pause(error, 1) is not None) == (status in (429, 500, 502, 503, 504))


def test_pauses_grow_and_obey():
    error = FetchError("connection", "x")
    assert max(pause(error, 1) for _ in range(50)) < 1 < min(pause(error, 4) for _ in range(50)) < 16
    assert pause(FetchError("http_5xx", "x", http_status=503, retry_after=77.0), 1) == 77.0
    assert pause(FetchError("http_5xx", "x", http_status=503, retry_after=0.0), 1) > 0.2


def test_retry_after():
    assert retry_after("120") == 120
    assert retry_after(" 0 ") == 0
    assert retry_after("9" * 400) == 999999999
    soon = datetime.now(UTC) + timedelta(seconds=100)
    assert 90 < retry_after(format_datetime(soon, usegmt=True)) <= 100
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    for nonsense in (None, "", "-3", "soon", "1.5", "٣", "Wed, 99 Foo 2015 07:28:00 GMT", "\x00"):
        assert retry_after(nonsense) is None
