"""What a fingerprint covers, and the settings that it does not."""

from typing import Any

import pytest

from curate.keys import Keys, chosen
from curate.runs.passes import Declaration, Pass
from curate.store import Store


class Section(Keys):
    """A section as a release has it."""

    HOW = frozenset({"workers"})

    size: int = 5
    names: tuple[str, ...] = ("a",)
    workers: int = 1


class Later(Section):
    """The same section in a later release, with two more keys."""

    further: str = "none"
    inner: Section = Section()


def test_a_key_that_a_release_adds_is_in_no_fingerprint_until_it_is_used():
    for keys in ({}, {"size": 6}, {"names": ("b",), "workers": 9}):
        assert chosen(Later(**keys)) == chosen(Section(**keys))
    assert chosen(Section()) == chosen(Section(size=5, names=["a"], workers=3)) == {}
    assert chosen(Later(size=6, further="some", inner=Section(size=7))) == {
        "size": 6,
        "further": "some",
        "inner": {"size": 7},
    }
    assert chosen(Later(size=6, further="x"), only={"size"}) == chosen(Later(size=6, further="x"), without={"further"})


def of(store, **how):
    return Pass.of(store, Declaration("embed-m", "embed", 1, {"model": "x"}, how=how))


def test_settings_that_change_last_digits_are_those_of_the_first_start(tmp_path):
    store = Store(str(tmp_path))
    first, second = of(store, threads=2, batch_size=64), of(store, threads=4, batch_size=64)
    assert first.folder == second.folder
    assert (second.begun_with(), second.begun_otherwise()) == ({}, "")
    assert first.settle() == {"threads": 2, "batch_size": 64}
    assert second.settle() == {"threads": 2, "batch_size": 64}
    assert store.read_json(f"{first.folder.path}/pass.json")["how"] == {"threads": 2, "batch_size": 64}
    assert first.begun_otherwise() == ""
    assert second.begun_otherwise() == (
        "embed-m keeps the settings of its first start (threads 2 instead of 4); new passes use the new values"
    )


@pytest.mark.parametrize("change", [{"version": 2}, {"depends": {"model": "y"}}, {"name": "embed-n"}])
def test_what_a_content_depends_on_makes_another_folder(tmp_path, change):
    store = Store(str(tmp_path))
    fields: dict[str, Any] = {"name": "embed-m", "stage": "embed", "version": 1, "depends": {"model": "x"}}
    usual = Pass.of(store, Declaration(**fields))
    assert Pass.of(store, Declaration(**{**fields, **change})).folder != usual.folder
    further = Pass.of(store, Declaration(**fields), [usual.folder])
    assert further.folder != usual.folder
    # What it is called by others, by whom it is run and over which units is no part of it.
    same: dict[str, Any] = {"stage": "signals", "by_part": True, "is_decided_on": True, "folder": "embed-m"}
    assert Pass.of(store, Declaration(**{**fields, **same, "name": "other"})).folder == usual.folder
