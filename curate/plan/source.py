"""Finds the files that a recipe's source names, and their columns, before anything is written."""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from curate import schema
from curate.credentials import shown, without_signature
from curate.errors import SourceError, nearest
from curate.plan.cells import is_list_of_texts, plain_type
from curate.plan.formats.contract import Dialect, ListFile, readable
from curate.plan.formats.registry import by_suffix, is_list, list_file
from curate.plan.paths import last_word, plain_path, spelt
from curate.remembered import Remembered
from curate.store import Store

_PREFIX = "source_"

MOST_PASSED = 1000
"""Columns that are passed through, at most; each costs time and memory in every part."""

_AT_ONCE = 16
"""Files that are looked at concurrently; a listing over thousands of remote files waits for the network."""


@dataclass(frozen=True)
class Source:
    """The recipe's `source`.

    `url` and `caption` are column names, or numbers where there is no header; `caption` is None where the recipe wants
    no captions.
    """

    paths: tuple[str, ...]
    url: str | int
    caption: str | int | None
    uid: str | None
    header: bool
    quoted: bool | None
    keep_columns: tuple[str, ...] | None
    digests: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, source: Mapping[str, Any]) -> "Source":
        """The source from the recipe's dump."""
        keep = source["keep_columns"]
        return cls(
            tuple(source["paths"]),
            source["url"],
            source["caption"],
            source["uid"],
            source["header"],
            source["quoted"],
            None if keep is None else tuple(keep),
            {kind: source[kind] for kind in ("sha256", "md5") if source[kind] is not None},
        )


@dataclass(frozen=True)
class Passed:
    """A column of the source that is passed through.

    Args:
        name: in the source.
        to: its name in the plan: `source_<name>`.
        type: its type in the plan.
    """

    name: str
    to: str
    type: pa.DataType


@dataclass(frozen=True)
class Layout:
    """The files of a source in order, and their columns.

    Args:
        files: the lists, in the order in which their rows are numbered.
        url: the name of the URL's column in every list but txt.
        caption: the name of the caption's column; None where the source has no captions.
        uid: the name of the column of pair ids, where there is one.
        dialect: the dialect of the lists.
        several: paths of lists whose rows may have several captions.
        kept: the columns passed through.
        digests: the names of the columns of expected digests, by kind.
    """

    files: tuple[ListFile, ...]
    url: str
    caption: str | None
    uid: str | None
    dialect: Dialect
    several: frozenset[str] = frozenset()
    kept: tuple["Passed", ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)

    @property
    def plan(self) -> pa.Schema:
        """The plan table's schema."""
        passed = [pa.field(column.to, column.type) for column in self.kept]
        return pa.schema([*schema.PLAN, *passed, *(pa.field(f"expected_{kind}", pa.string()) for kind in self.digests)])

    def to_json(self) -> dict[str, Any]:
        """The layout as JSON holds it, without paths."""
        return {
            "files": len(self.files),
            "url": self.url,
            "caption": self.caption,
            "several": [number for number, file in enumerate(self.files) if file.path in self.several],
            "kept": [[column.name, column.to] for column in self.kept],
            "plan": base64.b64encode(self.plan.serialize().to_pybytes()).decode(),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], source: Mapping[str, Any], endpoint: str | None) -> "Layout":
        """The layout of the same source from its stored form; finds the files again, and reads none.

        Raises:
            SourceError: there are more or fewer files than before.
        """
        asked = Source.of(source)
        files = find(asked.paths, endpoint)
        if len(files) != stored["files"]:
            raise SourceError(f"the lists changed while they were read: {stored['files']} files, then {len(files)}")
        plan = pa.ipc.read_schema(pa.BufferReader(base64.b64decode(stored["plan"])))
        return cls(
            tuple(files),
            stored["url"],
            stored["caption"],
            asked.uid,
            Dialect(asked.header, asked.quoted),
            frozenset(files[number].path for number in stored["several"]),
            tuple(Passed(name, to, plan.field(to).type) for name, to in stored["kept"]),
            asked.digests,
        )


