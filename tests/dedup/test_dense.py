"""Dense nodes: their pairs are not stored, and no decision depends on which nodes are dense."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.near_pairs import all_near, nodes_of
from helpers.searches import Image, corpus, oracle, searched_by_blocks, searched_whole
from helpers.select_run import Image as SelectImage
from helpers.select_run import Row, run_select, step, write_inputs

from curate.dedup import dense
from curate.dedup.certificate import faults, redone
from curate.dedup.cosine import cosines, reach
from curate.duplicates import KINDS
from curate.near import DENSE, FoundPairs
from curate.store import WHOLE, Folder, Inputs

SETTINGS: dict[str, Any] = {"kind": "image_embedding", "floor": 0.9, "tile": 32, "model": "m", "device": "cpu"}
SETTINGS |= {"threads": 1}
DIM = 16


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a tile store few pairs only, so that small sets have dense nodes."""
    for name, value in {"FEW": 50, "EACH": 3, "SAMPLES": (20, 60), "_LEAST": 4, "_TRIAL": 10}.items():
        monkeypatch.setattr(dense, name, value)


def placeholders(seed: int, copies: int = 90, others: int = 60) -> list[Image]:
    """Copies of two placeholders, each a little different, and other images, some of which are near one."""
    rng = np.random.default_rng(seed)
    bases = rng.standard_normal((2, DIM))
    vectors = [bases[n % 2] + rng.normal(0, 0.02 + 0.2 * (n % 7 == 0), DIM) for n in range(copies)]
    vectors += list(rng.standard_normal((others, DIM)))
    vectors += [vector + rng.normal(0, 0.1, DIM) for vector in vectors[-20:]]
    names = [f"{int(rng.integers(0, 2**32)):08x}{n:056x}" for n in range(len(vectors))]
    return [(name, list(vector / np.linalg.norm(vector))) for name, vector in zip(names, vectors, strict=True)]


def dense_digests(search: Folder, nodes: Folder) -> set[str]:
    found = FoundPairs(search, nodes)
    crowd = found.dense()
    assert crowd is not None
    names = [name for block in found.names() for name in block.to_pylist()]
    values = dict(zip(crowd.nodes.tolist(), crowd.values, strict=True))
    assert all(np.linalg.norm(value.astype(np.float64)) == pytest.approx(1, abs=1e-2) for value in values.values())
    return {names[node] for node in values}


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("blocks", [1, 3])
def test_a_near_pair_is_stored_or_both_its_nodes_are_dense(blocks: int, tmp_path: Path) -> None:
    inputs, everything = corpus(tmp_path, [placeholders(0)], DIM)
    if blocks == 1:
        search = searched_whole(tmp_path / "run", SETTINGS, inputs)
        nodes = nodes_of(search)
    else:
        nodes, search = searched_by_blocks(tmp_path / "run", SETTINGS, inputs, blocks, 170)
    stored, crowd = all_near(search, nodes), dense_digests(search, nodes)
    truth = oracle(everything, 0.9)
    assert set(stored) <= set(truth)
    assert len(set(stored)) == len(stored)
    missing = set(truth) - set(stored)
    assert len(missing) > len(truth) / 2
    assert all({a, b} <= crowd for a, b, _ in missing)
    said = search.json("certificate.json")
    n = said["nodes"]
    assert said["compared"] + sum(said["excluded"].values()) + said["deferred"] == n * (n - 1) // 2
    assert said["near"] == len(stored)
    assert said["dense"] == len(crowd)
    assert len(missing) <= said["deferred"]
    assert list(faults(nodes, search)) == list(redone(nodes, search)) == []


@pytest.mark.usefixtures("few")
def test_dense_nodes_are_the_same_whatever_tiles_and_threads(tmp_path: Path) -> None:
    inputs, _ = corpus(tmp_path, [placeholders(1)], DIM)
    files = []
    for tile, threads in ((7, 1), (64, 2)):
        chosen = {**SETTINGS, "tile": tile, "threads": threads}
        search = searched_whole(tmp_path / "run", chosen, inputs, f"{tile}")
        files.append([search.info(DENSE, unit).sha256 for unit in (0, WHOLE)] + [search.info("near.parquet", 0).sha256])
    assert files[0] == files[1]


