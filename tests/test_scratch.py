"""Scratch folders end with their owners, or with the next process that needs one."""

import fcntl
import os
import platform
import signal
import subprocess
import sys
import time

import pytest

from curate.scratch import scratch

OURS = f"curate-{platform.node()}-"

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
    (temporary / f"{OURS}note").write_text("a file")
    (temporary / f"{OURS}photos").mkdir()
    (temporary / f"{OURS}link").symlink_to(temporary / f"{OURS}photos")
    # Another machine's, on a disk that both have.
    elsewhere = temporary / "curate-elsewhere-fetch-x"
    elsewhere.mkdir()
    (elsewhere / "lock").touch()
    age(temporary, 3600)
    assert len(others(temporary)) == 4


def test_without_locks_folders_are_made_and_none_is_removed(temporary, owner, monkeypatch):
    def flock(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    age(temporary, 3600)
    assert len(others(temporary)) == 1
