import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers.near_pairs import all_near, nodes_of
from helpers.searches import Image, corpus, digest, oracle, searched_whole
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import near
from curate.dedup import tiles, worker
from curate.errors import BrokenResult, DeviceLost, UsageError
from curate.store import Folder, Inputs


def dedup(root: Path, inputs: Inputs, floor: float, tile: int = 4, threads: int = 1) -> tuple[pa.Table, Folder]:
    chosen = {
        "kind": "image_embedding",
        "floor": floor,
        "tile": tile,
        "model": "m",
        "device": "cpu",
        "threads": threads,
    }
    folder = searched_whole(root, chosen, inputs, f"t{tile}-{threads}")
    return all_near(folder), folder


def unusable(everything: dict[bytes, Image]) -> int:
    return sum(bool(sha) and vector is not None and not any(vector) for sha, vector in everything.values())


VALUES = st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.5, 0.6, 0.8, 1.0])
VECTORS = st.none() | st.lists(VALUES, min_size=3, max_size=3)
DIGESTS = st.none() | st.integers(0, 12).map(digest)


@given(
    parts=st.lists(st.lists(st.tuples(DIGESTS, VECTORS), max_size=6), min_size=1, max_size=3),
    floor=st.sampled_from([0.5, 0.6, 0.8, 0.9, 0.96, 1.0]),
    tile=st.integers(1, 9),
)
@settings(max_examples=35, deadline=None)
def test_small_corpora_agree_with_brute_force(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[Image]], floor: float, tile: int
) -> None:
    # Few values and digests: ties at the floor, equal digests and zero vectors are common.
    root = tmp_path_factory.mktemp("dedup")
    inputs, everything = corpus(root, parts, dim=3)
    table, folder = dedup(root, inputs, floor, tile)
    expected = oracle(everything, floor)
    assert table == expected
    usable = [sha for sha, vector in everything.values() if sha and vector is not None and any(vector)]
    n = len(set(usable))
    assert folder.marker().counts == {
        "tiles": 1,
        "nodes": n,
        "pairs": n * (n - 1) // 2,
        "near": len(expected),
        "dense": 0,
    }
    assert nodes_of(folder).marker().counts == {"images": len(usable), "unusable": unusable(everything)}


def test_values_around_the_floor_are_told_apart_exactly(tmp_path: Path) -> None:
    # Turned by angles whose cosines lie within a few float32 roundings of the floor, on either side: a float32
    # product alone would put many of them on the wrong one.
    rng = np.random.default_rng(0)
    floor, dim = 0.9, 512
    images: list[Image] = []
    for number in range(40):
        x, y = rng.standard_normal((2, dim))
        x /= np.linalg.norm(x)
        y -= (y @ x) * x
        y /= np.linalg.norm(y)
        cosine = floor + (number - 20) * 4e-8
        images += [
            (digest(2 * number), list(x)),
            (digest(2 * number + 1), list(cosine * x + math.sqrt(1 - cosine**2) * y)),
        ]
    inputs, everything = corpus(tmp_path, [images[:30], images[30:]], dim)
    truth = oracle(everything, 0.8)
    assert dedup(tmp_path, inputs, floor, tile=16)[0] == [row for row in truth if row[2] >= floor]
    # float16 spreads them further; the floor is moved onto values that do occur, so that ties are tested too.
    around = sorted(similarity for _, _, similarity in truth)
    assert around[0] < floor < around[-1]
    for tie in (around[5], around[20], around[35]):
        found = dedup(tmp_path / str(tie), inputs, tie, tile=16)[0]
        assert found == [row for row in truth if row[2] >= tie]
        assert tie in {similarity for _, _, similarity in found}
        above = math.nextafter(tie, 1)
        assert tie not in {s for _, _, s in dedup(tmp_path / f"over-{tie}", inputs, above, tile=16)[0]}


