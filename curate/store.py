"""Reads and writes the files of a run, local or remote; no other module touches the file system of a run.

`Store` is a root (a folder or an fsspec URL) with whole-file operations: a name either does not exist or holds all of
its bytes. `Folder` is the folder of one pass, with its markers. `Inputs` gives a pass the committed files of the passes
before it; `Outputs` takes the files that it writes.

A marker, `done/<unit>.json`, is written last. It is created and never replaced, so the first one wins. Data files have
the attempt in their names and are found through the marker alone, so files of a killed or late worker are never read.
"""

import contextlib
import dataclasses
import errno
import hashlib
import io
import json
import os
import random
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from curate.checksums import Changed, check_entries, check_footer, footer_crc32, footer_crc32_of, json_bytes, json_of
from curate.errors import BrokenResult, Damaged, StoreError
from curate.scratch import scratch

WHOLE = -1
"""The unit of a pass that does not work by parts, and of a pass's summary of all its parts."""

Json = dict[str, Any]

_ATTEMPTS = 7
"""Attempts at one S3 request, so that it survives six errors of the server in a row. The pauses between them double, up
to 20 s, and take about 25 s in all."""

_READ_ATTEMPTS = 3
"""Attempts of s3fs at a read; whole files are read up to `_ATTEMPTS` times."""

_CONNECT_TIMEOUT = 5.0
_READ_TIMEOUT = 15.0
"""Seconds without a byte from an S3 server after which an attempt is given up."""

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)

HALF_FILE = re.compile(r"\.(?P<name>[^/]+)\.[0-9a-f]{8}")
"""The name of a local file that is being written, or whose writer was killed; listings do not show it."""

_BESIDE = ".work"
"""The end of the name of the folder that holds a result's bookkeeping, next to the result."""


