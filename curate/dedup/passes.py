"""The passes of `dedup`: nodes, and a search, for each kind of duplicate whose near pairs or matches a step reads."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from curate.duplicates import NearKind, kind_named
from curate.near import tiles
from curate.prepare import Prepared, compared_with, near_searches_of
from curate.runs.booking import Booking, for_pack, for_search
from curate.runs.passes import Declaration, Layout, Pass
from curate.runs.work import Work
from curate.store import WHOLE, Inputs, Json

VERSION = 1

MOST_BLOCKS = 500
"""Blocks of the longest runs, whose blocks are larger: 500 make 125,250 tiles."""

SHELF_ROWS = 200_000
"""Rows of a shelf, whose images are held in memory."""


def declare(prepared: Prepared, scope: Json, rows: int) -> Iterator[Declaration]:
    """Declares nodes, which depend on the parts that are covered, and the near pairs, which depend on the floor.

    Where images are only compared with sets (`curate.dedup.against`), there are nodes and no near pairs.

    Args:
        prepared: the recipe.
        scope: the covered parts.
        rows: of the covered parts.
    """
    dedup, searched = prepared.recipe.dedup, near_searches_of(prepared.recipe)
    for kind in _asked(prepared):
        blocks = _blocks(kind, rows)
        divided = {"blocks": blocks} if blocks > 1 else {}
        reads = kind.reads(prepared.models)
        yield Declaration(
            kind.nodes_pass, "dedup", VERSION, {**kind.gathers(dedup), **scope, **divided}, reads, is_decided_on=True
        )
        if kind.full_name in searched:
            yield Declaration(
                kind.search_pass, "dedup", kind.version, kind.depends(dedup), [kind.nodes_pass], is_decided_on=True
            )


def works(prepared: Prepared, layout: Layout) -> Iterator[Work]:
    """Yields the works of nodes and of each search; each is done before the next is asked for."""
    for kind in _asked(prepared):
        nodes, search = layout.passes[kind.nodes_pass], layout.passes.get(kind.search_pass)
        inputs = layout.inputs(kind.nodes_pass, *([kind.search_pass] if search else []))
        settings = {"kind": kind.full_name, **kind.settings(prepared.recipe)}
        blocks = nodes.declared.depends.get("blocks", 1)
        each = partial(for_search, settings.get("threads", 1))
        workers, booking = prepared.recipe.booking("dedup", each, uses_gpu=kind.wants_gpu)
        if blocks > 1:
            yield from by_blocks(kind, nodes, search, inputs, settings, blocks, layout.rows, workers, booking)
            continue
        yield Work(
            kind.search_pass if search else kind.nodes_pass,
            "curate.dedup.worker:open_worker",
            settings,
            {**({kind.search_pass: search} if search else {}), kind.nodes_pass: nodes},
            inputs,
            (WHOLE,),
            booking=booking,
        )


def by_blocks(
    kind: NearKind,
    nodes: Pass,
    search: Pass | None,
    inputs: Inputs,
    settings: Json,
    blocks: int,
    rows: float,
    workers: int | None,
    booking: Booking,
) -> Iterator[Work]:
    """Yields the works of a run of several blocks (`curate.dedup.worker`).

    Args:
        kind: the kind of duplicate.
        nodes: the pass of the blocks.
        search: the pass of the near pairs; None where nodes are compared with sets alone.
        inputs: the passes that both read.
        settings: of the search, with `kind`.
        blocks: their number.
        rows: of a part, on average.
        workers: their number; None: the engine chooses it.
        booking: what each worker reserves.
    """
    store, each = nodes.folder.store, max(1, int(SHELF_ROWS / max(1.0, rows)))
    n_shelves = -(-len(inputs.parts) // each)
    work_folder = f"{nodes.folder.path}/work"
    shelves = Pass.of(store, Declaration(f"{work_folder}/shelves", "dedup", VERSION, {"rows": SHELF_ROWS}))
    settings = {**settings, "blocks": blocks, "parts_each": each, "shelves": n_shelves}
    without_gpu = replace(booking, gpus=0.0, default_count=for_pack)

    def step(
        name: str, output: Pass, units: range | tuple[int], per_unit: float = 0.0, booked: Booking = without_gpu
    ) -> Work:
        is_whole = tuple(units) == (WHOLE,)
        return Work(
            kind.search_pass if name == "search" else f"{kind.search_pass}-{name}",
            f"curate.dedup.worker:open_{name}",
            settings,
            {output.declared.name: output},
            Inputs({**inputs.folders, "shelves": shelves.folder}, inputs.parts),
            units,
            per_unit,
            processes=1 if is_whole else workers,
            booking=booked,
            is_small=is_whole,
        )

    gather = step("gather", nodes, range(blocks), len(inputs.parts) * rows / blocks)
    add_up = step("add_up", nodes, (WHOLE,))
    if len(gather.done()) < blocks or not add_up.done():
        # So that nodes that were stopped are known as such, and are swept when they are done.
        nodes.settle()
        yield step("shelve", shelves, range(n_shelves), rows * each)
        yield gather
        yield add_up
    if store.kind(work_folder):
        store.delete_folder(work_folder)
    if search is None:
        return
    yield step("search", search, range(len(tiles(blocks))), booked=booking)
    yield step("certify", search, (WHOLE,))


def _blocks(kind: NearKind, rows: int) -> int:
    """The number of blocks for so many rows."""
    return min(MOST_BLOCKS, max(1, -(-rows // kind.block_rows)))


def _asked(prepared: Prepared) -> Iterator[NearKind]:
    asked = near_searches_of(prepared.recipe)
    asked |= {one.kind.full_name for one in compared_with(prepared.recipe) if isinstance(one.kind, NearKind)}
    kinds = (kind_named(name) for name in sorted(asked))
    return (kind for kind in kinds if isinstance(kind, NearKind))
