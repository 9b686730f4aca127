"""`curate verify`: checks a finished result; compares every file, row and sum with the decisions.

It repairs nothing. It holds a part and a shard in memory; the ids of kept pairs are written to the local disk.
"""

import contextlib
import hashlib
import math
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate.against import set_pass
from curate.dedup import certificate
from curate.dedup.against import certificate as matches
from curate.errors import BrokenResult, Damaged, StoreError
from curate.pack.layouts.contract import Packed, ResultLayout
from curate.pack.layouts.registry import layouts
from curate.runs import latest, retention
from curate.runs.identity import stored as stored_identity
from curate.runs.options import RECIPE
from curate.schema import NOT_SAMPLED, REPEATED
from curate.scratch import scratch
from curate.side_by_side import side_by_side
from curate.store import WHOLE, FileInfo, Folder, Marker, Store, key

_UNREADABLE = (OSError, EOFError, pa.ArrowException, BrokenResult, KeyError, ValueError, tarfile.TarError)
"""The exceptions that reading a damaged file can raise."""

_BY_PART = ("plan", "fetch", "pixels", "embed-", "signals-", "select")
"""Short names, or their beginnings, of the folders that have a unit for every part."""


_BY_BLOCK = ("nodes-", "dedup-", "set-", "against-", "known_urls")
"""The beginnings of the short names of folders whose units are blocks, pairs of blocks, or tables."""


class Fault(str):
    """A fault: one line of text, and the places that may be damaged.

    Attributes:
        places: (short name of a folder, unit); unit None for the whole folder.
        file: a file to delete so that the next run writes it again, by its name in the run; else empty.
    """

    __slots__ = ("file", "places")
    places: Sequence[tuple[str, int | None]]
    file: str

    def __new__(cls, line: str, *places: tuple[str, int | None], file: str = "") -> Self:
        """Returns the line with its places."""
        fault = super().__new__(cls, line)
        fault.places, fault.file = places, file
        return fault


@dataclass(frozen=True)
class Manifest:
    """The manifest of a finished run.

    Args:
        folders: every pass folder by its short name.
        pack: the result's folder in the store.
        n_parts: the number of parts of the plan.
        parts: the parts that the result covers, ascending.
        missing: the parts that it lacks.
        layouts: the layouts of the result.
        shard_size: samples of every shard but the last.
        samples: samples of all shards.
        embeddings: the columns of the result's embeddings.
        has_captions: whether the result has captions.
        result: every file of the result by its name in `pack`.
        has_uid: whether the source gives the pair ids.
        of_samples: whether images are read from samples, and not downloaded.
        sample: the share of `--sample`; None for the whole run.
    """

    folders: Mapping[str, Folder]
    pack: str
    n_parts: int
    parts: Sequence[int]
    missing: Sequence[int]
    layouts: Sequence[ResultLayout]
    shard_size: int
    samples: int
    embeddings: Sequence[str]
    has_captions: bool
    result: Mapping[str, FileInfo]
    has_uid: bool
    of_samples: bool
    sample: float | None


def verify(store: Store, *, deep: bool = False, manifest: str = "manifest.json") -> list[Fault]:
    """Checks a finished result.

    The result: every file has the size and digest of the manifest; shards have no gaps, and all but the last are full;
    keys are unique; row i of the layouts' files is the i-th kept pair of the decisions, and there are no other rows.
    The decisions: they have every planned row once, with a reason exactly where the row is dropped, and planned =
    kept + dropped by reason, per part and in total. The bookkeeping: recipe.json, decided.json, every pass.json and the
    result's markers can be read, have their checksums, and agree with the manifest. The searches for near pairs: their
    certificates account for every pair of distinct images.

    Args:
        store: the run's folder.
        deep: also compare every file of every pass with its marker, and some images with all others.
        manifest: the name of the manifest's file.

    Returns:
        One line for each fault, naming the file; empty when there is none.

    Raises:
        StoreError: there is no manifest, and therefore no finished result.
        RecipeError: the result is in a layout that is not installed.
        BrokenResult: the manifest cannot be read.
    """
    said = read_manifest(store, manifest)
    problems: list[Fault] = []
    with scratch("verify") as folder:
        spill = folder / "kept"
        with spill.open("wb") as kept:
            complete = _check_decisions(said, kept, problems)
        problems += _bookkeeping_faults(store, said)
        _check_result(store, said, _ids(spill) if complete else None, problems)
        both = (("select", None), ("pack", None))
        problems += [Fault(f"{said.pack}: key {uid} is not unique", *both) for uid in _repeated(spill)]
    problems += _search_faults(said, deep=deep)
    if deep:
        problems += _marker_faults(store, said)
    return problems