@dataclass(frozen=True)
class Store:
    """A root folder or URL; files below it are read and written as a whole.

    Args:
        url: a local path, or any fsspec URL (`s3://bucket/run`).
        endpoint: for s3, the endpoint of a server that is not AWS; by default `AWS_ENDPOINT_URL`.
    """

    url: str
    endpoint: str | None = None

    @property
    def local_root(self) -> Path | None:
        """The folder, where the root is a local one."""
        if self.url.startswith("file://"):
            return Path(self.url.removeprefix("file://"))
        return None if "://" in self.url else Path(self.url)

    @property
    def fs(self) -> Any:
        """The fsspec file system (fsspec keeps one instance per process and arguments)."""
        return _filesystem(self.url, self.endpoint)

    def path(self, name: str = "") -> str:
        """The full path or URL of a name, for other tools and for messages."""
        return f"{self.url.rstrip('/')}/{name}" if name else self.url

    @contextlib.contextmanager
    def accessible(self, doing: str = "read") -> Iterator[None]:
        """Turns errors of the file system inside the block into a StoreError of one line."""
        try:
            yield
        except access_errors(self.url) as error:
            raise StoreError(f"{self.url} cannot be {doing}: {_one_line(error)}") from error

    def check_writable(self) -> str:
        """Tries the operations of a run: writes a small file, reads it back, creates it twice, deletes it.

        Returns:
            A warning in one line where two writers that create the same name may both succeed; else ''. In such a
            place a single driver is safe. Several drivers, or a worker that was replaced and still runs, may commit the
            same part twice, and passes that ran in between have read the files of the first commit.

        Raises:
            StoreError: the place cannot be written, in one line.
        """
        name = f".curate-{secrets.token_hex(4)}"
        with self.accessible("written"):
            self.put(name, b"curate")
            try:
                if self.read(name) != b"curate":
                    raise StoreError(f"{self.url}: a file that was just written has other content when it is read")
                self.delete(name)
                if not self._create(name, b"first"):
                    raise StoreError(f"{self.url}: a file that was just deleted still exists")
                both_win = self._create(name, b"second")
            finally:
                self.delete(name)
        if not both_win:
            return ""
        return (
            f"{self.url}: this server lets a second writer replace what the first one created (it ignores "
            "If-None-Match); run one command at a time on this output"
        )

    def put(self, name: str, data: bytes) -> None:
        """Writes a whole file; readers see the old content or the new, never a part of it."""
        if root := self.local_root:
            with _beside(root / name) as aside:
                aside.write_bytes(data)
                aside.replace(root / name)
        else:
            self.fs.pipe_file(self.path(name), data)

    def put_file(self, name: str, source: Path) -> None:
        """Writes a local file here as a whole. A local store moves the file, a remote one copies it."""
        if root := self.local_root:
            with _beside(root / name) as aside:
                shutil.move(source, aside)
                aside.replace(root / name)
        else:
            self.fs.put_file(str(source), self.path(name))

    def create(self, name: str, data: bytes) -> bool:
        """Writes a whole file unless the name exists; returns whether this call created it.

        Atomic on local disks and on S3 servers that support If-None-Match. Elsewhere two writers that meet within one
        request may both get True, and the later content remains.
        """
        if not self.local_root and self.exists(name):
            return False
        return self._create(name, data)

    def _create(self, name: str, data: bytes) -> bool:
        """Does what `create` does, but relies on the store alone to refuse the second writer."""
        if root := self.local_root:
            with _beside(root / name) as aside:
                aside.write_bytes(data)
                try:
                    os.link(aside, root / name)
                except FileExistsError:
                    return False
                except OSError as error:
                    if error.errno not in _NO_LINKS:
                        raise
                    raise StoreError(
                        f"{self.url} is on a file system without hard links, which a run needs to commit its parts; "
                        "choose an output on another file system"
                    ) from error
                return True
        try:
            self.fs.pipe_file(self.path(name), data, mode="create")
        except OSError as error:
            if not _refused_by_condition(error):
                raise
            # The client may have repeated a request that had succeeded, but whose answer was lost.
            return self.read(name) == data
        return True

    def read(self, name: str) -> bytes:
        """The bytes of a file. Raises FileNotFoundError."""
        if root := self.local_root:
            return (root / name).read_bytes()
        return bytes(_whole(lambda: self.fs.cat_file(self.path(name))))

    def read_json(self, name: str) -> Json:
        """The content of a JSON file, an object, without its checksum (`json_bytes`).

        Raises:
            FileNotFoundError: there is no such file.
            BrokenResult: the file is not a JSON object, or differs from its checksum.
        """
        try:
            return json_of(self.read(name))
        except ValueError as error:
            raise BrokenResult(f"{self.path(name)}: {error}") from error

    def put_json(self, name: str, content: Mapping[str, Any], *, sort_keys: bool = True) -> None:
        """Writes a JSON object with its checksum, as a whole."""
        self.put(name, json_bytes(content, indent=1, sort_keys=sort_keys))

    def exists(self, name: str) -> bool:
        """Whether a file of this name exists. An error other than "not found" is raised, never taken for an absence."""
        return self.kind(name) == "file"

    def kind(self, name: str = "") -> str | None:
        """Returns `file` or `directory` (on S3: a prefix of names), or None where nothing has this name.

        fsspec's `isfile` and `isdir` return False for every error, so a server that is away or a wrong key would look
        like an empty place.

        Raises:
            OSError: the store could not answer; also an S3 client's own exceptions (`access_errors`).
        """
        if root := self.local_root:
            path = root / name
            return "file" if path.is_file() else "directory" if path.is_dir() else None
        try:
            return str(self.fs.info(self.path(name))["type"])
        except FileNotFoundError:
            return None

    def delete(self, name: str) -> None:
        """Removes a file; a missing one is no error."""
        with contextlib.suppress(FileNotFoundError):
            if root := self.local_root:
                (root / name).unlink()
            else:
                self.fs.rm_file(self.path(name))

    def delete_folder(self, folder: str) -> None:
        """Removes a folder with everything in it; a missing one is no error."""
        with contextlib.suppress(FileNotFoundError):
            if root := self.local_root:
                shutil.rmtree(root / folder)
            else:
                self.fs.rm(self.path(folder), recursive=True)

    def names(self, folder: str) -> list[str]:
        """The names of the files directly in a folder, sorted; a missing folder has none."""
        try:
            if root := self.local_root:
                found = [entry.name for entry in os.scandir(root / folder) if entry.is_file()]
            else:
                listed = self.fs.ls(self.path(folder), detail=True, refresh=True)
                found = [entry["name"].rsplit("/", 1)[-1] for entry in listed if entry["type"] == "file"]
        except FileNotFoundError:
            return []
        return sorted(name for name in found if not name.startswith("."))

    def ages(self, folder: str, *, deep: bool = True) -> dict[str, float]:
        """Every file in a folder, half-written ones included, with the seconds since its last change (0.0: unknown).

        Args:
            folder: a folder; a missing one has no files.
            deep: also the files in its folders.
        """
        found: dict[str, float] = {}
        now = time.time()
        if root := self.local_root:
            for path, _, names in os.walk(root / folder):
                for name in names:
                    file = Path(path, name)
                    # Another command may move or delete it meanwhile.
                    with contextlib.suppress(FileNotFoundError):
                        found[file.relative_to(root).as_posix()] = now - file.stat().st_mtime
                if not deep:
                    break
            return found
        own = self.fs._strip_protocol(self.path()).rstrip("/") + "/"
        listed = self.fs.find(self.path(folder), maxdepth=None if deep else 1, detail=True)
        for name, info in listed.items():
            changed = info.get("LastModified")
            found[name.removeprefix(own)] = now - changed.timestamp() if changed else 0.0
        return found

    def sizes(self, folder: str) -> dict[str, int]:
        """The size of every file in a folder and in its folders, in bytes; a missing folder has no files."""
        found: dict[str, int] = {}
        if root := self.local_root:
            for path, _, names in os.walk(root / folder):
                for name in names:
                    file = Path(path, name)
                    # Another command may move or delete it meanwhile.
                    with contextlib.suppress(FileNotFoundError):
                        found[file.relative_to(root).as_posix()] = file.stat().st_size
            return found
        own = self.fs._strip_protocol(self.path()).rstrip("/") + "/"
        listed = self.fs.find(self.path(folder), detail=True)
        return {name.removeprefix(own): int(info["size"]) for name, info in listed.items()}

    def folders(self) -> list[str]:
        """The names of the folders directly under the root, sorted."""
        return [name for name, kind in self.entries().items() if kind == "directory"]

    def entries(self) -> dict[str, str]:
        """The entries directly under the root, `file` or `directory` by name, sorted, from one listing."""
        try:
            if root := self.local_root:
                found = {entry.name: "directory" if entry.is_dir() else "file" for entry in os.scandir(root)}
                return dict(sorted(found.items()))
            listed = self.fs.ls(self.path(), detail=True, refresh=True)
        except FileNotFoundError:
            return {}
        # Some tools mark a folder of an object store by an empty object of its name.
        own = self.url.partition("://")[2].strip("/")
        inside = [entry for entry in listed if entry["name"].strip("/") != own]
        return dict(sorted((entry["name"].strip("/").rsplit("/", 1)[-1], entry["type"]) for entry in inside))

    def open(self, name: str, block: int | None = None) -> IO[bytes]:
        """A file for reading, seekable.

        Args:
            name: the file; '' where the root is one.
            block: bytes of one request where the store is remote; by default fsspec's.
        """
        if root := self.local_root:
            return (root / name).open("rb")
        opened: IO[bytes] = self.fs.open(self.path(name), "rb", **({"block_size": block} if block else {}))
        return opened

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """The bytes of a file from `start` up to `stop`; fewer where the file is shorter. Raises FileNotFoundError."""
        if root := self.local_root:
            with (root / name).open("rb") as opened:
                opened.seek(start)
                return opened.read(stop - start)
        return bytes(self.fs.cat_file(self.path(name), start=start, end=stop))

    @contextlib.contextmanager
    def as_local(self, name: str) -> Iterator[Path]:
        """Gives the file as a local path: itself where the store is local, else a copy that is deleted afterwards."""
        if root := self.local_root:
            yield root / name
            return
        with scratch("copy") as folder:
            copy = folder / name.rsplit("/", 1)[-1]
            self.download(name, copy)
            yield copy

    def download(self, name: str, target: Path) -> None:
        """Copies a file of a remote store to a local path."""
        _whole(lambda: self.fs.get_file(self.path(name), str(target)))


