"""Finds and identifies the places of samples: the tars and folders that a recipe's `source.paths` name."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

from curate.credentials import shown, without_signature
from curate.errors import SourceError
from curate.plan.formats.contract import readable
from curate.plan.paths import plain_path, spelt
from curate.plan.shards import IMAGES
from curate.store import Store

AT_ONCE = 8
"""Places that are looked at concurrently, as remote ones wait for the network."""

_SPOTS = 16
_SPOT_BYTES = 16 << 10
"""A local tar is identified by its size and by `_SPOT_BYTES` bytes at each of `_SPOTS` spots."""

_PACKED = (".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")


@dataclass(frozen=True)
class LooseFile:
    """A file of a folder: its name below the folder, its size, and a stamp that changes when the file does."""

    name: str
    bytes: int
    stamp: str


@dataclass(frozen=True)
class Place:
    """A tar, or a folder of images.

    Args:
        path: as the user would have written it, for messages: a URL without its signature.
        endpoint: the S3 server, as for `Store`.
        files: of a folder, the images, captions and jsons in it and below it, sorted by name; None for a tar.
        name: the last words of the path, as few as distinguish it from the other places, percent-encoded.
        signed: of a tar, the URL with its signature, where it has one; never printed or stored.
    """

    path: str
    endpoint: str | None
    files: tuple[LooseFile, ...] | None = None
    name: str = ""
    signed: str | None = field(default=None, repr=False, compare=False)

    @property
    def store(self) -> Store:
        """The place as a store's root."""
        return Store(self.signed or self.path, self.endpoint)

    def sample_name(self, key: str) -> str:
        """The name that stands for the URL of a sample without one."""
        key = key.removeprefix("./")
        return f"sample:{self.name}/{encoded(key)}"


def encoded(name: str) -> str:
    """Percent-encodes a file's name as in a URL, so that the text keeps every byte, even those that are not UTF-8."""
    return quote(name, safe="/ ,;=@+()!'&", errors="surrogateescape")


def find(paths: Sequence[str], endpoint: str | None = None) -> list[Place]:
    """The tars, and the folders with images, that files, folders and globs name, each once.

    Places follow the order of the paths, sorted within each. A folder gives first the tars in it and below it, then
    its images as one place. Names that begin with `.` are left out.

    Raises:
        SourceError: a path matches nothing, cannot be read, or holds neither.
    """
    found: dict[str, Place] = {}
    for path in paths:
        for place in _match(path, endpoint):
            known = found.setdefault(plain_path(without_signature(place.path)), place)
            if known.signed != place.signed:
                raise SourceError(f"{place.path} is named twice, with different signatures; leave one of them out")
    folders = [path for path, place in found.items() if place.files is not None]
    for inner in folders:
        outer = next((path for path in folders if inner.startswith(f"{path}/")), None)
        if outer:
            raise SourceError(f"{found[inner].path} is inside {found[outer].path}: source.paths names its images twice")
    named = zip(found.values(), names(list(found)), strict=True)
    return [replace(place, name=name) for place, name in named]


