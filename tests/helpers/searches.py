"""Runs searches for near pairs on tables that a test wrote."""

import itertools
import math
import operator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curate import schema
from curate.dedup import passes, worker
from curate.duplicates import KINDS, NearKind
from curate.runs.booking import Booking
from curate.runs.driver import drive
from curate.runs.passes import Declaration, Pass
from curate.runs.work import Engine
from curate.store import WHOLE, Folder, Inputs, Store
from helpers.inline_engine import InlineEngine
from helpers.plan_run import Silent

Image = tuple[str | None, list[float] | None]
"""A digest and an embedding, either of which may be missing."""


def digest(number: int) -> str:
    """Returns a digest."""
    # The leading digits spread over buckets, the rest ties within one.
    return f"{number * 37 % 256:02x}{number:062x}"


def corpus(root: Path, parts: list[list[Image]], dim: int) -> tuple[Inputs, dict[bytes, Image]]:
    """Commits fetch and embed folders; image ids descend within the list, so that order is not by luck."""
    store = Store(str(root))
    inputs = Inputs({name: Folder(store, name, "f") for name in ("fetch", "embed-m")}, range(len(parts)))
    everything: dict[bytes, Image] = {}
    for part, images in enumerate(parts):
        ids = [(10**6 - 1000 * part - n).to_bytes(16, "big") for n in range(len(images))]
        rows = sorted(zip(ids, images, strict=True))
        everything |= dict(rows)
        id_column = pa.array([image for image, _ in rows], schema.ID)
        fetched = pa.table({"image_id": id_column, "sha256": pa.array([sha for _, (sha, _) in rows], pa.string())})
        vectors = [None if vector is None else np.array(vector, np.float16) for _, (_, vector) in rows]
        embedded = pa.table({"image_id": id_column, "image_embedding": pa.array(vectors, schema.embedding(dim))})
        for name, table in (("fetch", fetched), ("embed-m", embedded)):
            out = inputs[name].outputs(part)
            out.put_table("images.parquet", table)
            out.commit()
    return inputs, everything


def oracle(everything: dict[bytes, Image], floor: float) -> list[tuple[str, str, float]]:
    """Brute force over Python numbers: correctly rounded sums, one root at the end."""
    nodes: dict[str, list[float]] = {}
    for image in sorted(everything):
        sha, vector = everything[image]
        if sha and vector is not None and any(np.array(vector, np.float16)):
            nodes.setdefault(sha, [float(np.float16(value)) for value in vector])
    near = []
    for a, b in itertools.combinations(sorted(nodes), 2):
        dot = math.fsum(map(operator.mul, nodes[a], nodes[b]))
        norms = math.fsum(x * x for x in nodes[a]) * math.fsum(y * y for y in nodes[b])
        similarity = round(dot / math.sqrt(norms), 6)
        if similarity >= floor:
            near.append((a, b, similarity))
    return near


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
