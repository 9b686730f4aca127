"""Blocklists: digests of files that are never stored."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from curate.errors import RecipeError
from curate.store import Store, access_errors

_DIGEST = re.compile(r"[0-9a-f]{32}|[0-9a-f]{64}")


@dataclass(frozen=True)
class Blocklist:
    """A set of digests as bytes: 16 bytes are an md5, 32 a sha256."""

    digests: frozenset[bytes] = field(default=frozenset(), repr=False)

    def names(self, body: bytes, sha256: str) -> bool:
        """Returns whether a body is listed; its sha256, in hex digits, is given by the caller, who has computed it."""
        if bytes.fromhex(sha256) in self.digests:
            return True
        return self._has_md5 and hashlib.md5(body, usedforsecurity=False).digest() in self.digests

    @property
    def fingerprint(self) -> str:
        """A digest of the listed digests, independent of the files that hold them; empty where there are none."""
        if not self.digests:
            return ""
        whole = hashlib.sha256()
        for digest in sorted(self.digests):
            whole.update(len(digest).to_bytes(1, "big") + digest)
        return whole.hexdigest()

    def __post_init__(self) -> None:
        object.__setattr__(self, "_has_md5", any(len(digest) == 16 for digest in self.digests))

    _has_md5: bool = field(init=False, default=False, repr=False)


def read(paths: Sequence[str], endpoint: str | None = None) -> Blocklist:
    """Reads lists of digests: one digest a line, in hex; text after a space or a `#` is ignored.

    Args:
        paths: local paths or URLs.
        endpoint: an S3 server other than AWS.

    Raises:
        RecipeError: a list cannot be read, or a line is not a digest.
    """
    digests: set[bytes] = set()
    for path in paths:
        for number, word in words("fetch.blocklists", path, endpoint):
            if not _DIGEST.fullmatch(word):
                raise RecipeError(f"fetch.blocklists: {path}, line {number}: not a sha256 or md5 in hex")
            digests.add(bytes.fromhex(word))
    return Blocklist(frozenset(digests))


def as_laid_out(settings: Mapping[str, Any]) -> Blocklist:
    """Reads the lists of a worker's settings: the recipe's `fetch` section, `endpoint` and `blocked`.

    Raises:
        RecipeError: as `read`, or they are not those that `blocked`, their fingerprint, was computed from.
    """
    listed = read(settings["blocklists"], settings["endpoint"])
    if listed.fingerprint != settings["blocked"]:
        raise RecipeError("fetch.blocklists: they changed during the run; start it again")
    return listed


def words(key: str, path: str, endpoint: str | None = None) -> Iterator[tuple[int, str]]:
    """Yields the first word of each line of a list, in small letters, with the line's number; comments have none.

    Args:
        key: the recipe's key, for errors.
        path: a local path or a URL.
        endpoint: an S3 server other than AWS.

    Raises:
        RecipeError: the list cannot be read.
    """
    folder, _, name = path.rpartition("/")
    store = Store(folder or ("/" if path.startswith("/") else "."), endpoint)
    try:
        lines = store.read(name).decode("ascii").splitlines()
    except access_errors(path) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise RecipeError(f"{key}: {path} cannot be read: {reason}") from error
    for number, line in enumerate(lines, 1):
        found = line.partition("#")[0].lower().split()
        if found:
            yield number, found[0]
