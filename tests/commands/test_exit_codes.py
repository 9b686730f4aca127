"""Every exit code, reached by a command; the table in docs/exit-codes.md names them all."""

import errno
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import yaml
from helpers.sample_run import sample, write_tar

from curate.commands.main import main
from curate.errors import Exit
from curate.store import Store

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, in_process):
    """A finished run of four images."""
    folder = tmp_path_factory.mktemp("codes")
    write_tar(folder / "a.tar", [member for n in range(4) for member in sample(f"{n}", n, f"caption {n}")])
    content = {
        "version": 1,
        "source": {"kind": "samples", "paths": [str(folder / "a.tar")]},
        "output": str(folder / "run"),
        "select": [{"drop": "narrow", "where": "width < 2"}],
        "storage": {"patience": 0},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    assert main(["run", str(folder / "recipe.yaml"), "--engine", "local"]) == Exit.DONE
    return folder


@pytest.fixture
def place(finished, tmp_path):
    """A copy of the finished run; `recipe.yaml` goes on with it."""
    shutil.copytree(finished / "run", tmp_path / "run")
    content = yaml.safe_load((finished / "recipe.yaml").read_text())
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**content, "output": str(tmp_path / "run")}))
    return tmp_path


def run(place, *more):
    return main(["run", str(place / "recipe.yaml"), "--engine", "local", *more])


def last_line(capsys):
    return capsys.readouterr().err.splitlines()[-1]


def test_the_document_names_every_code_and_no_other():
    text = (ROOT / "docs" / "exit-codes.md").read_text()
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)] == [code.value for code in Exit]
    assert "](docs/exit-codes.md)" in (ROOT / "README.md").read_text()


def test_0_a_run_with_nothing_to_do(place):
    assert run(place) == 0


def test_1_a_part_that_is_set_aside(place, capsys, monkeypatch):
    for path in (place / "run").glob("signals-*/done/*.json"):
        path.unlink()

    def failing(*_arguments):
        raise RuntimeError("a fault of a signal")

    monkeypatch.setattr("curate.signals.worker._table", failing)
    assert run(place) == 1
    assert "1 of 1 parts are set aside (000000)" in last_line(capsys)


def test_2_a_wrong_recipe(place):
    assert run(place, "--set", "part_size=0") == 2


def test_3_a_run_that_keeps_nothing(place, capsys):
    assert run(place, "--set", 'select=[{"drop": "all", "where": "width > 0"}]') == 3


@pytest.mark.parametrize("name", ["recipe.json", "report-", "attempts/"])
def test_4_a_full_disk_is_one_line_wherever_it_is_met(place, capsys, monkeypatch, name):
    put = Store.put

    def full(store, written, data):
        if name in written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(store.path(written)))
        put(store, written, data)

    change = ("--set", "select.narrow.where=width < 3")
    with monkeypatch.context() as patch:
        patch.setattr(Store, "put", full)
        assert run(place, *change) == 4
    said = last_line(capsys)
    assert said.startswith("curate: ")
    assert "[Errno 28] No space left on device" in said
    assert said.endswith("the same command goes on from here")
    assert run(place, *change) == 0


def test_0_a_driver_waits_too_for_a_disk_that_is_full_for_a_while(place, capsys, monkeypatch):
    put, left = Store.put, [3]

    def full(store, written, data):
        if written == "recipe.json" and left[0]:
            left[0] -= 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(store.path(written)))
        put(store, written, data)

    monkeypatch.setattr(Store, "put", full)
    monkeypatch.setattr("curate.runs.patience.FIRST", 0.01)
    assert run(place, "--set", "select.narrow.where=width < 3", "--set", "storage.patience=60") == 0
    waited = [line for line in capsys.readouterr().err.splitlines() if "the driver cannot go on" in line]
    assert len(waited) == 1
    assert waited[0].endswith("/run/recipe.json'; waiting up to 1:00 min for its end (storage.patience)")
    assert left == [0]


@pytest.mark.parametrize("command", ["status", "verify", "explain", "duplicates", "retry-failed"])
def test_4_a_store_that_is_away_is_one_line_for_every_command(s3, capsys, monkeypatch, command):
    monkeypatch.setattr("curate.store._ATTEMPTS", 1)
    more = ["0a1b2c3d"] if command == "explain" else []
    assert main([command, "s3://bucket/run", *more, "--endpoint", "http://127.0.0.1:1"]) == 4
    error = capsys.readouterr().err
    assert error.startswith("curate: s3://bucket/run cannot be read: ")
    assert error.count("\n") == 1


def test_5_a_fault_that_verify_finds(place, capsys):
    (shard,) = (place / "run").glob("pack-*/shards/00000000.tar")
    shard.write_bytes(b"other bytes")
    assert main(["verify", str(place / "run")]) == 5


def test_5_an_identity_that_is_damaged(place, capsys):
    (place / "run" / "run.json").write_bytes(b"{half")
    assert run(place) == 5
    line = last_line(capsys)
    assert "run.json: it is not JSON" in line
    assert line.endswith("; delete it and run the recipe again")
    (place / "run" / "run.json").unlink()
    assert run(place) == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_130_and_143_a_signal(place, capsys, monkeypatch, number, code):
    monkeypatch.setattr("curate.flow.run", lambda *_arguments: signal.raise_signal(number))
    # As in a terminal. A shell starts what runs in its background with SIGINT ignored.
    before = signal.signal(number, signal.default_int_handler)
    try:
        assert run(place) == code
    finally:
        signal.signal(number, before)
    assert last_line(capsys).endswith("finished or given up; the same command continues from here")


def test_every_code_is_reached_in_this_module():
    reached = (re.match(r"test_(\d+)(?:_and_(\d+))?_", name) for name in globals())
    assert {int(code) for found in reached if found for code in found.groups() if code} == {*Exit}
