"""What the command line says, without a run."""

import subprocess
import sys

import pytest

from curate import __version__
from curate.commands import main as cli
from curate.errors import counted


def test_the_package_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "curate", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"curate {__version__}\n")


@pytest.mark.parametrize(("number", "words"), [(0, "0 parts"), (1, "1 part"), (2, "2 parts"), (12_000, "12,000 parts")])
def test_one_of_a_thing_is_no_plural(number, words):
    assert counted(number, "part") == words
    assert counted(number, "part is", "parts are").partition(" ")[2] == ("part is" if number == 1 else "parts are")


def test_an_output_that_holds_other_things_is_refused(tmp_path, capsys):
    (tmp_path / "list.csv").write_text("url,caption\nhttp://127.0.0.1:1/a.jpg,a caption\n")
    (tmp_path / "recipe.yaml").write_text(
        f"{{version: 1, source: {{paths: [{tmp_path}/list.csv]}}, output: {tmp_path}/run}}"
    )
    command = ["run", str(tmp_path / "recipe.yaml"), "--dry-run"]
    # What a desktop, a version control and a run that died while it planned leave there is none.
    (tmp_path / "run" / "plan-0123456789ab" / "parts").mkdir(parents=True)
    for name in (".DS_Store", ".gitkeep"):
        (tmp_path / "run" / name).touch()
    assert cli.main(command) == 0
    for name in ("notes.txt", "plan-b"):
        (tmp_path / "run" / name).mkdir()
    capsys.readouterr()
    assert cli.main(command) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == (
        f"curate: output: {tmp_path}/run is not empty and is not a Curate run (found: 'notes.txt', 'plan-b'); "
        "name a new or an empty folder"
    )


def test_a_dry_run_writes_nothing_not_even_the_folder(tmp_path, capsys):
    (tmp_path / "list.csv").write_text("url,caption\nhttp://127.0.0.1:1/a.jpg,a caption\n")
    (tmp_path / "recipe.yaml").write_text(
        f"{{version: 1, source: {{paths: [{tmp_path}/list.csv]}}, output: {tmp_path}/run}}"
    )
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["run", str(tmp_path / "recipe.yaml"), "--dry-run"]) == 0
    captured = capsys.readouterr()
    assert "would run over 1 file;" in captured.out
    assert "'pocket' knows only drawn shapes" in captured.err
    assert sorted(tmp_path.rglob("*")) == before
