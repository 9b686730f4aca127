"""Runs searches for near pairs on tables that a test wrote."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from curate.dedup import passes, worker
from curate.duplicates import KINDS, NearKind, near_tables
from curate.runs.booking import Booking
from curate.runs.driver import drive
from curate.runs.passes import Declaration, Pass
from curate.runs.work import Engine
from curate.schema import NEAR
from curate.store import WHOLE, Folder, Inputs, Store
from helpers.inline_engine import InlineEngine
from helpers.plan_run import Silent


def searched_whole(root: Path, settings: dict[str, Any], inputs: Inputs, fingerprint: str = "f") -> Folder:
    """Returns the folder of a search that ran in one unit."""
    store, kind = Store(str(root)), settings["kind"]
    folder, nodes = Folder(store, f"dedup-{kind}", fingerprint), Folder(store, f"nodes-{kind}", fingerprint)
    outputs = {f"dedup-{kind}": folder.outputs(), f"nodes-{kind}": nodes.outputs()}
    reads = Inputs({**inputs.folders, f"nodes-{kind}": nodes}, inputs.parts)
    worker.open_worker(settings)(WHOLE, reads, outputs)
    for out in outputs.values():
        out.commit()
    return folder


def nodes_of(search: Folder) -> Folder:
    """Returns the folder of the nodes of a search that `searched_whole` ran."""
    return Folder(search.store, search.name.replace("dedup-", "nodes-"), search.fingerprint)


def searched_by_blocks(
    root: Path, settings: dict[str, Any], inputs: Inputs, blocks: int, rows: float, engine: Engine | None = None
) -> tuple[Folder, Folder]:
    """Returns the folders of nodes and of near pairs of a search by units, run by an engine of the test's own process.

    Args:
        root: the run's folder.
        settings: of the search, with `kind`.
        inputs: the tables.
        blocks: the number of blocks.
        rows: of a part, as the search is told; it decides how many parts are in a shelf.
        engine: another engine.
    """
    kind = KINDS.find(settings["kind"])
    assert isinstance(kind, NearKind)
    store, engine = Store(str(root)), engine or InlineEngine()
    nodes = Pass.of(store, Declaration(kind.nodes_pass, "dedup", 1, {"blocks": blocks}))
    search = Pass.of(store, Declaration(kind.search_pass, "dedup", 1), [nodes.folder])
    reads = Inputs({**inputs.folders, kind.nodes_pass: nodes.folder}, inputs.parts)
    for work in passes.by_blocks(kind, nodes, search, reads, settings, blocks, rows, 1, Booking()):
        assert drive([work], engine, Silent()) == {work.name: {}}
    return nodes.folder, search.folder


def all_near(search: Folder) -> pa.Table:
    """Returns the near pairs of all tiles, in order."""
    return pa.concat_tables([NEAR.empty_table(), *near_tables(search)])