def listing(paths: Sequence[str], endpoint: str | None = None) -> list[dict[str, Any]]:
    """The places as a run's identity holds them: `path`, `name`, `size` (bytes) and `etag`, in order.

    `name` is `Place.name`, which names samples without a URL. `etag` is the store's own for a tar that has one, else
    the blake2b-128 of spots spread over the tar; for a folder it is the blake2b-128 of its files' names, sizes, and
    etags or times.

    Raises:
        SourceError: as `find`.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(_identity, find(paths, endpoint)))


def _match(url: str, endpoint: str | None) -> Iterator[Place]:
    store, path = Store(url, endpoint), shown(url)
    with readable(path):
        fs = store.fs
        kind = store.kind()
        if kind == "file":
            yield _tar(url, endpoint)
            return
        if path != url:
            raise SourceError(f"{path} cannot be read: it does not exist, or its signature has expired")
        if kind == "directory":
            yield from _in_folder(fs, path, endpoint)
            return
        if re.search(r"\{\w+\.\.\w+\}", path):
            raise SourceError(f"{path} does not exist; ranges in braces are not supported, write a glob such as *.tar")
        if not re.search(r"[*?\[]", path):
            raise SourceError(f"{path} does not exist")
        matched = sorted((spelt(fs, path, name), info["type"]) for name, info in fs.glob(path, detail=True).items())
    fixed = _fixed(path)
    matched = [(name, kind) for name, kind in matched if _shown(name, fixed)]
    taken = [(name, kind) for name, kind in matched if kind == "directory" or name.lower().endswith((".tar", *_PACKED))]
    if not taken:
        hint = "; for images in a folder, name the folder" if matched else ""
        raise SourceError(f"{path}: no tar or folder matches{hint}")
    for name, kind in taken:
        if kind == "directory":
            with readable(name):
                yield from _in_folder(fs, name, endpoint)
        else:
            yield _tar(name, endpoint)


def _in_folder(fs: Any, folder: str, endpoint: str | None) -> Iterator[Place]:
    tars: list[str] = []
    packed: list[str] = []
    files: list[LooseFile] = []
    fixed = folder.rstrip("/").count("/") + 1
    root = spelt(fs, folder, fs._strip_protocol(folder)).rstrip("/")
    for name, info in fs.find(folder, detail=True).items():
        path = spelt(fs, folder, name)
        if info["type"] != "file" or not _shown(path, fixed):
            continue
        suffix = path.rpartition(".")[2].lower()
        if suffix == "tar":
            tars.append(path)
        elif path.lower().endswith(_PACKED):
            packed.append(path)
        elif suffix in IMAGES or suffix in ("txt", "json"):
            stamp = str(info.get("ETag") or info.get("etag") or info.get("mtime") or "").strip('"')
            files.append(LooseFile(_below(root, path), int(info["size"] or 0), stamp))
    images = any(file.name.rpartition(".")[2].lower() in IMAGES for file in files)
    if packed and not tars and not images:
        _tar(min(packed), endpoint)
    if not tars and not images:
        raise SourceError(f"{folder} holds neither .tar files nor images")
    for tar in sorted(tars):
        yield _tar(tar, endpoint)
    if images:
        yield Place(folder, endpoint, tuple(sorted(files, key=lambda file: file.name)))


def _below(folder: str, name: str) -> str:
    """A file's name below its folder."""
    return name.removeprefix(f"{folder}/") if "://" in name else os.path.relpath(name, folder)


def _tar(url: str, endpoint: str | None) -> Place:
    path, lower = shown(url), without_signature(url).lower()
    if lower.endswith(_PACKED):
        raise SourceError(f"{path} is compressed, and images are read at offsets: unpack it to .tar first")
    if not lower.endswith(".tar"):
        raise SourceError(f"{path} is neither a .tar nor a folder, which source.kind: samples requires")
    return Place(path, endpoint, signed=url if url != path else None)


def _fixed(path: str) -> int:
    """The number of a glob's leading words that contain no wildcard."""
    return re.split(r"[*?\[]", path)[0].rstrip("/").count("/")


def _shown(name: str, fixed: int) -> bool:
    return not any(word.startswith(".") and word not in (".", "..") for word in name.split("/")[fixed:])


def names(paths: Sequence[str]) -> list[str]:
    """The shortest ending of each path, in whole words, that distinguishes it from the others, percent-encoded."""
    words = [[encoded(word) for word in plain_path(path).split("/") if word] for path in paths]
    length = [1] * len(paths)
    while True:
        found = ["/".join(of[-count:]) for of, count in zip(words, length, strict=True)]
        times = Counter(found)
        longer = [n for n, name in enumerate(found) if times[name] > 1 and length[n] < len(words[n])]
        if not longer:
            break
        for n in longer:
            length[n] += 1
    return found


def _identity(place: Place) -> dict[str, Any]:
    if place.files is not None:
        digest = hashlib.blake2b(digest_size=16)
        for file in place.files:
            digest.update(f"{encoded(file.name)}\0{file.bytes}\0{file.stamp}\0".encode())
        size = sum(file.bytes for file in place.files)
        return {"path": place.path, "name": place.name, "size": size, "etag": f"files:{digest.hexdigest()}"}
    with readable(place.path):
        info = place.store.fs.info(place.store.url)
        if info["size"] is None:
            raise SourceError(f"{place.path} cannot be read: its server does not say its size; download it first")
        size, etag = int(info["size"]), str(info.get("ETag") or info.get("etag") or "").strip('"')
        etag = etag or f"spots:{_spots(place, size)}"
        return {"path": place.path, "name": place.name, "size": size, "etag": etag}


def _spots(place: Place, size: int) -> str:
    """A digest of spots at even distances, the first and last bytes included; they cover the whole of a small tar."""
    digest = hashlib.blake2b(digest_size=16)
    with place.store.open("") as opened:
        last = max(0, size - _SPOT_BYTES)
        for spot in range(_SPOTS):
            opened.seek(last * spot // (_SPOTS - 1))
            digest.update(opened.read(_SPOT_BYTES))
    return digest.hexdigest()
