"""A search by blocks finds what a search in one unit finds, goes on after a kill, and its certificate adds up."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from helpers.inline_engine import InlineEngine
from helpers.near_pairs import all_near, nodes_of
from helpers.searches import (
    Image,
    corpus,
    digest,
    oracle,
    searched_by_blocks,
    searched_whole,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.dedup import passes
from curate.dedup.certificate import faults
from curate.errors import BrokenResult
from curate.store import WHOLE, Folder, Inputs

SETTINGS = {"kind": "image_embedding", "floor": 0.8, "tile": 16, "model": "m", "device": "cpu", "threads": 1}


def some_images(seed: int, count: int = 120, dim: int = 16) -> list[Image]:
    """Images in ten groups, some of them without a digest or an embedding, and some files twice."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((10, dim))[rng.integers(0, 10, count)] + 0.4 * rng.standard_normal((count, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    # Digests over the whole range, so that every block has some.
    names = [f"{int(rng.integers(0, 2**32)):08x}{n:056x}" for n in range(count)]
    images: list[Image] = [(name, list(vector)) for name, vector in zip(names, vectors, strict=True)]
    images[3], images[4], images[5] = (None, images[3][1]), (names[4], None), (names[5], [0.0] * dim)
    images[90:95] = images[10:15]
    return images


def divided(images: list[Image], each: int) -> list[list[Image]]:
    return [images[start : start + each] for start in range(0, len(images), each)]


@given(
    seed=st.integers(0, 99),
    blocks=st.integers(2, 9),
    each=st.integers(5, 70),
    shelf=st.sampled_from([1, 30, 1000]),
    tile=st.integers(1, 40),
)
@settings(max_examples=15, deadline=None)
def test_by_blocks_it_finds_what_one_unit_and_brute_force_find(
    tmp_path_factory: pytest.TempPathFactory, seed: int, blocks: int, each: int, shelf: int, tile: int
) -> None:
    root = tmp_path_factory.mktemp("blocks")
    inputs, everything = corpus(root, divided(some_images(seed), each), 16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "SHELF_ROWS", shelf)
        chosen = {**SETTINGS, "tile": tile}
        nodes, search = searched_by_blocks(root / "many", chosen, inputs, blocks, each)
    whole = searched_whole(root / "one", SETTINGS, inputs)
    expected = oracle(everything, 0.8)
    assert sorted(all_near(search, nodes)) == expected == all_near(whole)
    assert len(expected) > 20
    assert nodes.marker().counts == nodes_of(whole).marker().counts
    assert list(faults(nodes, search)) == list(faults(nodes_of(whole), whole)) == []
    assert not nodes.store.kind(f"{nodes.path}/work"), "the shelves are deleted"
    one, many = (folder.json("certificate.json") for folder in (whole, search))
    assert [one[key] for key in ("nodes", "pairs", "near")] == [many[key] for key in ("nodes", "pairs", "near")]


def test_neither_shelves_nor_tiles_change_a_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = some_images(0)
    found = []
    for number, (each, shelf, tile, threads) in enumerate(((7, 1, 5, 1), (50, 1000, 64, 2))):
        monkeypatch.setattr(passes, "SHELF_ROWS", shelf)
        inputs, _ = corpus(tmp_path / str(number), divided(images, each), 16)
        chosen = {**SETTINGS, "tile": tile, "threads": threads}
        nodes, search = searched_by_blocks(tmp_path / str(number), chosen, inputs, 4, each)
        found.append(
            [
                *(nodes.info("nodes.parquet", block).sha256 for block in range(4)),
                *(search.info("near.parquet", unit).sha256 for unit in range(10)),
                search.info("certificate.json").content,
            ]
        )
    # The image with the smallest id stands for a digest, and ids differ between the two divisions.
    assert found[0] == found[1]


class Killed(BaseException):
    """The end of a driver."""


class KilledEngine(InlineEngine):
    """Dies after some units."""

    def __init__(self, lives: int) -> None:
        super().__init__()
        self.lives = lives

    def wait(self, seconds: float) -> Any:
        if len(self.order) == self.lives:
            raise Killed
        return super().wait(seconds)


