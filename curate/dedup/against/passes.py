"""The passes of sets: the items of each, and a search for the run's images, for each kind of duplicate."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from curate.against import Comparison, search_pass, set_pass
from curate.dedup.against.certificate import tiles
from curate.duplicates import NearKind
from curate.prepare import Prepared, compared_with
from curate.runs.booking import Booking, for_pack, for_search
from curate.runs.passes import Declaration, Layout, Pass
from curate.runs.work import SMALL, Work
from curate.store import WHOLE, Folder, Inputs, Json

VERSION = 1

MOST_BLOCKS = 500
"""Blocks of the largest sets, whose blocks are larger."""

BLOCK_ROWS = 1 << 22
"""Items in a block, about, where equal values need no search."""

SHELF_ROWS = 200_000
"""Rows of a file that one unit reads, and holds in memory."""


def declare(prepared: Prepared, image_sets: Mapping[str, Layout]) -> Iterator[Declaration]:
    """Declares the items of sets, which depend on the content of their files, and the searches for the run's images.

    Args:
        prepared: the recipe.
        image_sets: the passes of each set of images, by its name.
    """
    for one in compared_with(prepared.recipe):
        items, blocks = set_pass(one.set, one.kind.full_name), _blocks(prepared, one, image_sets)
        depends: Json = {"kind": one.kind.full_name, **({"blocks": blocks} if blocks > 1 else {})}
        if one.set in image_sets:
            read = _folders(prepared, one, image_sets[one.set])
            depends["images"] = [folder.path for name, folder in read.items() if name != "plan"]
            depends |= one.kind.gathers(prepared.recipe.dedup) if isinstance(one.kind, NearKind) else {}
        else:
            depends["files"] = [file["sha256"] for file in prepared.sets[one.set][one.kind.full_name]]
        yield Declaration(items, "dedup", VERSION, depends, is_decided_on=True)
        if isinstance(one.kind, NearKind):
            depends = {**one.kind.depends(prepared.recipe.dedup), **({"every": True} if one.every else {})}
            reads = [one.kind.nodes_pass, items]
            name = search_pass(one.set, one.kind.full_name)
            yield Declaration(name, "dedup", one.kind.version, depends, reads, is_decided_on=True)


def works(prepared: Prepared, layout: Layout, image_sets: Mapping[str, Layout]) -> Iterator[Work]:
    """Yields the works of each set, after those of the run's nodes; each is done before the next is asked for."""
    for one in compared_with(prepared.recipe):
        yield from _gathering(prepared, layout, one, image_sets)
        if isinstance(one.kind, NearKind):
            yield from _searching(prepared, layout, one, one.kind, _blocks(prepared, one, image_sets))


def _gathering(prepared: Prepared, layout: Layout, one: Comparison, image_sets: Mapping[str, Layout]) -> Iterator[Work]:
    """Yields the works that gather a set's items for a kind."""
    name = set_pass(one.set, one.kind.full_name)
    pass_, blocks = layout.passes[name], _blocks(prepared, one, image_sets)
    inputs, search = Inputs({}, ()), dict[str, Any]()
    if one.set in image_sets:
        of_set = image_sets[one.set]
        source, files = "images", []
        units = _units([{"rows": max(1, int(of_set.rows))}] * of_set.n_parts, is_whole=True)
        inputs = Inputs(_folders(prepared, one, of_set), of_set.parts)
        search = one.kind.settings(prepared.recipe) if isinstance(one.kind, NearKind) else {}
    else:
        files = prepared.sets[one.set][one.kind.full_name]
        source = "files" if prepared.recipe.against[one.set].result is None else "result"
        units = _units(files, is_whole=source == "result")
    store, work_folder = pass_.folder.store, f"{pass_.folder.path}/work"
    shelves = Pass.of(store, Declaration(f"{work_folder}/shelves", "dedup", VERSION, {"rows": SHELF_ROWS}))
    settings: Json = {
        "set": one.set,
        "kind": one.kind.full_name,
        "source": source,
        "files": files,
        "search": search,
        "units": units,
        "shelves": len(units),
        "blocks": blocks,
        "endpoint": prepared.recipe.storage.endpoint,
    }
    workers, booking = prepared.recipe.booking("dedup", for_pack)
    booking = replace(booking, gpus=0.0)
    is_small = source != "images" and sum(file["rows"] for file in files) <= SMALL

    def step(step_name: str, output: Pass, of_units: range | tuple[int]) -> Work:
        is_whole = tuple(of_units) == (WHOLE,)
        return Work(
            name if step_name == "finish" else f"{name}-{step_name}",
            f"curate.dedup.against.worker:open_{step_name}",
            settings,
            {output.declared.name: output},
            Inputs({**inputs.folders, "shelves": shelves.folder}, inputs.parts),
            of_units,
            processes=1 if is_whole else workers,
            booking=booking,
            is_small=is_whole or is_small,
        )

    gather, finish = step("gather", pass_, range(blocks)), step("finish", pass_, (WHOLE,))
    if len(gather.done()) < blocks or not finish.done():
        # So that a set that was stopped is known as such, and is swept when it is done.
        pass_.settle()
        yield step("shelve", shelves, range(len(units)))
        yield gather
        yield finish
    if store.kind(work_folder):
        store.delete_folder(work_folder)


