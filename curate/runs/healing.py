"""Repairs a run whose committed files are missing or damaged: their units are done again, and what followed from them.

A file is compared with its marker when it is read (`curate.store.Folder`); a unit that finds a fault raises `Damaged`,
and the run starts again without the marker at fault. What the marker said stays in `damaged/<folder>.<unit>.json` until
the unit is done again:

- with the same content, everything else stays as it is;
- with other content (a page that changed, other hardware), it is a new round of the unit: passes that work by part do
  this part again, and the passes of the whole, whose fingerprints count such rounds, get new folders. Nothing that
  earlier decisions read or wrote is overwritten, except the files of the part.

Where the marker itself is lost, its content is unknown and counts as other; only the plan, which depends on nothing but
the source, is trusted to be the same.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict

from curate.checksums import json_bytes
from curate.errors import BrokenResult, Damaged
from curate.store import WHOLE, FileInfo, Folder, Json, Marker, Store, key
from curate.summaries import markers, name

_PENDING, _ROUNDS = "damaged", "healed"
"""Folders of the run: units that are to be done again, and rounds of units that came out different."""

Tell = Callable[[str], None]


class Renewed(Exception):
    """A unit that was done again has other content, so later passes have to be laid out again."""


def rounds(store: Store) -> dict[str, int]:
    """Returns, by path of a folder, how often units of it came out different when they were done again."""
    counted: Counter[str] = Counter()
    for stored in store.names(_ROUNDS):
        counted.update(store.read_json(f"{_ROUNDS}/{stored}")["folders"])
    return dict(counted)


def set_aside(store: Store, damaged: Damaged, tell: Tell) -> None:
    """Removes the markers of units whose files are missing or damaged, so that the run does them again."""
    tell(f"{damaged}; {'the summary is' if damaged.derived else 'this is'} made again")
    if damaged.derived:
        store.delete(damaged.derived)
        return
    folder = Folder.at(store, damaged.folder)
    units, unknown = set(damaged.units), set[int]()
    if folder.is_done():
        # One unit may write all parts (plan, select): it starts where the whole has no marker. Other parts keep theirs.
        units.add(WHOLE)
    for unit in units:
        try:
            before = folder.marker(unit)
        except (FileNotFoundError, BrokenResult):
            unknown.add(unit)
        else:
            files = {role: asdict(info) for role, info in before.files.items()}
            content = {"folder": folder.path, "unit": unit, "files": files}
            store.create(_record(folder, unit), json_bytes(content))
    if unknown and _upstream(folder):
        _follow(store, folder, unknown)
    for unit in units:
        _forget(folder, unit)


def is_set_aside(folder: Folder, unit: int) -> bool:
    """Whether the marker of a unit was removed by `set_aside`, and the unit is not done again yet."""
    return folder.store.exists(_record(folder, unit))


def files_before(folder: Folder) -> dict[str, Json]:
    """Returns the files that units had before they were set aside: by unit and role, each a `FileInfo` as JSON."""
    found = {}
    for stored in folder.store.names(_PENDING):
        if stored.startswith(f"{folder.path}."):
            record = folder.store.read_json(f"{_PENDING}/{stored}")
            found[str(record["unit"])] = record["files"]
    return found


def settle(store: Store, tell: Tell) -> bool:
    """Compares the units that were done again with what their markers said before.

    Returns:
        Whether units are left that are to be done again. Only `set_aside`, after which a run starts again, adds any.

    Raises:
        Renewed: one has other content; what follows from it is to be done again.
    """
    is_renewed = is_left = False
    for stored in store.names(_PENDING):
        record = store.read_json(f"{_PENDING}/{stored}")
        folder, unit = Folder.at(store, record["folder"]), int(record["unit"])
        if not folder.is_done(unit):
            is_left = True
            continue
        before = {role: FileInfo(**info) for role, info in record["files"].items()}
        is_same = _content(folder.marker(unit).files) == _content(before)
        how = "is as it was" if is_same else "has other content than before: what follows from it is done again"
        tell(f"{folder.path}: {key(unit)} {how}")
        if not is_same:
            _follow(store, folder, {unit})
            is_renewed = True
        store.delete(f"{_PENDING}/{stored}")
    if is_renewed:
        raise Renewed
    return is_left


def check_sizes(folder: Folder, units: Collection[int]) -> list[Marker]:
    """Compares the files of units, which are done, with the sizes in their markers; returns these, as `markers` does.

    Raises:
        Damaged: the first file that is missing or has another size.
    """
    sizes, checked = folder.store.sizes(folder.path), list(markers(folder, units))
    for unit, marker in checked:
        for role, info in marker.files.items():
            size = sizes.get(f"{folder.path}/{info.name}")
            if size != info.bytes:
                what = "is missing" if size is None else f"has {size} bytes, not {info.bytes}"
                raise folder.damaged(role, unit, what)
    return [marker for _, marker in checked]


def _record(folder: Folder, unit: int) -> str:
    """The name of the file that keeps what a unit's marker said."""
    return f"{_PENDING}/{folder.path}.{key(unit)}.json"


def _content(files: Mapping[str, FileInfo]) -> dict[str, str]:
    """The digest of each file's content, by role."""
    return {role: info.content or info.sha256 for role, info in files.items()}


def _forget(folder: Folder, unit: int) -> None:
    """Deletes a unit's marker, and the summary that has it."""
    if unit != WHOLE:
        folder.store.delete(name(folder, unit))
    folder.store.delete(folder.marker_name(unit))


def _follow(store: Store, changed: Folder, units: Collection[int]) -> None:
    """Counts a round of a folder, and removes the markers of what passes by part computed from its units."""
    folders = Folder.all_in(store)
    described = {folder.path: folder.described() for folder in folders}
    reached = {changed.path}
    if WHOLE in units and changed.units() - {WHOLE}:
        # Passes by part read its parts, which stay.
        following: list[Folder] = []
    else:
        following = list(_by_part_after(reached, folders, described))
    number = max((int(stored.partition(".")[0]) for stored in store.names(_ROUNDS)), default=0) + 1
    content = {"folders": sorted(reached)}
    # First, so that a run that is killed here counts a round too many, and none too few.
    store.create(f"{_ROUNDS}/{number:06d}.json", json_bytes(content))
    for folder in following:
        for unit in folder.units() if WHOLE in units else units:
            _forget(folder, unit)


def _by_part_after(reached: set[str], folders: Collection[Folder], described: Mapping[str, Json]) -> Iterator[Folder]:
    """Yields the folders by part that read one of those in `reached`, or one that does, and adds them to it."""
    while True:
        further = [
            folder
            for folder in folders
            if folder.path not in reached
            # An earlier release did not record it.
            and described[folder.path].get("by_part", not folder.is_done())
            and not reached.isdisjoint(described[folder.path]["upstream"])
        ]
        if not further:
            return
        yield from further
        reached.update(folder.path for folder in further)


def _upstream(folder: Folder) -> bool:
    """Whether a pass reads others; the plan reads none."""
    try:
        return bool(folder.described()["upstream"])
    except FileNotFoundError:
        return True
