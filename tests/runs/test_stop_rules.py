import pytest

from curate.errors import RunIncomplete
from curate.runs.stop_rules import MinSuccess, nothing_kept
from curate.runs.work import UnitResult
from curate.store import Folder, Store


def ended(images, success, status="done", **errors):
    counts = {"images": images, "success": success, **{f"error:{name}": count for name, count in errors.items()}}
    return UnitResult(0, status, counts=counts)


def test_a_run_that_cannot_work_is_stopped_with_the_worst_class():
    check = MinSuccess("fetch", 0.05, 1000)
    check("fetch", ended(600, 6, dns=500, timeout=94))
    with pytest.raises(RunIncomplete) as caught:
        check("fetch", ended(600, 6, dns=94, timeout=495, http_4xx=5))
    said = str(caught.value)
    assert "only 12 of the last 1,200 images" in said
    assert "594 failed as 'dns'" in said
    assert "\n" not in said


def test_where_addresses_are_blocked_the_key_that_opens_them_is_named():
    with pytest.raises(RunIncomplete, match=r"failed as 'blocked_address'\. To open .* fetch\.allow as addr"):
        MinSuccess("fetch", 0.05, 100)("fetch", ended(100, 0, blocked_address=100))
    steps = [{"name": "fetch:blocked_address", "dropped": 9}, {"name": "small", "dropped": 1}]
    said = nothing_kept({"steps": steps}, Folder(Store("/nowhere"), "fetch", "0"), [], "curate retry-failed run")
    assert "fetch.allow" in said
    # To try them again would block them again.
    assert "retry-failed" not in said


def test_only_the_latest_images_count():
    check = MinSuccess("fetch", 0.5, 100)
    for _ in range(50):
        check("fetch", ended(50, 50))
    check("fetch", ended(50, 1, dns=49))
    with pytest.raises(RunIncomplete):
        check("fetch", ended(50, 0, dns=50))


def test_what_is_enough():
    check = MinSuccess("fetch", 0.5, 100)
    check("fetch", ended(99, 0, dns=99))  # too few to judge
    check("fetch", ended(101, 100, dns=1))
    check("fetch-1", ended(1000, 0, dns=1000))  # another work
    check("fetch", ended(1000, 0, status="failed", dns=1000))
    MinSuccess("fetch", 0.0, 1)("fetch", ended(10, 0, dns=10))  # 0 switches it off
    MinSuccess("fetch", 1.0, 1)("fetch", ended(10, 10))