def read_manifest(store: Store, name: str) -> Manifest:
    """The manifest of a finished run.

    Raises:
        StoreError: there is none.
        BrokenResult: it is not a manifest.
        RecipeError: the result is in a layout that is not installed.
    """
    try:
        stored = store.read_json(name)
    except FileNotFoundError as error:
        raise StoreError(f"{store.path(name)} is missing: this folder holds no finished result") from error
    except BrokenResult as error:
        raise BrokenResult(f"{error}; run the recipe again: it writes the file again") from error
    try:
        identity = stored_identity(store)
    except FileNotFoundError as error:
        raise BrokenResult(f"{store.path('run.json')} is missing: the source of the run is unknown") from error
    try:
        pack, missing, parts = str(stored["pack"]), sorted(stored["missing_parts"]), stored["parts"]
        covered = range(parts) if isinstance(parts, int) else sorted(parts)
        paths = stored["folders"]
        return Manifest(
            {short: _folder(store, path) for short, path in paths.items()},
            pack,
            int(stored["n_parts"]),
            [part for part in covered if part not in set(missing)],
            missing,
            layouts(stored["layouts"]),
            int(stored["shard_size"]),
            int(stored["samples"]),
            stored["embeddings"],
            # A manifest of an earlier release does not say it; every model then had a text tower.
            bool(stored.get("captions", any(name.startswith("text_embedding") for name in stored["embeddings"]))),
            {info["name"].removeprefix(f"{pack}/"): FileInfo(**info) for info in stored["result"]},
            identity["columns"].get("uid") is not None,
            identity["columns"].get("kind") == "samples",
            stored.get("sample"),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise BrokenResult(f"{store.path(name)} is not a manifest of this version of Curate: {error!r}") from error


def _folder(store: Store, path: str) -> Folder:
    """The folder of that path, also where the pass.json is lost that shows that it is a result."""
    folder = Folder.at(store, path)
    beside = replace(folder, is_result=True)
    return beside if beside.units() else folder


def _bookkeeping_faults(store: Store, said: Manifest) -> Iterator[Fault]:
    """Reads the files about the run and its passes, and compares the result's markers with the manifest."""
    for name in (RECIPE, latest.name(said.sample)):
        if line := _unreadable(store, name):
            yield Fault(f"{name}: {line}")
    for folder in said.folders.values():
        name = f"{folder.bookkeeping}/pass.json"
        if line := _unreadable(store, name):
            yield Fault(f"{name}: {line}", file=name)
    pack = said.folders["pack"]
    done = pack.units()
    for unit in sorted({*range(math.ceil(said.samples / said.shard_size)), WHOLE} - done):
        yield Fault(f"{pack.marker_name(unit)}: is missing", ("pack", unit))
    for unit in sorted(done):
        name, marker = pack.marker_name(unit), _marker(pack, unit)
        if isinstance(marker, Exception):
            yield Fault(f"{name}: cannot be read: {_line(marker)}", ("pack", unit))
        elif any(said.result.get(info.name) != info for info in marker.files.values()):
            yield Fault(f"{name}: differs from the manifest", ("pack", unit))


def _unreadable(store: Store, name: str) -> str:
    """Why a JSON file of the run cannot be read; empty where it can."""
    try:
        store.read_json(name)
    except FileNotFoundError:
        return "is missing"
    except BrokenResult as error:
        return str(error).removeprefix(f"{store.path(name)}: ")
    return ""


# The decisions -----------------------------------------------------------------------------------------------


def _check_decisions(said: Manifest, kept: IO[bytes], problems: list[Fault]) -> bool:
    """Checks the sums, and writes the ids of kept pairs in the result's order; False where some are unknown."""
    select, plan = said.folders["select"], said.folders["plan"]
    planned, counted, complete = 0, Counter[str | None](), True
    summary: dict[int, tuple[int, int]] = {}

    def found(what: str, unit: int | None, *more: tuple[str, int | None]) -> None:
        problems.append(Fault(f"{select.path}: {what}", ("select", unit), *more))

    try:
        table = select.table("parts.parquet")
        summary = {row["part"]: (row["planned"], row["kept"]) for row in table.to_pylist()}
        if list(summary) != list(said.parts):
            found("parts.parquet does not list the parts of the manifest", None)
    except _UNREADABLE as error:
        found(f"parts.parquet cannot be read: {_line(error)}", WHOLE)

    def read(part: int) -> tuple[int, pa.Table | Exception, pa.Table | Exception]:
        return (
            part,
            _table(plan, "pairs.parquet", part, ["pair_id", "repeated"]),
            _table(select, "decisions.parquet", part, ["pair_id", "kept", "reason"]),
        )

    for part, rows, decided in side_by_side(read, said.parts):
        name = f"decisions of part {key(part)}"
        if isinstance(rows, Exception):
            line = f"{plan.path}: rows of part {key(part)} cannot be read: {_line(rows)}"
            problems.append(Fault(line, ("plan", part)))
            complete = False
            continue
        if isinstance(decided, Exception):
            found(f"{name} cannot be read: {_line(decided)}", part)
            complete = False
            continue
        for fault in _decision_faults(rows, decided, has_uid=said.has_uid):
            found(f"{name}: {fault}", None)
        reasons = Counter(decided["reason"].filter(pc.invert(decided["kept"])).to_pylist())
        if part in summary and summary[part] != (len(rows), len(decided) - reasons.total()):
            found(f"{name}: the rows differ from parts.parquet's counts (planned, kept) {summary[part]}", None)
        planned += len(rows)
        counted += reasons
        kept.write(b"".join(decided["pair_id"].filter(decided["kept"]).to_pylist()))
    if complete:
        for fault in _sum_faults(said, planned, counted):
            # The marker of the plan's whole has the total of planned rows.
            found(fault, None, ("plan", WHOLE))
    return complete


def _table(folder: Folder, role: str, part: int, columns: Sequence[str]) -> pa.Table | Exception:
    """Returns columns of a part's table, or the error at reading them."""
    try:
        return folder.table(role, part, columns)
    except _UNREADABLE as error:
        return error


def _decision_faults(rows: pa.Table, decided: pa.Table, *, has_uid: bool) -> Iterator[str]:
    if not rows["pair_id"].equals(decided["pair_id"]):
        yield "its rows are not those of the plan, in their order"
        return
    if not decided["kept"].equals(pc.is_null(decided["reason"])):
        yield "a kept row has a reason, or a dropped one has none"
    repeated = pc.fill_null(pc.equal(decided["reason"], REPEATED), fill_value=False)
    # Where rows share a uid and have different URLs, select decides which ones are repeated.
    differs = pc.and_not(rows["repeated"], repeated) if has_uid else pc.xor(rows["repeated"], repeated)
    sampled = pc.fill_null(pc.not_equal(decided["reason"], NOT_SAMPLED), fill_value=True)
    if pc.any(pc.and_(differs, sampled)).as_py():
        yield "`repeated` differs from the plan"


def _sum_faults(said: Manifest, planned: int, dropped: Counter[str | None]) -> Iterator[str]:
    kept = planned - dropped.total()
    try:
        funnel = said.folders["select"].json("funnel.json")
        steps = {step["name"]: step["dropped"] for step in funnel["steps"] if step["dropped"]}
        if (funnel["planned"], funnel["kept"]) != (planned, kept):
            yield f"funnel.json counts {funnel['kept']} of {funnel['planned']} kept, the decisions {kept} of {planned}"
        if steps != dropped:
            differing = sorted(str(name) for name in {*steps, *dropped} if steps.get(name) != dropped.get(name))
            yield f"funnel.json counts other rows than the decisions for {', '.join(differing)}"
        if len(said.parts) + len(said.missing) == said.n_parts:
            plan = said.folders["plan"]
            listed = plan.marker().counts["rows"]
            lost = sum(plan.marker(part).counts["rows"] for part in said.missing)
            if listed != planned + lost:
                yield f"{listed} rows were planned, but the decisions hold {planned} and the missing parts {lost}"
    except _UNREADABLE as error:
        yield f"the sums cannot be read: {_line(error)}"


def _ids(spill: Path) -> npt.NDArray[Any]:
    """The ids of the kept pairs, mapped from the file, as fixed-size bytes that NumPy can compare."""
    if not spill.stat().st_size:  # an empty file cannot be mapped
        return np.empty(0, dtype="S16")
    return np.memmap(spill, dtype="S16", mode="r+")


def _repeated(spill: Path) -> list[str]:
    """Ids that occur more than once, in hex. Sorts the file in place: its order is lost."""
    ids = _ids(spill)
    ids.sort()
    found: list[str] = []
    step = 1 << 20
    for start in range(0, len(ids), step):
        chunk = np.asarray(ids[start : start + step + 1])
        found += [bytes(uid).ljust(16, b"\0").hex() for uid in chunk[1:][chunk[1:] == chunk[:-1]]]
    return sorted(set(found))


# The files of the result -------------------------------------------------------------------------------------


def _check_result(store: Store, manifest: Manifest, kept: npt.NDArray[Any] | None, problems: list[Fault]) -> None:
    """Checks every file of the result, and compares the rows with the kept pairs where those are known."""
    # The decisions give the number of shards, so that a gap, a missing or an extra shard is found.
    samples, full = manifest.samples if kept is None else len(kept), manifest.shard_size
    sizes = [min(full, samples - start) for start in range(0, samples, full)]
    packed = Packed(sizes, manifest.embeddings, manifest.has_captions)
    files = _ResultFiles(store, manifest, dict(_units_of_files(manifest.folders["pack"])))
    for layout in manifest.layouts:

        def check(shard: int, layout: ResultLayout = layout) -> _ResultFiles:
            expected = None if kept is None else _hex(kept[shard * full : (shard + 1) * full])
            of_shard = files.another()
            layout.check_shard(shard, expected, packed, of_shard)
            return of_shard

        for checked in side_by_side(check, range(len(packed.sizes))):
            files.take(checked)
        layout.check_whole(packed, files)
    with files.file("README.md"):
        pass
    problems += files.problems
    further = sorted({*manifest.result} - files.asked_for)
    what = "belongs to no shard of the kept pairs"
    problems += [Fault(f"{manifest.pack}/{name}: {what}", ("pack", None)) for name in further]


class _ResultFiles:
    """The files of the result, as a layout's check asks for them (`CheckedFiles`)."""

    def __init__(self, store: Store, manifest: Manifest, units: Mapping[str, int]) -> None:
        self._store = store
        self._manifest = manifest
        self._units = units
        self.problems: list[Fault] = []
        self.asked_for: set[str] = set()

    def another(self) -> "_ResultFiles":
        """Returns the same files without faults, for a check in a thread of its own."""
        return _ResultFiles(self._store, self._manifest, self._units)

    def take(self, checked: "_ResultFiles") -> None:
        """Adds what another check asked for and found."""
        self.asked_for |= checked.asked_for
        self.problems += checked.problems

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[Path | None]:
        self.asked_for.add(name)
        if name not in self._manifest.result:
            self.fault(name, "is not listed in the manifest")
            yield None
            return
        with contextlib.ExitStack() as opened:
            try:
                path = opened.enter_context(self._store.as_local(f"{self._manifest.pack}/{name}"))
                with path.open("rb") as file:
                    fault = _fault(file, self._manifest.result[name])
            except FileNotFoundError:
                fault = "is missing"
            if fault:
                self.fault(name, fault)
                yield None
                return
            try:
                yield path
            except _UNREADABLE as error:
                self.fault(name, f"cannot be read: {_line(error)}")

    def fault(self, name: str, what: str) -> None:
        self.problems.append(Fault(f"{self._manifest.pack}/{name}: {what}", ("pack", self._units.get(name))))


def _units_of_files(folder: Folder) -> Iterator[tuple[str, int]]:
    """Yields every file of a folder with the unit that wrote it, from the markers that can be read."""
    for unit, marker in side_by_side(lambda unit: (unit, _marker(folder, unit)), folder.units()):
        if not isinstance(marker, Exception):
            yield from ((info.name, unit) for info in marker.files.values())


def _hex(ids: npt.NDArray[Any]) -> list[str]:
    text = ids.tobytes().hex()
    return [text[start : start + 32] for start in range(0, len(text), 32)]


# The searches for near pairs ---------------------------------------------------------------------------------


def _search_faults(said: Manifest, *, deep: bool) -> Iterator[Fault]:
    """Adds up the certificate of each search; with `deep` also compares some images with all others again."""
    for short, search in said.folders.items():
        if short.startswith("against-"):
            yield from _match_faults(said, short, search, deep=deep)
        if not short.startswith("dedup-"):
            continue
        of_nodes = f"nodes-{short.removeprefix('dedup-')}"
        if of_nodes not in said.folders:
            # An earlier release wrote no certificate.
            continue
        nodes = said.folders[of_nodes]
        try:
            found = [*certificate.faults(nodes, search), *(certificate.redone(nodes, search) if deep else ())]
        except Damaged as error:
            damaged = of_nodes if error.folder == nodes.path else short
            yield Fault(_line(error), *((damaged, unit) for unit in error.units))
        except _UNREADABLE as error:
            yield Fault(f"{search.path}: its certificate cannot be read: {_line(error)}", (short, None))
        else:
            yield from (Fault(f"{search.path}: {line}", (short, unit)) for line, unit in found)


def _match_faults(said: Manifest, short: str, search: Folder, *, deep: bool) -> Iterator[Fault]:
    """Adds up the certificate of the search of a set, as `_search_faults` does."""
    name, _, kind = short.removeprefix("against-").partition("-")
    of_nodes, of_set = f"nodes-{kind}", set_pass(name, kind)
    nodes, items = said.folders[of_nodes], said.folders[of_set]
    try:
        found = list(matches.faults(nodes, items, search))
        found += matches.redone(nodes, items, search) if deep else ()
    except Damaged as error:
        damaged = {nodes.path: of_nodes, items.path: of_set}.get(error.folder, short)
        yield Fault(_line(error), *((damaged, unit) for unit in error.units))
    except _UNREADABLE as error:
        yield Fault(f"{search.path}: its certificate cannot be read: {_line(error)}", (short, None))
    else:
        yield from (Fault(f"{search.path}: {line}", (short, unit)) for line, unit in found)


# The markers -------------------------------------------------------------------------------------------------


def _marker_faults(store: Store, said: Manifest) -> Iterator[Fault]:
    """Compares every file of every pass, except the result's, with its marker."""
    for short, folder in said.folders.items():
        if folder.path == said.pack:
            continue
        done = folder.units()
        units = {*said.parts} if short.startswith(_BY_PART) else {WHOLE}
        units |= {WHOLE} if short in ("plan", "select") else set()
        if short.startswith(_BY_BLOCK):
            # Where the certificate cannot be read, `_search_faults` says so.
            units |= done
        # These files were deleted on purpose.
        without = {retention.ROLE} if short == "fetch" and retention.released(folder) else set[str]()
        for unit in sorted(units - done):
            yield Fault(f"{folder.marker_name(unit)}: is missing", (short, unit))

        def check(unit: int, short: str = short, folder: Folder = folder, without: set[str] = without) -> list[Fault]:
            marker = _marker(folder, unit)
            if isinstance(marker, Exception):
                return [Fault(f"{folder.marker_name(unit)}: cannot be read: {_line(marker)}", (short, unit))]
            faults = []
            for role, info in marker.files.items():
                if role in without:
                    continue
                try:
                    with store.open(f"{folder.path}/{info.name}") as opened:
                        fault = _fault(opened, info)
                except FileNotFoundError:
                    fault = "is missing"
                if fault:
                    faults.append(Fault(f"{folder.path}/{info.name}: {fault}", (short, unit)))
            return faults

        for faults in side_by_side(check, sorted(done)):
            yield from faults


def _marker(folder: Folder, unit: int) -> Marker | Exception:
    """Returns a unit's marker, or the error at reading it."""
    try:
        return folder.marker(unit)
    except (*_UNREADABLE, TypeError) as error:
        return error


def _fault(opened: IO[bytes], info: FileInfo) -> str | None:
    digest, size = hashlib.sha256(), 0
    while block := opened.read(1 << 20):
        digest.update(block)
        size += len(block)
    if size != info.bytes:
        return f"has {size} bytes, not {info.bytes}"
    return None if digest.hexdigest() == info.sha256 else "its bytes changed after they were written (sha256 differs)"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