def test_killed_after_any_unit_it_goes_on_and_does_nothing_twice(tmp_path: Path) -> None:
    inputs, everything = corpus(tmp_path, divided(some_images(1), 30), 16)
    done: list[tuple[str, int]] = []
    for _ in range(100):
        engine = KilledEngine(1)
        with contextlib.suppress(Killed):
            nodes, search = searched_by_blocks(tmp_path / "run", SETTINGS, inputs, 3, 200_000, engine)
        done += engine.order
        if not engine.order:
            break
    assert sorted(all_near(search, nodes)) == oracle(everything, 0.8)
    # Four shelves, three blocks and their counts, six tiles, the certificate.
    assert len(done) == len(set(done)) == 4 + 3 + 1 + 6 + 1


def test_a_wrong_product_is_found_by_the_rows_that_are_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, _ = corpus(tmp_path, [some_images(3, 100)[:14]], 16)
    whole = searched_whole(tmp_path, SETTINGS, inputs, "right")
    assert len(all_near(whole)) > 0
    monkeypatch.setattr("curate.dedup.search._at_least", lambda *_: np.empty((0, 2), np.int64))
    with pytest.raises(BrokenResult, match=r"tile 0 × 0: \d+ near pairs? differs? from a comparison without bounds"):
        searched_whole(tmp_path, SETTINGS, inputs, "wrong")


def changed(search: Folder, role: str, unit: int, **keys: object) -> None:
    """Writes a file of a unit anew, with its marker, and other values of some keys."""
    before = search.marker(unit)
    out = search.outputs(unit)
    for name, info in before.files.items():
        if name != role:
            out.files[name] = info
    out.put_json(role, {**search.json(role, unit), **keys})
    out.counts.update(before.counts)
    search.store.delete(search.marker_name(unit))
    out.commit()


@pytest.mark.parametrize(
    ("role", "unit", "keys", "fault"),
    [
        ("certificate.json", WHOLE, {"compared": 0}, "pairs compared, "),
        ("certificate.json", WHOLE, {"near": 5}, "its sums are not those of the tiles"),
        ("certificate.json", WHOLE, {"blocks": [{"nodes": 1, "sha256": "0"}]}, "block 0 has other nodes"),
        ("account.json", 1, {"compared": 10**6}, "does not account for the"),
        ("account.json", 2, {"near": 10**6}, "near.parquet has another number of pairs"),
    ],
)
def test_a_certificate_that_does_not_add_up_is_a_fault(
    role: str, unit: int, keys: dict[str, object], fault: str, tmp_path: Path
) -> None:
    inputs, _ = corpus(tmp_path, divided(some_images(4), 40), 16)
    nodes, search = searched_by_blocks(tmp_path, SETTINGS, inputs, 2, 40)
    assert list(faults(nodes, search)) == []
    changed(search, role, unit, **keys)
    assert any(fault in line for line, _ in faults(nodes, search))


def test_the_certificate_names_every_bound(tmp_path: Path) -> None:
    inputs, everything = corpus(tmp_path, divided(some_images(5), 40), 16)
    nodes, search = searched_by_blocks(tmp_path, SETTINGS, inputs, 2, 40)
    said = search.json("certificate.json")
    n = nodes.json("block.json", 0)["nodes"] + nodes.json("block.json", 1)["nodes"]
    assert said["pairs"] == n * (n - 1) // 2 == said["compared"] + said["excluded"]["float32"]
    assert said["near"] == len(oracle(everything, 0.8))
    assert said["kind"] == "image_embedding"
    (bound,) = said["bounds"]["float32"]
    assert bound["values"] == 16
    assert 0.79 < bound["below"] < 0.8


def test_parts_of_another_width_are_refused(tmp_path: Path) -> None:
    inputs, _ = corpus(tmp_path, [[(digest(1), [1.0, 0.0])], [(digest(2), [1.0, 0.0])]], 2)
    other, _ = corpus(tmp_path / "other", [[(digest(1), [1.0])], [(digest(2), [1.0])]], 1)
    out = inputs["embed-m"].outputs(1)
    out.put_table("images.parquet", other["embed-m"].table("images.parquet", 1))
    inputs["embed-m"].store.delete(inputs["embed-m"].marker_name(1))
    out.commit()
    with pytest.raises(BrokenResult, match=r"embed-m-f: some parts have values of .* others of"):
        searched_whole(tmp_path, SETTINGS, Inputs(inputs.folders, [0, 1]))
    assert pa.types.is_fixed_size_list(other["embed-m"].table("images.parquet", 0).schema.field(1).type)
