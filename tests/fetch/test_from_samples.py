"""Which bytes are read at once, and that it matters to nothing else."""

from itertools import pairwise

import pytest
from helpers.sample_run import jpeg, read_samples, sample, write_tar
from hypothesis import given
from hypothesis import strategies as st

from curate.errors import SourceError
from curate.fetch import from_samples as members
from curate.fetch.from_samples import GAP, RANGE, Member

PLACES = st.lists(
    st.tuples(st.integers(0, 2), st.lists(st.tuples(st.integers(512, 3 * GAP), st.integers(0, RANGE)), max_size=6)),
    max_size=3,
    unique_by=lambda place: place[0],
)


@given(PLACES)
def test_ranges_hold_every_member_once_and_keep_their_bounds(found):
    listed = []
    for place, gaps in sorted(found):
        at = 512
        for gap, size in gaps:
            at += gap
            listed.append(Member(place, at, f"{at}.jpg", size, len(listed)))
            at += size
    ranges = list(members._ranges(listed))
    assert [member for ranged in ranges for member in ranged] == listed
    for ranged in ranges:
        assert len({member.place for member in ranged}) == 1
        assert len(ranged) == 1 or ranged[-1].offset + ranged[-1].size - ranged[0].offset <= RANGE
        assert all(after.offset - before.offset - before.size <= GAP for before, after in pairwise(ranged))


def test_what_is_written_does_not_depend_on_how_it_was_read(tmp_path, monkeypatch):
    tar = write_tar(tmp_path / "a.tar", [m for n in range(30) for m in sample(f"{n}", n, f"number {n}")])
    (tmp_path / "loose").mkdir()
    for n in range(5):
        (tmp_path / "loose" / f"{n}.jpg").write_bytes(jpeg(40 + n))

    def files(name, **fetch):
        read_samples(tmp_path / name, tar, tmp_path / "loose", part_size=9, fetch=fetch)
        parts = sorted((tmp_path / name / "fetch-0" / "images").iterdir())
        return [(path.name.split(".", 2)[0::2], path.read_bytes()) for path in parts]

    first = files("one")
    assert len(first) == 2 * 4
    assert files("two", threads=1, waiting_bytes=1) == first
    monkeypatch.setattr(members, "GAP", 0)
    monkeypatch.setattr(members, "RANGE", 1)
    assert files("three", threads=16) == first


@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: path.write_bytes(jpeg(9) + b"longer")])
def test_a_file_that_went_or_grew_after_it_was_planned_is_one_line(tmp_path, monkeypatch, change):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(jpeg())
    opened = members.open_worker

    def changed(settings):
        change(tmp_path / "in" / "a.jpg")
        return opened(settings)

    monkeypatch.setattr(members, "open_worker", changed)
    with pytest.raises(SourceError, match=r"in(: a\.jpg cannot be read: No such file| changed since it was planned)"):
        read_samples(tmp_path / "run", tmp_path / "in")