@dataclass(frozen=True)
class FileInfo:
    """A marker's entry for one file.

    Attributes:
        name: its name in the pass folder.
        bytes: its size.
        sha256: the digest of its bytes, in hex.
        rows: the number of its rows.
        footer: of a table, the CRC-32 of its Parquet footer, which no checksum of a page covers.
        content: the digest of what has to be the same when the unit is done again, where that is not every byte.
    """

    name: str
    bytes: int
    sha256: str
    rows: int | None = None
    footer: int | None = None
    content: str | None = None


@dataclass(frozen=True)
class Marker:
    """The marker of a unit that is done."""

    unit: int
    attempt: str
    files: Mapping[str, FileInfo]
    counts: Mapping[str, int]
    seconds: float
    finished: float
    notes: Sequence[str] = ()

    def to_json(self) -> bytes:
        """The marker as it is stored."""
        return json_bytes(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, stored: Json) -> "Marker":
        """The marker from its stored form. Raises ValueError where it is none."""
        try:
            files = {role: FileInfo(**info) for role, info in stored["files"].items()}
            return cls(**{**stored, "files": files, "notes": tuple(stored["notes"])})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"it is not a marker: {error!r}") from error


@dataclass(frozen=True)
class Folder:
    """One pass's folder in a run: `<name>-<fingerprint>`, with its files, its markers and its pass.json.

    Args:
        store: the run's root.
        name: the pass, with its model or scorer (`fetch`, `embed-l14`, `signals-caption`).
        fingerprint: a digest of everything that the content depends on, made by `curate.runs.passes.Pass.of`.
        is_result: the folder is the result that users take away; its bookkeeping is in a folder next to it.
    """

    store: Store
    name: str
    fingerprint: str
    is_result: bool = False

    @classmethod
    def at(cls, store: Store, path: str) -> "Folder":
        """The folder of that path in a run, of any pass."""
        name, _, fingerprint = path.rpartition("-")
        return cls(store, name, fingerprint, is_result=store.exists(f"{path}{_BESIDE}/pass.json"))

    @classmethod
    def all_in(cls, store: Store) -> list["Folder"]:
        """Every pass's folder in a run, by path."""
        begun = [path for path in store.folders() if store.exists(f"{path}/pass.json")]
        return [cls.at(store, path) for path in sorted({path.removesuffix(_BESIDE) for path in begun})]

    @property
    def path(self) -> str:
        """The folder's name in the run."""
        return f"{self.name}-{self.fingerprint}"

    @property
    def bookkeeping(self) -> str:
        """The name of the folder with pass.json, done/, failed/ and attempts/: this one, or for a result the next."""
        return self.path + _BESIDE * self.is_result

    def described(self) -> Json:
        """The content of pass.json: name, version, params, upstream, how. Raises FileNotFoundError."""
        return self.store.read_json(f"{self.bookkeeping}/pass.json")

    def marker_name(self, unit: int = WHOLE) -> str:
        """The name, in the store, of a unit's marker."""
        return f"{self.bookkeeping}/done/{key(unit)}.json"

    def units(self) -> set[int]:
        """The units that are done, from one listing."""
        found = (unit_of(name) for name in self.store.names(f"{self.bookkeeping}/done"))
        return {unit for unit in found if unit is not None}

    def is_done(self, unit: int = WHOLE) -> bool:
        """Whether this unit has its marker."""
        return self.store.exists(self.marker_name(unit))

    def marker(self, unit: int = WHOLE) -> Marker:
        """The marker of a unit.

        Raises:
            FileNotFoundError: the unit is not done.
            Damaged: the marker cannot be read.
        """
        name = self.marker_name(unit)
        try:
            return Marker.from_json(json_of(self.store.read(name)))
        except ValueError as error:
            raise Damaged(f"{self.store.path(name)}: {error}", self.path, [unit]) from error

    def info(self, role: str, unit: int = WHOLE) -> FileInfo:
        """The entry of a unit's file of that role in its marker.

        Raises:
            Damaged: the unit has no marker, although it was done, or one that cannot be read.
            BrokenResult: the unit has no file of that role.
        """
        try:
            files = self.marker(unit).files
        except FileNotFoundError as error:
            raise Damaged(f"{self.store.path(self.marker_name(unit))}: is missing", self.path, [unit]) from error
        if role not in files:
            raise BrokenResult(f"{self.path}: unit {key(unit)} has no file {role!r}, only {sorted(files)}")
        return files[role]

    def file(self, role: str, unit: int = WHOLE) -> str:
        """The name, in the store, of a unit's file of that role."""
        return f"{self.path}/{self.info(role, unit).name}"

    def damaged(self, role: str, unit: int, what: str) -> Damaged:
        """Returns the error of a committed file at fault; `what` says how, after the file's path."""
        return self._damaged(self.info(role, unit), unit, what)

    def _damaged(self, info: FileInfo, unit: int, what: str) -> Damaged:
        return Damaged(f"{self.store.path(f'{self.path}/{info.name}')}: {what}", self.path, [unit])

    @contextlib.contextmanager
    def opened(self, role: str, unit: int = WHOLE) -> Iterator[IO[bytes]]:
        """Opens a unit's file for reading, seekable. Raises Damaged where it is missing."""
        info = self.info(role, unit)
        with self._found(info, unit), self.store.open(f"{self.path}/{info.name}") as opened:
            yield opened

    @contextlib.contextmanager
    def as_local(self, role: str, unit: int = WHOLE) -> Iterator[Path]:
        """Gives a unit's file as a local path (`Store.as_local`). Raises Damaged where it is missing."""
        info = self.info(role, unit)
        with self._found(info, unit), self.store.as_local(f"{self.path}/{info.name}") as path:
            if not path.is_file():
                raise FileNotFoundError(path)
            yield path

    @contextlib.contextmanager
    def _found(self, info: FileInfo, unit: int) -> Iterator[None]:
        """Raises Damaged where the file of a unit that is done is missing."""
        try:
            yield
        except FileNotFoundError as error:
            if self.store.exists(f"{self.path}/{info.name}"):
                raise
            raise self._damaged(info, unit, "is missing") from error

    def table(self, role: str, unit: int = WHOLE, columns: Sequence[str] | None = None) -> pa.Table:
        """A unit's Parquet file as a table.

        Raises:
            Damaged: the file or the marker is missing, or their bytes changed after they were written.
        """
        return self.table_of(self.info(role, unit), unit, columns)

    def table_of(self, info: FileInfo, unit: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The table of a marker's entry. Raises Damaged as `table`."""
        with self._parquet(info, unit) as file:
            table = file.read(columns=columns)
            check_entries(table, file.metadata, range(file.num_row_groups))
            return table

    def tables(self, role: str, unit: int = WHOLE, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The row groups of a unit's Parquet file, each read when it is asked for. Raises as `table`."""
        with self._parquet(self.info(role, unit), unit) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=columns)
                check_entries(table, file.metadata, [group])
                yield table

    def row_group(self, role: str, unit: int, group: int) -> pa.Table:
        """One row group of a unit's Parquet file. Raises as `table`."""
        with self._parquet(self.info(role, unit), unit) as file:
            table = file.read_row_group(group)
            check_entries(table, file.metadata, [group])
            return table

    @contextlib.contextmanager
    def _parquet(self, info: FileInfo, unit: int) -> Iterator[pq.ParquetFile]:
        """Opens a Parquet file after its footer was compared with the marker; pages are compared as they are read."""
        # Not `read_table`, which imports pyarrow.dataset and pandas: a command may need no more than one small table.
        try:
            with self._found(info, unit), self.store.open(f"{self.path}/{info.name}") as opened:
                # Pyarrow reads the footer once more, from the cache: to give it these bytes costs more.
                check_footer(opened, info.bytes, info.footer)
                with pq.ParquetFile(opened, page_checksum_verification=True) as table:
                    yield table
        except (pa.ArrowException, UnicodeDecodeError, OSError, Changed) as error:
            if getattr(error, "errno", None) is not None or not _is_of_content(error):
                raise
            reason = " ".join(str(error).split())
            raise self._damaged(info, unit, f"its bytes changed after they were written: {reason}") from error

    def json(self, role: str, unit: int = WHOLE) -> Json:
        """A unit's JSON file. Raises Damaged where it is missing or its bytes changed after they were written."""
        info = self.info(role, unit)
        with self._found(info, unit):
            data = self.store.read(f"{self.path}/{info.name}")
        if hashlib.sha256(data).hexdigest() != info.sha256:
            raise self.damaged(role, unit, "its bytes changed after they were written (sha256 differs)")
        loaded: Json = json.loads(data)
        return loaded

    def outputs(self, unit: int = WHOLE, attempt: str | None = None) -> "Outputs":
        """The outputs of one attempt at a unit."""
        return Outputs(self, unit, attempt or secrets.token_hex(4))


@dataclass
class Outputs:
    """The files that one attempt at a unit writes; readers see none of them before `commit`.

    A worker sets `counts` (which the report sums over units) and appends to `notes` (a line for each exception); the
    runner then commits.
    """

    folder: Folder
    unit: int
    attempt: str
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    files: dict[str, FileInfo] = field(default_factory=dict)
    started: float = field(default_factory=time.time)

    def put(self, role: str, data: bytes, *, name: str | None = None, rows: int | None = None) -> FileInfo:
        """Writes a file of this unit.

        Args:
            role: the name by which later passes read it (`images.parquet`).
            data: its bytes.
            name: its name in the pass folder, for a result that users read; by default a name with unit and attempt.
                Only a pass whose bytes depend on its inputs alone may give a name without the attempt in it.
            rows: the number of its rows.
        """
        name = name or self._name(role)
        self.folder.store.put(f"{self.folder.path}/{name}", data)
        info = FileInfo(name, len(data), hashlib.sha256(data).hexdigest(), rows)
        self.files[role] = info
        return info

    def put_file(self, role: str, source: Path, *, name: str | None = None, rows: int | None = None) -> FileInfo:
        """Moves a local file into this unit; arguments as in `put`."""
        name = name or self._name(role)
        with source.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
            footer = footer_crc32_of(opened) if role.endswith(".parquet") else None
        info = FileInfo(name, source.stat().st_size, digest, rows, footer)
        self.folder.store.put_file(f"{self.folder.path}/{name}", source)
        self.files[role] = info
        return info

    def put_table(
        self, role: str, table: pa.Table, *, name: str | None = None, incidental: Sequence[str] = ()
    ) -> FileInfo:
        """Writes a table as Parquet (zstd, row groups of some tens of MB).

        Args:
            role: as in `put`.
            table: its rows.
            name: as in `put`.
            incidental: columns that may differ when the unit is done again, such as times.
        """
        data = parquet_bytes(table)
        info = self.put(role, data, name=name, rows=table.num_rows)
        same = parquet_bytes(table.drop_columns(list(incidental))) if incidental else None
        content = None if same is None else hashlib.sha256(same).hexdigest()
        footer = footer_crc32(data)
        self.files[role] = dataclasses.replace(info, footer=footer, content=content)
        return self.files[role]

    def put_json(self, role: str, content: Any, *, name: str | None = None, same: Any = None) -> FileInfo:
        """Writes JSON with sorted keys.

        Args:
            role: as in `put`.
            content: JSON-able.
            name: as in `put`.
            same: what has to be the same when the unit is done again, where that is not all of `content`.
        """
        info = self.put(role, _json_text(content), name=name)
        if same is not None:
            digest = hashlib.sha256(_json_text(same)).hexdigest()
            self.files[role] = dataclasses.replace(info, content=digest)
        return self.files[role]

    def _name(self, role: str) -> str:
        """`pairs/000012.<attempt>.parquet`: files of a role have a folder, so that `pairs/*.parquet` is one dataset."""
        stem, _, extension = role.partition(".")
        return f"{stem}/{key(self.unit)}.{self.attempt}.{extension}"

    def part(self, unit: int) -> "Outputs":
        """The outputs of one part of a pass that runs as a whole; they have to be committed before the whole."""
        return Outputs(self.folder, unit, self.attempt)

    def commit(self) -> Marker:
        """Writes the marker; returns the unit's marker, which is another attempt's where that one was first."""
        marker = Marker(
            self.unit,
            self.attempt,
            dict(self.files),
            dict(self.counts),
            round(time.time() - self.started, 3),
            round(time.time(), 3),
            tuple(self.notes),
        )
        was_first = self.folder.store.create(self.folder.marker_name(self.unit), marker.to_json())
        return marker if was_first else self.folder.marker(self.unit)


@dataclass(frozen=True)
class Inputs:
    """The inputs of a pass: the committed folders of the passes before it, by short name.

    Args:
        folders: `plan`, `fetch`, `pixels`, `embed-<model>`, `signals-<scorer>`, `dedup`, …
        parts: the parts that this run covers (all but those missing or outside the sample).
    """

    folders: Mapping[str, Folder]
    parts: Sequence[int]

    def __getitem__(self, name: str) -> Folder:
        """The folder of that short name."""
        return self.folders[name]


def access_errors(url: str) -> tuple[type[Exception], ...]:
    """The exceptions that reading or writing a place may raise; S3 clients have their own for credentials and hosts."""
    if url.startswith(("http://", "https://")):
        from aiohttp import ClientError

        return (OSError, ValueError, ImportError, ClientError)
    if not url.startswith(("s3://", "s3a://")):
        return (OSError, ValueError, ImportError)
    from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]

    return (OSError, ValueError, ImportError, BotoCoreError)


