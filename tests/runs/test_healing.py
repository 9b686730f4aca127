"""A run with damaged files does their units again, and what followed from them where they come out different."""

import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from helpers.drawn_web import keep_top, write_recipe
from helpers.fetch_samples import picture
from helpers.hostile_server import HostileServer, ok

from curate import summaries
from curate.commands.main import main
from curate.errors import Damaged, Exit
from curate.runs import healing
from curate.store import WHOLE, Folder, Outputs, Store
from curate.stored_images import read_all

pytestmark = pytest.mark.usefixtures("in_process")

ROWS = 16
PART = 1


class Run:
    """A finished run of two parts, and the web that its images are from."""

    def __init__(self, server: HostileServer, root: Path) -> None:
        self.server, self.root = server, root
        self.store = Store(str(root / "run"))
        self.write(0.9)

    def write(self, fraction: float) -> None:
        select = [keep_top("worst", fraction)]
        write_recipe(self.root, self.server, ROWS, output=self.store.url, part_size=8, select=select)

    def go(self) -> int:
        return main(["run", str(self.root / "recipe.yaml"), "--engine", "local"])

    def folder(self, short: str) -> Folder:
        return Folder.at(self.store, self.store.read_json("manifest.json")["folders"][short])

    def path(self, short: str, role: str, unit: int = PART) -> Path:
        return Path(self.store.path(self.folder(short).file(role, unit)))

    def urls(self) -> set[str]:
        return set(self.folder("plan").table("pairs.parquet", PART, ["url"])["url"].to_pylist())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, in_process: None) -> Iterator[Run]:
    with HostileServer() as server:
        server.answers |= {f"/{number}.jpg": ok(picture(number)) for number in range(ROWS)}
        run = Run(server, tmp_path_factory.mktemp("healing"))
        assert run.go() == Exit.DONE
        yield run


@pytest.fixture
def run(finished: Run, tmp_path: Path) -> Iterator[Run]:
    kept = dict(finished.server.answers)
    shutil.copytree(finished.root / "run", tmp_path / "run")
    yield Run(finished.server, tmp_path)
    finished.server.answers.clear()
    finished.server.answers.update(kept)


def the_web_moves_on(run: Run) -> None:
    run.server.answers |= {f"/{number}.jpg": ok(picture(number + ROWS)) for number in range(ROWS)}


