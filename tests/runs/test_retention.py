"""`keep.images: until_pack`: stored images go once the result is packed, and what needs them is refused before."""

import pytest
from helpers.drawn_web import keep_top, write_recipe
from helpers.hostile_server import HostileServer, status

from curate.commands.main import main
from curate.commands.verify import verify
from curate.runs import retention
from curate.store import Folder, Store

pytestmark = pytest.mark.usefixtures("in_process")

ROWS = 12


@pytest.fixture
def place(tmp_path):
    """A recipe over a server on which one picture is a 503, and its output."""
    with HostileServer() as server:
        server.answers["/0.jpg"] = status(503)
        keep = {"images": "until_pack"}
        recipe = write_recipe(tmp_path, server, ROWS, part_size=6, select=[keep_top("top", 0.5)], keep=keep)
        yield server, ["run", str(recipe), "--engine", "local"], Store(str(tmp_path / "run"))


def tars(store):
    """The tars of images of all folders of fetch."""
    fetches = [name for name in store.folders() if name.startswith("fetch-")]
    return sorted(
        f"{name}/images/{file}" for name in fetches for file in store.names(f"{name}/images") if ".tar" in file
    )


def fetched(store):
    (name,) = (name for name in store.folders() if name.startswith("fetch-"))
    return Folder.at(store, name)


OTHER = ["--set", "select.top.keep_top.fraction=0.9"]


def test_images_go_after_the_pack_and_only_what_reads_them_is_refused(place, capsys):
    server, run, store = place
    assert main([*run, "--until", "select"]) == 0
    assert retention.NOTICE not in capsys.readouterr().err
    parts = Folder.at(store, next(name for name in store.folders() if name.startswith("plan-"))).units() - {-1}
    assert len(tars(store)) == len(parts)
    assert main([*run, "--dry-run"]) == 0
    assert retention.NOTICE in capsys.readouterr().out
    assert main(run) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert retention.NOTICE in said
    assert f"deleted the stored images, as keep.images says: {len(parts)} files" in said
    assert tars(store) == []
    assert store.names(f"{fetched(store).path}/images")
    assert verify(store, deep=True) == []

    asked, result = len(server.asked), store.read("manifest.json")
    assert main(run) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert retention.NOTICE not in said
    assert "deleted" not in said
    assert main([*run, *OTHER, "--until", "select"]) == 0
    before = store.folders()
    capsys.readouterr()
    for command in (
        [*run, *OTHER],
        [*run, "--set", "models.second={name: pocket}"],
        ["retry-failed", store.url, "--engine", "local"],
    ):
        assert main(command) == 2
        (line,) = capsys.readouterr().err.splitlines()[-1:]
        assert "deleted" in line
        assert "another output" in line
    assert store.folders() == before
    assert len(server.asked) == asked
    assert store.read("manifest.json") == result


def test_a_deletion_that_was_cut_short_is_finished_by_the_next_start(place, monkeypatch):
    _, run, store = place
    delete, left = Store.delete, [1]

    def killed(self, name):
        if name.endswith(".tar"):
            if not left:
                raise KeyboardInterrupt
            left.pop()
        delete(self, name)

    monkeypatch.setattr(retention, "_AT_ONCE", 1)
    monkeypatch.setattr(Store, "delete", killed)
    assert main(run) == 130
    assert tars(store)
    assert verify(store, deep=True) == []
    monkeypatch.setattr(Store, "delete", delete)
    assert main(run) == 0
    assert tars(store) == []


def test_a_sample_deletes_nothing(place):
    _, run, store = place
    assert main([*run, "--sample", "0.5"]) == 0
    assert tars(store)
    assert retention.released(fetched(store)) is None
