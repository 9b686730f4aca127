"""Whether a finished result is whole: every file, every row and every sum, against its decisions.

Nothing is repaired. Memory is bounded by a part and a shard; the ids of kept pairs are spilled to local disk.
"""

import contextlib
import hashlib
import itertools
import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.errors import BrokenResult, StoreError, counted
from curate.schema import REPEATED
from curate.scratch import scratch
from curate.store import WHOLE, FileInfo, Folder, Json, Store, key

_SAMPLES = ({"jpg", "json", "txt"}, {"png", "json", "txt"}, {"webp", "json", "txt"})

_UNREADABLE = (OSError, pa.ArrowException, BrokenResult, KeyError, ValueError, tarfile.TarError)
"""What reading a damaged file raises, by its kind."""

_BY_PART = ("plan", "fetch", "pixels", "embed-", "signals-", "select")
"""Folders, or the beginnings of their names, that hold every part."""


@dataclass(frozen=True)
class Manifest:
    """What a finished run says of itself.

    Args:
        folders: every pass folder by its short name.
        pack: the result's folder in the store.
        n_parts: how many parts the run was planned in.
        parts: the parts that the result covers, ascending.
        missing: the parts that it lacks.
        result: every file of the result by its name in `pack`.
    """

    folders: Mapping[str, Folder]
    pack: str
    n_parts: int
    parts: Sequence[int]
    missing: Sequence[int]
    result: Mapping[str, FileInfo]


def verify(store: Store, *, deep: bool = False, manifest: str = "manifest.json") -> list[str]:
    """Checks a finished result.

    Of the result: every file's bytes and digest; shards without gaps, full but for the last; `sizes.json` and
    stats; keys unique; row i of tar, table and embeddings the i-th kept pair of the decisions, and nothing
    besides. Of the decisions: every planned row once, with a reason exactly where it is dropped, and planned =
    kept + dropped by reason, per part and in total.

    Args:
        store: the run's folder.
        deep: also compare every file of every pass with its marker.
        manifest: the name of the manifest to go by.

    Returns:
        One line for each fault, naming the file; empty when there is none.

    Raises:
        StoreError: there is no manifest, so no finished result.
        BrokenResult: the manifest itself cannot be read.
    """
    said = read_manifest(store, manifest)
    problems: list[str] = []
    with scratch("verify") as folder:
        spill = folder / "kept"
        with spill.open("wb") as kept:
            complete = _check_decisions(said, kept, problems)
        _check_shards(store, said, _ids(spill) if complete else None, problems)
        problems += [f"{said.pack}: key {uid} is not unique" for uid in _repeated(spill)]
    if deep:
        problems += _marker_faults(store, said)
    return problems


