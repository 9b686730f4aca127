"""Scratch folders end with their owners, or with the next process that needs one."""

import os
import signal
import subprocess
import sys
import time

import pytest

from curate.scratch import scratch

OWNER = """
import sys
from curate.scratch import scratch
with scratch("fetch") as folder:
    (folder / "images.tar").write_bytes(b"x" * 1000)
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def owner(temporary):
    process = subprocess.Popen([sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert str(temporary) in process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


def age(temporary, seconds):
    for lock in temporary.glob("curate-*/lock"):
        os.utime(lock, (time.time() - seconds,) * 2)


def others(temporary):
    """Folders there while one of our own is."""
    with scratch("test") as own:
        return [folder.name for folder in temporary.glob("curate-*") if folder != own.parent]


def test_a_folder_ends_with_its_owner(temporary):
    with scratch("fetch") as folder:
        assert not list(folder.iterdir())
        (folder / "a").write_text("a")
    assert not list(temporary.iterdir())


def test_the_folder_of_a_killed_process_is_removed_by_the_next(temporary, owner):
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert len(others(temporary)) == 1, "it is too young to be told from one whose owner has yet to lock it"
    age(temporary, 3600)
    assert not others(temporary)


def test_the_folder_of_a_living_process_stays_however_old(temporary, owner):
    age(temporary, 3600)
    assert len(others(temporary)) == 1
    owner.communicate()
    assert owner.returncode == 0


def test_what_is_not_ours_stays(temporary):
    (temporary / "curate-note").write_text("a file")
    (temporary / "curate-photos").mkdir()
    (temporary / "curate-link").symlink_to(temporary / "curate-photos")
    assert len(others(temporary)) == 3
