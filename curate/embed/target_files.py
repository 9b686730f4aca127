"""Finds the target images that a recipe names, and reads them; imports nothing heavy."""

import hashlib
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from curate.errors import RecipeError, one_line
from curate.remembered import Remembered
from curate.store import Store, access_errors

MOST = 10_000
"""Most images in one set: every image of the run is compared with each of them."""

_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".avif")
_AT_ONCE = 16


@dataclass(frozen=True)
class TargetImage:
    """A target image: its path, and the sha256 of its bytes."""

    path: str
    sha256: str


def find(
    where: str, paths: Sequence[str], endpoint: str | None = None, remembered: Remembered | None = None
) -> list[TargetImage]:
    """Returns the images that files, folders and globs name: distinct contents, sorted by digest.

    Args:
        where: the key in the recipe, for errors.
        paths: files, folders and globs, as in the recipe.
        endpoint: an S3 server other than AWS.
        remembered: digests of files that have not changed since an earlier command are taken from it.

    Raises:
        RecipeError: a path names no image or cannot be read, or there are more than `MOST`.
    """
    files: dict[str, None] = {}
    for path in paths:
        try:
            matched = _match(path, endpoint)
        except FileNotFoundError as error:
            raise RecipeError(f"{where}: {path} does not exist") from error
        except access_errors(path) as error:
            raise RecipeError(f"{where}: {path} cannot be read: {one_line(error)}") from error
        if not matched:
            raise RecipeError(f"{where}: {path} names no image ({', '.join(_IMAGES)})")
        files |= dict.fromkeys(matched)
    if len(files) > MOST:
        raise RecipeError(f"{where}: {len(files):,} images; a set holds {MOST:,} at most")
    known = Remembered(endpoint) if remembered is None else remembered

    def digest(path: str) -> str:
        found = known.get("image", path, lambda: (hashlib.sha256(read(where, path, endpoint)).hexdigest(), [path]))
        return str(found)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        digests = pool.map(digest, files)
        by_digest = {digest: path for path, digest in zip(files, digests, strict=True)}
    return [TargetImage(path, digest) for digest, path in sorted(by_digest.items())]


def _match(path: str, endpoint: str | None) -> list[str]:
    store = Store(path, endpoint)
    fs, kind = store.fs, store.kind()
    if kind == "file":
        names = [path]
    elif re.search(r"[*?\[]", path):
        names = fs.glob(path)
    elif kind == "directory":
        names = fs.find(path)
    else:
        raise FileNotFoundError(path)
    spelt = [str(fs.unstrip_protocol(name)) if "://" in path else str(name) for name in names]
    return sorted(name for name in spelt if name.lower().endswith(_IMAGES))


def read(where: str, path: str, endpoint: str | None) -> bytes:
    """Returns the bytes of a target image; arguments as for `find`. Raises RecipeError."""
    folder, _, file = path.rpartition("/")
    try:
        return Store(folder or ("/" if path.startswith("/") else "."), endpoint).read(file)
    except access_errors(path) as error:
        raise RecipeError(f"{where}: {path} cannot be read: {one_line(error)}") from error