def listing(
    paths: Sequence[str], endpoint: str | None = None, remembered: Remembered | None = None
) -> list[dict[str, Any]]:
    """The files of a source as a run's identity holds them: `path`, `name`, `size` (bytes) and `etag`, in order.

    `name` (the path's last word), `size` and `etag` identify the file, whatever its folder and the signature of its
    URL, which `path` is without. `etag` is the store's own where there is one, else the blake2b-128 of the content: a
    file that was copied or touched keeps its identity, one that was edited does not.

    Args:
        paths: the recipe's `source.paths`.
        endpoint: the S3 server, as for `Store`.
        remembered: digests of files that have not changed since an earlier command are taken from it.

    Raises:
        SourceError: a path matches nothing, cannot be read, or is not a list.
    """
    files = find(paths, endpoint)
    known = Remembered(endpoint) if remembered is None else remembered
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda file: _identity(file, known), files))


def find(paths: Sequence[str], endpoint: str | None = None) -> list[ListFile]:
    """The lists that files, folders and globs name, each once, in the order of the paths and sorted within each.

    A folder gives the lists in it and below it. In folders and globs, files and folders whose names begin with `.` or
    `_` are left out.

    Raises:
        SourceError: a path matches nothing, is not a list, is a folder of lists in several formats, or is named with
            two signatures.
    """
    files: dict[str, ListFile] = {}
    for path in paths:
        for found in _match(path, endpoint):
            known = files.setdefault(plain_path(without_signature(found.path)), found)
            if known.signed != found.signed:
                raise SourceError(f"{found.path} is named twice, with different signatures; leave one of them out")
    return list(files.values())


def look(source: Mapping[str, Any], endpoint: str | None = None) -> Layout:
    """Finds the files and decides on the columns; only footers and first lines are read.

    Args:
        source: the recipe's `source`, dumped.
        endpoint: the S3 server, as for `Store`.

    Raises:
        SourceError: a file cannot be read, a named column is missing, two files disagree, or all are empty.
    """
    asked = Source.of(source)
    dialect = Dialect(asked.header, asked.quoted)
    files = find(asked.paths, endpoint)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        heads = list(pool.map(lambda file: file.format.head(file, dialect), files))
    if not any(head.rows for head in heads):
        names = files[0].path if len(files) == 1 else f"the {len(files)} files of {', '.join(map(shown, asked.paths))}"
        raise SourceError(f"the list is empty: no rows in {names}")
    if asked.caption is not None:
        asked = replace(asked, caption=_caption_of(asked, files))
    with_columns: list[Columns] = []
    several: set[str] = set()
    for file, head in zip(files, heads, strict=True):
        if not file.format.only_urls and (head.rows or head.types):
            _check_named(asked, file, head.types)
            with_columns.append(Columns(file.path, head.types, file.format.values.typed))
            if asked.caption is not None and file.format.values.may_hold_several(head.types[str(asked.caption)]):
                several.add(file.path)
    kept = passed_through(asked, with_columns)
    if len(kept) > MOST_PASSED:
        raise SourceError(
            f"the lists have {len(kept):,} columns besides those that the recipe names; name those to pass through, "
            f"{MOST_PASSED:,} at most, with source.keep_columns"
        )
    caption = None if asked.caption is None else str(asked.caption)
    return Layout(tuple(files), str(asked.url), caption, asked.uid, dialect, frozenset(several), kept, asked.digests)


@dataclass(frozen=True)
class Columns:
    """The columns of one list, or of the jsons of one place of samples.

    Args:
        path: of the list or place.
        types: by column name.
        typed: whether the format states the types; otherwise they were inferred from the first rows.
    """

    path: str
    types: Mapping[str, pa.DataType]
    typed: bool