def test_counts_of_near_nodes_are_those_of_the_search(tmp_path: Path) -> None:
    from curate.dedup.search import near_counts

    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((300, 64))
    vectors[::3] = vectors[0] + rng.normal(0, 0.3, (100, 64))
    wide = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    exact = wide.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    products = exact @ exact[:90].T
    counts = near_counts(wide, wide[:90], 0.9)
    assert ((products >= 0.901).sum(axis=1) <= counts).all()
    assert (counts <= (products >= 0.899).sum(axis=1)).all()
    assert counts.max() > 20


def test_nodes_are_dense_on_both_sides_of_a_tile_or_on_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"FEW": 50, "EACH": 3, "SAMPLES": (20,), "_LEAST": 4, "_SURELY": 0}.items():
        monkeypatch.setattr(dense, name, value)
    # Every node of the first block is near the few of the second, each of which is near many.
    hub = np.zeros((2, DIM), np.float16)
    hub[:, 0] = 1
    spokes = np.zeros((200, DIM), np.float16)
    spokes[:, 0] = 1
    search = KINDS["image_embedding"].open({**SETTINGS})  # type: ignore[attr-defined] # it has a search
    found = [rows for rows, _ in dense.choices(search, spokes, hub, 50, is_one=False)]
    assert len(found) == 2
    assert [bool(len(rows.left)) for rows in found] == [bool(len(rows.right)) for rows in found] == [False, False]


def test_products_in_float32_reach_what_cosines_in_float64_do() -> None:
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal((200, 24)) + 2).astype(np.float16)
    exact = cosines(vectors, vectors)
    for least in (0.5, *np.unique(exact)[::300], *(np.unique(exact)[::300] + 1e-7)):
        assert np.array_equal(reach(vectors, vectors, float(least)), exact >= least)


@pytest.mark.parametrize("above", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("blocks", [1, 2])
def test_decisions_do_not_depend_on_dense_nodes(
    above: float, blocks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = placeholders(2)
    inputs, _ = corpus(tmp_path, [images], DIM)
    rng = np.random.default_rng(0)
    rows = [
        Row(SelectImage(f"http://x/{number}", sha256=name), f"caption {number}", similarity=float(rng.integers(0, 9)))
        for number, (name, _) in enumerate(images)
    ]
    rows += [Row(row.image, "another caption", similarity=float(rng.integers(0, 9))) for row in rows[::9]]
    select = write_inputs(tmp_path, rows, 1)
    steps = [
        step("same", duplicates={"by": "image_embedding", "above": 0.99}),
        step("near", duplicates={"by": "image_embedding", "above": above}),
    ]
    decided = []
    for is_dense in (False, True):
        with monkeypatch.context() as patch:
            if is_dense:
                for name, value in {"FEW": 50, "EACH": 3, "SAMPLES": (20, 60), "_LEAST": 4, "_TRIAL": 10}.items():
                    patch.setattr(dense, name, value)
            root = tmp_path / f"{is_dense}"
            if blocks == 1:
                search = searched_whole(root, SETTINGS, inputs)
                nodes = nodes_of(search)
            else:
                nodes, search = searched_by_blocks(root, SETTINGS, inputs, blocks, 170)
        assert (FoundPairs(search, nodes).dense() is not None) == is_dense
        folders = {"dedup-image_embedding": search, "nodes-image_embedding": nodes}
        _, of_parts, _ = run_select(Inputs({**select.folders, **folders}, select.parts), steps, root / "select")
        decided.append(of_parts)
    assert decided[0] == decided[1]
    dropped = [row for row in decided[0][0] if row["reason"] == "near"]
    assert above == 0.99 or len(dropped) > 5