def test_a_part_that_is_as_it_was_changes_nothing_else(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    markers = {short: run.folder(short).marker(PART) for short in ("pixels", "embed-pocket", "signals-caption")}
    run.path("fetch", "images.tar").unlink()
    asked = len(run.server.asked)
    run.write(0.5)
    assert run.go() == Exit.DONE
    assert len(run.server.asked) == asked + len(run.urls())
    said = capsys.readouterr().err
    assert "images.tar" not in said.splitlines()[-1]
    assert "is missing; this is made again" in " ".join(said.split())
    assert "000001 is as it was" in " ".join(said.split())
    assert {short: run.folder(short).marker(PART) for short in markers} == markers
    assert healing.rounds(run.store) == {}
    assert run.store.names("damaged") == []


def test_other_images_are_a_round_of_the_part(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    before = run.store.read_json("manifest.json")
    other_part = {short: run.folder(short).marker(0) for short in ("fetch", "pixels", "embed-pocket")}
    packed = {path.name: path.read_bytes() for path in Path(run.store.url, before["pack"], "shards").iterdir()}
    path = run.path("fetch", "images.tar")
    path.write_bytes(path.read_bytes()[:2000])
    the_web_moves_on(run)
    run.write(0.5)
    assert run.go() == Exit.DONE
    assert "000001 has other content than before" in " ".join(capsys.readouterr().err.split())
    after = run.store.read_json("manifest.json")
    by_part = [short for short in before["folders"] if short not in ("select", "pack", "report")]
    assert {short: after["folders"][short] for short in by_part} == {
        short: before["folders"][short] for short in by_part
    }
    assert {short: run.folder(short).marker(0) for short in other_part} == other_part
    # The earlier result is as it was; the same recipe now has another one, of the new images.
    assert {path.name: path.read_bytes() for path in Path(run.store.url, before["pack"], "shards").iterdir()} == packed
    run.write(0.9)
    assert run.go() == Exit.DONE
    again = run.store.read_json("manifest.json")
    assert again["folders"]["select"] != before["folders"]["select"]
    images = run.folder("fetch").table("images.parquet", PART, ["sha256"])["sha256"].to_pylist()
    rows = pq.read_table(Path(run.store.url, again["pack"], "shards", "00000000.parquet")).to_pylist()
    of_part = [row for row in rows if row["url"] in run.urls()]
    assert of_part
    assert {row["sha256"] for row in of_part} <= set(images)
    capsys.readouterr()
    assert main(["verify", run.store.url, "--deep"]) == Exit.DONE, capsys.readouterr().out


def test_one_changed_byte_costs_no_other_picture(run: Run) -> None:
    """The web is gone but for one page: the intact pictures of the part are taken over."""
    before = run.folder("fetch").table("images.parquet", PART)
    path, asked = run.path("fetch", "images.tar"), len(run.server.asked)
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        first, _, third = list(tar)[:3]
    data[first.offset_data + first.size // 2] ^= 16
    data[third.offset + 10] ^= 16  # of a header
    path.write_bytes(data)
    urls = run.folder("plan").table("pairs.parquet", PART, ["image_id", "url"]).to_pylist()
    url_of = {row["image_id"].hex(): row["url"] for row in urls}
    lost = [url_of[member.name.partition(".")[0]].rpartition("/")[2] for member in (first, third)]
    run.server.answers = {f"/{name}": run.server.answers[f"/{name}"] for name in lost}
    run.write(0.5)
    assert run.go() == Exit.DONE
    assert len(run.server.asked) == asked + 2
    after = run.folder("fetch").table("images.parquet", PART)
    incidental = ["milliseconds"]
    assert after.drop_columns(incidental).equals(before.drop_columns(incidental))
    assert [data for _, data in read_all(run.folder("fetch"), PART, after)]
    assert healing.rounds(run.store) == {}


def test_a_lost_marker_counts_as_other_content(run: Run) -> None:
    folder = run.folder("fetch")
    run.store.delete(folder.marker_name(PART))
    the_web_moves_on(run)
    run.write(0.5)
    assert run.go() == Exit.DONE
    assert healing.rounds(run.store)[folder.path] == 1
    embedded = run.folder("embed-pocket").table("images.parquet", PART)
    pixels = run.folder("pixels").table("pixels.parquet", PART)
    whole = shutil.copytree(run.store.url, run.root / "other")
    for short in ("pixels", "embed-pocket"):
        shutil.rmtree(whole / run.folder(short).path)
    other = Run(run.server, run.root)
    other.store = Store(str(whole))
    other.write(0.5)
    assert other.go() == Exit.DONE
    assert other.folder("embed-pocket").table("images.parquet", PART).equals(embedded)
    assert other.folder("pixels").table("pixels.parquet", PART).equals(pixels)


def test_a_kill_at_any_moment_of_the_repair_loses_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped before each write and deletion in turn, the same command repairs the part in the end."""
    path = run.path("fetch", "images.tar")
    path.write_bytes(path.read_bytes()[:2000])
    the_web_moves_on(run)
    run.write(0.5)
    calls = 0

    def stopping(real):  # type: ignore[no-untyped-def]
        def call(*arguments, **keys):  # type: ignore[no-untyped-def]
            nonlocal calls
            calls += 1
            if calls == stop_at:
                raise KeyboardInterrupt
            return real(*arguments, **keys)

        return call

    stop_at, code = 0, Exit.INTERRUPTED
    while code == Exit.INTERRUPTED:
        stop_at += 1
        calls = 0
        with monkeypatch.context() as patch:
            patch.setattr(healing, "_follow", stopping(healing._follow))
            patch.setattr(healing, "_forget", stopping(healing._forget))
            code = Exit(run.go())
    assert code == Exit.DONE
    assert stop_at > 3
    images = run.folder("fetch").table("images.parquet", PART, ["sha256"])["sha256"].to_pylist()
    rows = pq.read_table(
        Path(run.store.url, run.store.read_json("manifest.json")["pack"], "shards", "00000000.parquet")
    ).to_pylist()
    assert {row["sha256"] for row in rows if row["url"] in run.urls()} <= set(images)
    assert main(["verify", run.store.url, "--deep"]) == Exit.DONE
    assert run.store.names("damaged") == []


def test_a_file_that_is_damaged_again_ends_the_command(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run.path("pixels", "pixels.parquet").unlink()
    real = Outputs.commit

    def commit(self):  # type: ignore[no-untyped-def]
        marker = real(self)
        if self.folder.name == "pixels":
            Path(self.folder.store.path(self.folder.file("pixels.parquet", self.unit))).write_bytes(b"torn")
        return marker

    monkeypatch.setattr(Outputs, "commit", commit)
    run.write(0.5)
    assert run.go() == Exit.AT_FAULT
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"curate: {run.store.url}/pixels-")
    assert last.endswith("it has 4 bytes, not " + last.rpartition(" ")[2])
    monkeypatch.undo()
    assert run.go() == Exit.DONE


def test_files_of_the_result_are_counted_before_it_is_printed(run: Run) -> None:
    before = run.store.read_json("manifest.json")
    shards = Path(run.store.url, before["pack"], "shards")
    packed = {path.name: path.read_bytes() for path in shards.iterdir()}
    (shards / "00000000.tar").write_bytes(packed["00000000.tar"][:-1])
    (shards / "sizes.json").unlink()
    assert run.go() == Exit.DONE
    assert {path.name: path.read_bytes() for path in shards.iterdir()} == packed
    assert run.store.read_json("manifest.json")["pack"] == before["pack"]


def test_a_damaged_summary_is_written_again_from_the_markers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summaries, "BLOCK", 2)
    folder = Folder(Store(str(tmp_path)), "pass", "0" * 12)
    kept = summaries.Summaries(folder, 4, ())
    for unit in range(4):
        out = folder.outputs(unit)
        out.commit()
        kept.add(unit, None)
    name = summaries.name(folder, 2)
    Path(tmp_path, name).write_bytes(folder.store.read(name).replace(b'"unit": 2', b'"unit": 3'))
    with pytest.raises(Damaged, match=r"000001\.json: its bytes changed") as raised:
        list(summaries.markers(folder, range(4)))
    told: list[str] = []
    healing.set_aside(folder.store, raised.value, told.append)
    assert not folder.store.exists(name)
    assert folder.units() == {0, 1, 2, 3}
    assert [unit for unit, _ in summaries.markers(folder, range(4))] == [0, 1, 2, 3]


def test_the_parts_of_a_whole_stay(run: Run) -> None:
    select = run.folder("select")
    kept = select.marker(0)
    run.path("select", "decisions.parquet").unlink()
    shutil.rmtree(Path(run.store.url, run.folder("pack").path))
    assert run.go() == Exit.DONE
    assert select.marker(0) == kept
    assert select.marker(PART).files["decisions.parquet"].name != kept.files["decisions.parquet"].name
    assert select.is_done(WHOLE)