def _match(url: str, endpoint: str | None) -> list[ListFile]:
    store, path = Store(url, endpoint), shown(url)
    with readable(path):
        fs = store.fs
        # A name with brackets may be a file's own.
        kind = store.kind()
        if kind == "file":
            return [list_file(url, endpoint)]
        if path != url:
            raise SourceError(f"{path} cannot be read: it does not exist, or its signature has expired")
        folder = kind == "directory"
        if not folder and not re.search(r"[*?\[]", path):
            raise SourceError(f"{path} does not exist")
        found = fs.find(path, detail=True) if folder else fs.glob(path, detail=True)
    names = sorted(spelt(fs, path, name) for name, info in found.items() if info["type"] == "file")
    names = [name for name in names if _shown(name, path)]
    if not folder:
        if not names:
            raise SourceError(f"{path}: no file matches")
        return [list_file(name, endpoint) for name in names]
    lists = [list_file(name, endpoint) for name in names if is_list(name)]
    kinds = sorted({file.format.name for file in lists})
    if len(kinds) > 1:
        raise SourceError(
            f"{path} holds lists of several formats ({', '.join(kinds)}); name one by a glob, "
            f"such as {path.rstrip('/')}/*.{kinds[0]}"
        )
    if not lists:
        raise SourceError(f"{path} holds no list ({', '.join(sorted(by_suffix()))})")
    return lists


def _shown(name: str, asked: str) -> bool:
    """Whether no hidden name is between the asked folder (or a glob's fixed beginning) and the file."""
    fixed = re.split(r"[*?\[]", asked)[0].rstrip("/").count("/")
    return not any(word.startswith((".", "_")) and word not in (".", "..") for word in name.split("/")[fixed:])


def _identity(file: ListFile, remembered: Remembered) -> dict[str, Any]:
    with readable(file.path):
        info = file.store.fs.info(file.store.url)
        if info["size"] is None:
            raise SourceError(f"{file.path} cannot be read: its server does not say its size; download it first")
        etag = str(info.get("ETag") or info.get("etag") or "").strip('"')
        if not etag:
            # Whether a remembered digest still holds is asked by path, and a signed file cannot be read by its path.
            known = Remembered(file.endpoint) if file.signed else remembered
            etag = known.get("list", file.path, lambda: (_digest(file), [] if file.signed else [file.path]))
        name = last_word(without_signature(file.path))
        return {"path": file.path, "name": name, "size": int(info["size"]), "etag": etag}


def _digest(file: ListFile) -> str:
    with file.open() as opened:
        return f"blake2b:{hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16)).hexdigest()}"


def _caption_of(asked: Source, files: Sequence[ListFile]) -> str | int | None:
    """The caption's column; None where all lists hold URLs alone.

    Raises:
        SourceError: some lists have captions, and the format of others cannot hold any.
    """
    without = [file for file in files if file.format.only_urls]
    if without and len(without) < len(files):
        other = next(file for file in files if not file.format.only_urls)
        raise SourceError(
            f"{without[0].path} has no captions, and {other.path} has; say source.caption: null to curate all of them "
            "by image alone, or run them separately"
        )
    return None if without else asked.caption


def _check_named(asked: Source, file: ListFile, types: Mapping[str, pa.DataType]) -> None:
    headerless = not asked.header and file.format.has_header
    for role, name in (("url", asked.url), ("caption", asked.caption), ("uid", asked.uid), *asked.digests.items()):
        if name is None:
            continue
        if isinstance(name, int) and not headerless:
            raise SourceError(f"source.{role}: {file.path} has named columns; numbers need header: false")
        if headerless and not isinstance(name, int) and role in ("url", "caption"):
            raise SourceError(f"source.{role}: without a header columns are numbers from 0, not {name!r}")
        if str(name) not in types:
            there = ", ".join(_shortened(column) for column in [*types][:20]) + (", …" if len(types) > 20 else "")
            raise SourceError(
                f"{file.path} has no column {name!r} (source.{role}), only {there}{_hint(role, name, file, types)}"
            )
        kind = types[str(name)]
        if role == "caption" and is_list_of_texts(kind):
            if asked.uid is not None:
                raise SourceError(
                    f"{file.path}: column {name!r} (source.caption) holds several captions a row, and source.uid names "
                    "one pair a row; leave source.uid out to name pairs by url and caption"
                )
        elif pa.types.is_nested(kind):
            of = "text or a list of texts" if role == "caption" else "text"
            raise SourceError(f"{file.path}: column {name!r} (source.{role}) is {kind}, not {of}")