def absolute(path: str) -> str:
    """A path that does not depend on the current folder: a local one is made absolute, a URL is unchanged."""
    return path if "://" in path else os.path.abspath(path)  # noqa: PTH100 - pathlib's resolve() follows links


def key(unit: int) -> str:
    """The form of a unit in names: at least six digits, `all` for the whole."""
    return "all" if unit == WHOLE else f"{unit:06d}"


def _is_of_content(error: Exception) -> bool:
    """Whether an error is about a file's content; pyarrow raises plain OSErrors, too, for pages that changed."""
    return not isinstance(error, OSError) or isinstance(error, pa.ArrowException) or type(error) is OSError


def _json_text(content: Any) -> bytes:
    return (json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as the bytes of a Parquet file: zstd, row groups of about 32 MB, the same for the same table."""
    sink = io.BytesIO()
    rows = max(1, table.num_rows)
    group = max(1, min(rows, rows * (32 << 20) // max(1, table.nbytes)))
    # Embeddings hardly repeat a value: a dictionary of them makes files longer, and slower to read.
    others = [field.name for field in table.schema if not pa.types.is_fixed_size_list(field.type)]
    dictionary = others if len(others) < table.num_columns else True
    # The checksums of pages are compared when a table is read (`Folder.table`): 1 to 2 % more bytes.
    pq.write_table(
        table, sink, compression="zstd", use_dictionary=dictionary, row_group_size=group, write_page_checksum=True
    )
    return sink.getvalue()


def unit_of(name: str) -> int | None:
    """The unit in whose name a file begins (`000012.json`, `all.1.json`), or None where it names no unit."""
    stem = name.partition(".")[0]
    return WHOLE if stem == "all" else int(stem) if stem.isdecimal() else None


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """Gives a hidden name in the target's folder; a file of that name is removed at the end."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        yield aside
    finally:
        aside.unlink(missing_ok=True)


def _filesystem(url: str, endpoint: str | None) -> Any:
    protocol = url.partition("://")[0] if "://" in url else "file"
    if protocol not in ("s3", "s3a"):
        return fsspec.filesystem(protocol)
    endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    config: Json = {
        "retries": {"mode": "standard", "total_max_attempts": _ATTEMPTS},
        "connect_timeout": _CONNECT_TIMEOUT,
        "read_timeout": _READ_TIMEOUT,
    }
    options: Json = {"use_listings_cache": False, "default_cache_type": "readahead", "config_kwargs": config}
    if endpoint:
        # Servers other than AWS reject, or do not send, the checksums that newer clients add.
        options["endpoint_url"] = endpoint
        config["request_checksum_calculation"] = config["response_checksum_validation"] = "when_required"
        config["s3"] = {"addressing_style": "path"}
    fs = fsspec.filesystem("s3", **options)
    # botocore repeats a request until its answer begins, s3fs a read whose answer breaks off. Where a server stays slow
    # or silent, the two numbers multiply.
    fs.retries = _READ_ATTEMPTS
    return fs


def _whole(transfer: Callable[[], Any]) -> Any:
    """Repeats the transfer of a file while answers break off; s3fs does not where it reads ranges side by side."""
    for attempt in range(1, _ATTEMPTS):
        try:
            return transfer()
        except _broken_off():
            time.sleep(min(0.1 * 2**attempt, 5) * random.random())
    return transfer()


def _broken_off() -> tuple[type[Exception], ...]:
    """The exceptions of an S3 answer that breaks off, not of one that does not come; empty without an S3 client."""
    if "s3fs" not in sys.modules:
        return ()
    from aiohttp import ClientPayloadError
    from botocore.exceptions import IncompleteReadError, ResponseStreamingError

    return (ClientPayloadError, IncompleteReadError, ResponseStreamingError)


def _refused_by_condition(error: OSError) -> bool:
    """Whether the store refused to create a file because it exists (If-None-Match).

    s3fs raises FileExistsError only for AWS's form of the answer; the answers of other servers name no condition.
    """
    answer = getattr(error.__cause__, "response", {}).get("Error", {})
    return isinstance(error, FileExistsError) or answer.get("Code") in ("PreconditionFailed", "412")


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno in errno.errorcode and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