def _searching(prepared: Prepared, layout: Layout, one: Comparison, kind: NearKind, of_set: int) -> Iterator[Work]:
    """Yields the works that search a set, of so many blocks, for the run's images."""
    name = search_pass(one.set, kind.full_name)
    pass_ = layout.passes[name]
    blocks = layout.passes[kind.nodes_pass].declared.depends.get("blocks", 1), of_set
    divided = tiles(*blocks)
    search = kind.settings(prepared.recipe)
    settings: Json = {"set": one.set, "kind": kind.full_name, "every": one.every, "search": search, "tiles": divided}
    workers, booking = prepared.recipe.booking(
        "dedup", partial(for_search, search.get("threads", 1)), uses_gpu=kind.wants_gpu
    )
    inputs = layout.inputs(name)
    opener = "curate.dedup.against.worker:open_"
    many = None if len(divided) > 1 else 1
    yield Work(
        f"{name}-tiles",
        f"{opener}search",
        settings,
        {name: pass_},
        inputs,
        range(len(divided)),
        processes=workers or many,
        booking=booking,
    )
    certify = {**settings, "blocks": blocks}
    yield Work(
        name, f"{opener}certify", certify, {name: pass_}, inputs, (WHOLE,), booking=Booking(gpus=0.0), is_small=True
    )


def _units(files: Sequence[Json], *, is_whole: bool) -> list[list[tuple[int, int, int]]]:
    """Returns for each unit the files that it reads: number, first row, and the row after the last.

    Args:
        files: with their `rows`.
        is_whole: whether a file is read as a whole; else at most `SHELF_ROWS` of it.
    """
    units: list[list[tuple[int, int, int]]] = []
    held = SHELF_ROWS
    for number, file in enumerate(files):
        for start in range(0, file["rows"], file["rows"] if is_whole else SHELF_ROWS):
            stop = file["rows"] if is_whole else min(start + SHELF_ROWS, file["rows"])
            if held + stop - start > SHELF_ROWS:
                units.append([])
                held = 0
            units[-1].append((number, start, stop))
            held += stop - start
    return units


def _folders(prepared: Prepared, one: Comparison, of_set: Layout) -> dict[str, Folder]:
    """The folders of a set of images that a kind reads, by short name."""
    reads = one.kind.reads(prepared.models) if isinstance(one.kind, NearKind) else []
    return {name: of_set.passes[name].folder for name in dict.fromkeys(["plan", "fetch", *reads])}


def _blocks(prepared: Prepared, one: Comparison, image_sets: Mapping[str, Layout]) -> int:
    """The number of blocks of a set."""
    if one.set in image_sets:
        rows = round(image_sets[one.set].n_rows)
    else:
        rows = sum(int(file["rows"]) for file in prepared.sets[one.set][one.kind.full_name])
    each = one.kind.block_rows if isinstance(one.kind, NearKind) else BLOCK_ROWS
    return min(MOST_BLOCKS, max(1, -(-rows // each)))
