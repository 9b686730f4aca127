"""What the command line says, without a run."""

import subprocess
import sys

import pytest

from curate import __version__, cli, verify
from curate.errors import counted


def test_the_package_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "curate", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"curate {__version__}\n")


@pytest.mark.parametrize(("number", "words"), [(0, "0 parts"), (1, "1 part"), (2, "2 parts"), (12_000, "12,000 parts")])
def test_one_of_a_thing_is_no_plural(number, words):
    assert counted(number, "part") == words
    assert counted(number, "part is", "parts are").partition(" ")[2] == ("part is" if number == 1 else "parts are")


@pytest.mark.parametrize(("faults", "said"), [(["a"], "1 fault"), (["a", "b"], "2 faults")])
def test_verify_counts_its_faults(faults, said, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(verify, "verify", lambda *_args, **_how: faults)
    assert cli.main(["verify", str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == said