def read_manifest(store: Store, name: str) -> Manifest:
    """The manifest of a finished run.

    Raises:
        StoreError: there is none.
        BrokenResult: it is not a manifest.
    """
    try:
        stored = store.read_json(name)
    except FileNotFoundError as error:
        raise StoreError(f"{store.path(name)} is missing: this folder holds no finished result") from error
    try:
        pack, missing, parts = str(stored["pack"]), sorted(stored["missing_parts"]), stored["parts"]
        covered = range(parts) if isinstance(parts, int) else sorted(parts)
        paths = stored["folders"]
        return Manifest(
            {short: Folder(store, short, path.removeprefix(f"{short}-")) for short, path in paths.items()},
            pack,
            int(stored["n_parts"]),
            [part for part in covered if part not in set(missing)],
            missing,
            {info["name"].removeprefix(f"{pack}/"): FileInfo(**info) for info in stored["result"]},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise BrokenResult(f"{store.path(name)} is not a manifest of this program: {error!r}") from error


# The decisions -----------------------------------------------------------------------------------------------


def _check_decisions(said: Manifest, kept: IO[bytes], problems: list[str]) -> bool:
    """Checks the sums, and writes the ids of kept pairs in the result's order; False where some are unknown."""
    select = said.folders["select"]
    planned, counted, complete = 0, Counter[str | None](), True
    summary: dict[int, tuple[int, int]] = {}
    try:
        table = select.table("parts.parquet")
        summary = {row["part"]: (row["planned"], row["kept"]) for row in table.to_pylist()}
        if list(summary) != list(said.parts):
            problems.append(f"{select.path}: parts.parquet does not list the parts of the manifest")
    except _UNREADABLE as error:
        problems.append(f"{select.path}: parts.parquet cannot be read: {_line(error)}")
    for part in said.parts:
        name = f"{select.path}: decisions of part {key(part)}"
        try:
            rows = said.folders["plan"].table("pairs.parquet", part, ["pair_id", "repeated"])
            decided = select.table("decisions.parquet", part, ["pair_id", "kept", "reason"])
        except _UNREADABLE as error:
            problems.append(f"{name} cannot be read: {_line(error)}")
            complete = False
            continue
        problems += [f"{name}: {fault}" for fault in _decision_faults(rows, decided)]
        reasons = Counter(decided["reason"].filter(pc.invert(decided["kept"])).to_pylist())
        if part in summary and summary[part] != (len(rows), len(decided) - reasons.total()):
            problems.append(f"{name}: parts.parquet counts planned, kept {summary[part]}, which these rows do not")
        planned += len(rows)
        counted += reasons
        kept.write(b"".join(decided["pair_id"].filter(decided["kept"]).to_pylist()))
    if complete:
        problems += [f"{select.path}: {fault}" for fault in _sum_faults(said, planned, counted)]
    return complete


def _decision_faults(rows: pa.Table, decided: pa.Table) -> Iterator[str]:
    if not rows["pair_id"].equals(decided["pair_id"]):
        yield "do not stand row for row with plan"
        return
    if not decided["kept"].equals(pc.is_null(decided["reason"])):
        yield "a kept row has a reason, or a dropped one has none"
    if not rows["repeated"].equals(pc.fill_null(pc.equal(decided["reason"], REPEATED), fill_value=False)):
        yield "`repeated` is not what plan says"


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
    """The kept pairs' ids, mapped; as fixed bytes, so that they compare as they stand."""
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


# The shards --------------------------------------------------------------------------------------------------


def _check_shards(store: Store, said: Manifest, kept: npt.NDArray[Any] | None, problems: list[str]) -> None:
    """Checks every file of the result; against the kept pairs where those are known."""
    rows = {name: info.rows or 0 for name, info in said.result.items() if name.endswith(".tar")}
    size = max(rows.values(), default=0)
    # Numbered by the decisions, so that a gap, a lost or a further shard shows.
    count = len(rows) if kept is None or not size else -(-len(kept) // size)
    expected = {"README.md", "shards/sizes.json"}
    sizes: dict[str, int] = {}
    for number in range(count):
        name = f"{number:08d}"
        expected |= {*_names(name)}
        wanted = None if kept is None else _hex(kept[number * size : (number + 1) * size])
        sizes[f"{name}.tar"] = rows.get(f"shards/{name}.tar", 0) if wanted is None else len(wanted)
        _check_shard(store, said, name, wanted, problems)
    if kept is not None and len(kept) and not size:
        problems.append(f"{said.pack}: {counted(len(kept), 'pair is', 'pairs are')} kept, but there is no shard")
    with _intact(store, said, "shards/sizes.json", problems) as path:
        if path and json.loads(path.read_bytes()) != sizes:
            problems.append(f"{said.pack}/shards/sizes.json: does not give the shards' samples")
    with _intact(store, said, "README.md", problems):
        pass
    further = sorted({*said.result} - expected)
    problems += [f"{said.pack}/{name}: belongs to no shard of the kept pairs" for name in further]


def _check_shard(store: Store, said: Manifest, name: str, wanted: list[str] | None, problems: list[str]) -> None:
    """Checks the four files of a shard against each other and against the ids it is to hold."""
    tar_name, table_name, embeddings_name, stats_name = _names(name)
    captions: list[str] | None = None
    with _intact(store, said, table_name, problems) as path:
        if path:
            table = _columns(path, ["key", "uid", "caption"], f"{said.pack}/{table_name}", problems)
            if table is not None:
                captions, keys = table["caption"].to_pylist(), table["key"].to_pylist()
                # Where the decisions are unknown the table stands for them.
                wanted = keys if wanted is None else wanted
                problems += [f"{said.pack}/{table_name}: {fault}" for fault in _differences(keys, wanted)]
                if not table["key"].equals(table["uid"]):
                    problems.append(f"{said.pack}/{table_name}: key and uid differ")
    with _intact(store, said, embeddings_name, problems) as path:
        if path and wanted is not None:
            table = _columns(path, ["uid"], f"{said.pack}/{embeddings_name}", problems)
            if table is not None:
                faults = _differences(table["uid"].to_pylist(), wanted)
                problems += [f"{said.pack}/{embeddings_name}: {fault}" for fault in faults]
    with _intact(store, said, tar_name, problems) as path:
        if path and wanted is not None:
            problems += [f"{said.pack}/{tar_name}: {fault}" for fault in _tar_faults(path, wanted, captions)]
    with _intact(store, said, stats_name, problems) as path:
        if path and wanted is not None:
            stats: Json = json.loads(path.read_bytes())
            if not stats.get("count") == stats.get("successes") == len(wanted):
                problems.append(f"{said.pack}/{stats_name}: does not count {counted(len(wanted), 'sample')}")


def _names(name: str) -> tuple[str, str, str, str]:
    return (
        f"shards/{name}.tar",
        f"shards/{name}.parquet",
        f"embeddings/{name}.parquet",
        f"shards/{name}_stats.json",
    )


def _columns(path: Path, columns: list[str], name: str, problems: list[str]) -> pa.Table | None:
    try:
        return pq.read_table(path, columns=columns)
    except _UNREADABLE as error:
        problems.append(f"{name}: cannot be read: {_line(error)}")
        return None


def _differences(found: list[str], wanted: list[str]) -> Iterator[str]:
    """How many there should be, and the first that is another."""
    if len(found) != len(wanted):
        yield f"holds {counted(len(found), 'pair')}, not {len(wanted)}"
    for row, (uid, expected) in enumerate(zip(found, wanted, strict=False)):
        if uid != expected:
            yield f"row {row} is {uid}, where {expected} belongs"
            return


def _tar_faults(path: Path, wanted: list[str], captions: list[str] | None) -> Iterator[str]:
    """What is wrong with a shard's samples: their order, their members, what their json and txt say."""
    found: list[str] = []
    try:
        with tarfile.open(path, "r:") as tar:
            for uid, group in itertools.groupby(tar, lambda member: member.name.partition(".")[0]):
                members = list(group)
                extensions = [member.name.partition(".")[2] for member in members]
                row = len(found)
                found.append(uid)
                if set(extensions) not in _SAMPLES or extensions != sorted(set(extensions)):
                    yield f"sample {row} ({uid}) has the members {', '.join(extensions)}"
                    continue
                content = {
                    extension: tar.extractfile(member)
                    for extension, member in zip(extensions, members, strict=True)
                    if extension in ("json", "txt")
                }
                said, text = (opened.read() if opened else b"" for opened in (content["json"], content["txt"]))
                described = json.loads(said)
                if (described["key"], described["uid"]) != (uid, uid):
                    yield f"sample {row} ({uid}): its json names another pair"
                caption = captions[row] if captions is not None and row < len(captions) else described["caption"]
                if text.decode() != caption or described["caption"] != caption:
                    yield f"sample {row} ({uid}): its caption is not that of the table"
    except _UNREADABLE as error:
        yield f"cannot be read: {_line(error)}"
        return
    yield from _differences(found, wanted)


def _hex(ids: npt.NDArray[Any]) -> list[str]:
    text = ids.tobytes().hex()
    return [text[start : start + 32] for start in range(0, len(text), 32)]


# Files and markers -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _intact(store: Store, said: Manifest, name: str, problems: list[str]) -> Iterator[Path | None]:
    """A file of the result as a local path; None, and a problem, where it is not what the manifest says."""
    full = f"{said.pack}/{name}"
    if name not in said.result:
        problems.append(f"{full}: is not listed in the manifest")
        yield None
        return
    with contextlib.ExitStack() as opened:
        try:
            path = opened.enter_context(store.as_local(full))
            with path.open("rb") as file:
                fault = _fault(file, said.result[name])
        except FileNotFoundError:
            fault = "is missing"
        if fault:
            problems.append(f"{full}: {fault}")
        yield None if fault else path


def _marker_faults(store: Store, said: Manifest) -> Iterator[str]:
    """Compares every file of every pass but the result's with its marker."""
    for short, folder in said.folders.items():
        if folder.path == said.pack:
            continue
        done = folder.units()
        units = {*said.parts} if short.startswith(_BY_PART) else {WHOLE}
        units |= {WHOLE} if short in ("plan", "select") else set()
        yield from (f"{folder.path}/done/{key(unit)}.json: is missing" for unit in sorted(units - done))
        for unit in sorted(done):
            try:
                files = folder.marker(unit).files.values()
            except (*_UNREADABLE, TypeError) as error:
                yield f"{folder.path}/done/{key(unit)}.json: cannot be read: {_line(error)}"
                continue
            for info in files:
                try:
                    with store.open(f"{folder.path}/{info.name}") as opened:
                        fault = _fault(opened, info)
                except FileNotFoundError:
                    fault = "is missing"
                if fault:
                    yield f"{folder.path}/{info.name}: {fault}"


def _fault(opened: IO[bytes], info: FileInfo) -> str | None:
    digest, size = hashlib.sha256(), 0
    while block := opened.read(1 << 20):
        digest.update(block)
        size += len(block)
    if size != info.bytes:
        return f"has {size} bytes, not {info.bytes}"
    return None if digest.hexdigest() == info.sha256 else "its bytes are not those that were written (sha256 differs)"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
