"""Findings kept with a run: made again exactly where something changed that they depend on."""

import os
from pathlib import Path

import pytest

from curate import remembered
from curate.remembered import NAME, Remembered
from curate.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "run").mkdir()
    return Store(str(tmp_path / "run"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(b"first")
    aged(path)
    return path


def aged(path: Path) -> None:
    """Dates a file's last change back, as that of a file that no one writes just now."""
    then = path.stat().st_mtime_ns - 10**10
    os.utime(path, ns=(then, then))


def ask(store: Store, file: Path, request: str = "digest") -> tuple[str, bool]:
    """What a command is told, and whether it was found out anew."""
    found_now = []

    def find() -> tuple[str, list[str]]:
        found_now.append(True)
        return file.read_bytes().decode(), [str(file)]

    memory = Remembered.of(store)
    found = memory.get("content", request, find)
    memory.save(store)
    return found, bool(found_now)


def test_a_finding_is_made_once(store: Store, file: Path) -> None:
    assert ask(store, file) == ("first", True)
    assert ask(store, file) == ("first", False)


def test_a_changed_file_or_request_is_looked_at_again(store: Store, file: Path) -> None:
    assert ask(store, file) == ("first", True)
    file.write_bytes(b"other")  # of the same size
    aged(file)
    os.utime(file, ns=(file.stat().st_mtime_ns - 10**9,) * 2)
    assert ask(store, file) == ("other", True)
    assert ask(store, file, "another") == ("other", True)


def test_a_file_that_was_written_just_now_is_not_trusted(store: Store, file: Path) -> None:
    """A second change within a tick of the file system's clock would show in no stamp."""
    file.write_bytes(b"newer")
    assert ask(store, file) == ("newer", True)
    assert ask(store, file) == ("newer", True)


def test_what_another_release_found_is_found_again(store: Store, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(store, file) == ("first", True)
    monkeypatch.setattr(remembered, "__version__", "0.0.0")
    assert ask(store, file) == ("first", True)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"curate": 1}', b'{"findings": 3}'])
def test_a_file_that_is_none_of_ours_is_as_no_file(store: Store, file: Path, content: bytes) -> None:
    store.put(NAME, content)
    assert ask(store, file) == ("first", True)
    assert ask(store, file) == ("first", False)


def test_what_no_command_asks_for_any_more_is_forgotten(store: Store, file: Path) -> None:
    ask(store, file, "one")
    ask(store, file, "two")
    assert ask(store, file, "one") == ("first", True)


def test_what_fails_is_not_remembered(store: Store, file: Path) -> None:
    def fails() -> tuple[str, list[str]]:
        raise FileNotFoundError

    memory = Remembered.of(store)
    with pytest.raises(FileNotFoundError):
        memory.get("content", "digest", fails)
    memory.save(store)
    assert ask(store, file) == ("first", True)


def test_a_new_name_in_a_folder_is_seen(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    memory = Remembered()
    assert memory.get("names", 0, lambda: (1, [str(folder)])) == 1
    again = Remembered(before=memory._used)
    assert again.get("names", 0, lambda: (2, [str(folder)])) == 1
    (folder / "vocab.json").touch()
    assert again.get("names", 0, lambda: (2, [str(folder)])) == 2


def test_remote_files_have_the_stamps_of_their_store(s3: str, store: Store) -> None:
    remote = Store("s3://bucket")
    remote.put("list.csv", b"url,caption\n")
    memory = Remembered()
    assert memory.get("list", 0, lambda: ("a", ["s3://bucket/list.csv"])) == "a"
    memory.save(store)
    assert Remembered.of(store).get("list", 0, lambda: ("b", ["s3://bucket/list.csv"])) == "a"
    remote.put("list.csv", b"url,caption\nhttp://a/1,x\n")
    assert Remembered.of(store).get("list", 0, lambda: ("b", ["s3://bucket/list.csv"])) == "b"