def _hint(role: str, name: str | int, file: ListFile, types: Mapping[str, pa.DataType]) -> str:
    """A hint for an error about a missing column: what the recipe may have meant."""
    urls = [number for number, column in enumerate(types) if re.match(r"\s*https?://", column)]
    if urls and file.format.has_header:
        return (
            "; its first line looks like a row: say source.header: false and give the columns' numbers from 0 "
            f"(source.url: {urls[0]})"
        )
    hint = nearest(str(name), types)
    if "did you mean" in hint:
        return hint
    return "; where there are no captions, say source.caption: null" if role == "caption" else ""


def _shortened(name: str) -> str:
    return name if len(name) <= 60 else f"{name[:59]}…"


def passed_through(asked: Source, heads: Sequence[Columns]) -> tuple[Passed, ...]:
    """The columns that are passed through: the union over all files, with one type for each."""
    there = {name for head in heads for name in head.types}
    named = {str(asked.url), None if asked.caption is None else str(asked.caption), asked.uid, *asked.digests.values()}
    if asked.keep_columns is None:
        keep = dict.fromkeys(name for head in heads for name in head.types if name not in named)
    else:
        keep = dict.fromkeys(asked.keep_columns)
        for name in keep:
            if name not in there:
                raise SourceError(f"source.keep_columns: no list has a column {name!r}{nearest(name, there)}")
    names = _names(list(keep))
    return tuple(Passed(name, names[name], _one_type(name, heads)) for name in keep)


def _names(keep: Sequence[str]) -> dict[str, str]:
    """The name of each column in the plan, distinct without regard to case, as SQL ignores it.

    The shards of a Curate result may be a source, and have columns that are named `source_x` already. Such a column
    keeps its name, unless the source also has a column `x`, which takes it: then it becomes `source_source_x`.
    """
    names: dict[str, str] = {}
    taken = {column.name: column.name for column in schema.PLAN}
    for name in sorted(keep, key=_generation):
        passed = name if _generation(name) else _PREFIX + name
        while _generation(name) and passed.lower() in taken:
            passed = _PREFIX + passed
        if passed.lower() in taken:
            raise SourceError(
                f"column {name!r} would become {passed}, but {taken[passed.lower()]} exists already; "
                "leave one out with source.keep_columns"
            )
        names[name] = taken[passed.lower()] = passed
    return names


def _generation(name: str) -> int:
    """The number of times that a column was passed through already."""
    rest, times = name, 0
    while rest.startswith(_PREFIX) and rest != _PREFIX:
        rest, times = rest.removeprefix(_PREFIX), times + 1
    return times


def _one_type(name: str, heads: Sequence[Columns]) -> pa.DataType:
    """A type that can hold a column's values of every file; text where inferred types disagree."""
    first, kind, loose = "", None, False
    for head in heads:
        if name not in head.types:
            continue
        other, guessed = head.types[name], not head.typed
        if kind is None or kind == other:
            first, kind, loose = first or head.path, other, loose or guessed
            continue
        try:
            pair = [pa.schema([(name, one)]) for one in (kind, other)]
            kind = plain_type(pa.unify_schemas(pair, promote_options="permissive").field(name).type)
        except pa.ArrowException as error:
            if (loose or guessed) and not pa.types.is_nested(kind) and not pa.types.is_nested(other):
                kind = pa.string()
            else:
                raise SourceError(
                    f"column {name!r} is {kind} in {first} and {other} in {head.path}; "
                    "make them agree, or leave it out with source.keep_columns"
                ) from error
        loose = loose or guessed
    assert kind is not None, "a kept column is in one file at least"
    return kind