def test_neither_tile_nor_threads_change_a_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (tiles, near):
        monkeypatch.setattr(module, "NEAR_GROUP", 100)
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((20, 64))
    vectors = centres[rng.integers(0, 20, 300)] + 0.3 * rng.standard_normal((300, 64))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    images: list[Image] = [(digest(n % 280), list(vector)) for n, vector in enumerate(vectors)]
    inputs, everything = corpus(tmp_path, [images[:100], images[100:]], 64)
    found = {}
    for tile, threads in ((7, 1), (64, 2), (300, 1), (4096, 2)):
        table, folder = dedup(tmp_path, inputs, 0.85, tile, threads)
        found[tile] = folder.marker(0).files["near.parquet"].sha256
        assert folder.marker(0).files["near.parquet"].rows == len(table)
        assert table == oracle(everything, 0.85)
        assert len(table) > 300, "several row groups"
    assert len(set(found.values())) == 1


def test_the_smallest_image_id_stands_for_a_digest(tmp_path: Path) -> None:
    # ids descend along the list and from part to part: the copy in the last part is the smallest.
    parts: list[list[Image]] = [[(digest(1), [1.0, 0.0]), (digest(2), [0.0, 1.0])], [(digest(1), [0.0, 1.0])]]
    inputs, _ = corpus(tmp_path, parts, 2)
    table, folder = dedup(tmp_path, inputs, 0.99)
    assert table == [(*sorted((digest(1), digest(2))), 1.0)]
    assert folder.marker().counts == {"tiles": 1, "nodes": 2, "pairs": 1, "near": 1, "dense": 0}
    assert nodes_of(folder).marker().counts == {"images": 3, "unusable": 0}


def test_an_embedding_that_is_not_a_number_is_left_out_and_noted(tmp_path: Path) -> None:
    values = {1: [math.nan, 1.0], 2: [0.0, 1.0], 3: [0.0, 1.0], 4: [0.0, 1.5]}
    inputs, _ = corpus(tmp_path, [[(digest(number), value) for number, value in values.items()]], 2)
    table, folder = dedup(tmp_path, inputs, 0.5)
    assert [row[2] for row in table] == [1.0]
    assert nodes_of(folder).marker().notes == ("2 images were not compared: no embedding of unit length",)


def test_a_corpus_without_images_has_an_empty_table(tmp_path: Path) -> None:
    inputs, _ = corpus(tmp_path, [[(None, None)], []], 4)
    table, folder = dedup(tmp_path, inputs, 0.9)
    assert table == []
    assert folder.marker().counts == {"tiles": 1, "nodes": 0, "pairs": 0, "near": 0, "dense": 0}


def test_no_parts_at_all_are_one_line(tmp_path: Path) -> None:
    inputs, _ = corpus(tmp_path, [[(digest(1), [1.0])]], 1)
    with pytest.raises(BrokenResult, match="embed-m-f: there is no part to search for duplicates"):
        dedup(tmp_path, Inputs(inputs.folders, []), 0.9)


def test_tables_of_other_images_are_refused(tmp_path: Path) -> None:
    inputs, _ = corpus(tmp_path, [[(digest(1), [1.0]), (digest(2), [1.0])]], 1)
    other, _ = corpus(tmp_path / "other", [[(digest(1), [1.0])]], 1)
    mixed = Inputs({"fetch": other["fetch"], "embed-m": inputs["embed-m"]}, [0])
    with pytest.raises(BrokenResult, match="part 0 does not list the images"):
        dedup(tmp_path, mixed, 0.9)


def test_cuda_is_not_silently_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UsageError, match="no CUDA device"):
        worker.open_worker(
            {"kind": "image_embedding", "floor": 0.9, "tile": 4, "model": "m", "device": "cuda", "threads": 1}
        )


def test_a_gpu_that_failed_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    inputs, _ = corpus(tmp_path, [[(digest(1), [1.0]), (digest(2), [1.0])]], 1)
    monkeypatch.setattr("curate.dedup.search._unit", fail)
    with pytest.raises(DeviceLost, match="the GPU failed: CUDA error: an illegal memory access"):
        dedup(tmp_path, inputs, 0.9)
