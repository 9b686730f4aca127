"""Near pairs by perceptual hash, and the step that goes by them."""

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from helpers.near_pairs import all_near, nodes_of, put_near
from helpers.searches import searched_whole
from helpers.select_run import Image, Row, run_select, step, write_inputs

from curate import schema
from curate.dedup import dense
from curate.dedup.certificate import faults, redone
from curate.errors import BrokenResult, RecipeError
from curate.near import FoundPairs
from curate.recipe import parse
from curate.store import Folder, Inputs, Store


def digest(number: int) -> str:
    return f"{number * 37 % 256:02x}{number:062x}"


def corpus(root: Path, parts: list[list[tuple[str | None, str | None]]]) -> Inputs:
    """Commits fetch and pixels; of each image its digest and its hash."""
    inputs = Inputs({name: Folder(Store(str(root)), name, "f") for name in ("fetch", "pixels")}, range(len(parts)))
    for part, images in enumerate(parts):
        ids = pa.array([(1000 * part + n).to_bytes(16, "big") for n in range(len(images))], schema.ID)
        for name, role, column, place in (
            ("fetch", "images.parquet", "sha256", 0),
            ("pixels", "pixels.parquet", "phash", 1),
        ):
            out = inputs[name].outputs(part)
            out.put_table(role, pa.table({"image_id": ids, column: pa.array([i[place] for i in images], pa.string())}))
            out.commit()
    return inputs


def search(root: Path, inputs: Inputs, bits: int) -> Folder:
    return searched_whole(root, {"kind": "phash", "bits": bits}, inputs)


def test_near_pairs_are_of_digests_with_the_share_of_equal_bits(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    bases = rng.integers(0, 2**64, 6, np.uint64)
    hashes = [int(bases[n % 6]) ^ sum(1 << int(bit) for bit in rng.integers(0, 64, n % 7)) for n in range(60)]
    images: list[tuple[str | None, str | None]] = [(digest(n), f"{value:016x}") for n, value in enumerate(hashes)]
    # A copy of a digest, an image without a hash, one that was not fetched.
    more: list[tuple[str | None, str | None]] = [images[3], (digest(70), None), (None, None)]
    folder = search(tmp_path / "out", corpus(tmp_path, [images[:20], images[20:] + more]), 8)
    expected = []
    for (a, left), (b, right) in itertools.combinations(sorted(zip(map(digest, range(60)), hashes, strict=True)), 2):
        if (left ^ right).bit_count() <= 8:
            expected.append((a, b, 1 - (left ^ right).bit_count() / 64))
    assert all_near(folder) == expected
    assert len(expected) > 100
    assert folder.marker().counts == {"tiles": 1, "nodes": 60, "pairs": 60 * 59 // 2, "near": len(expected), "dense": 0}


def test_hashes_of_a_placeholder_are_dense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"FEW": 20, "EACH": 3, "SAMPLES": (20,), "_LEAST": 4, "_TRIAL": 10}.items():
        monkeypatch.setattr(dense, name, value)
    rng = np.random.default_rng(1)
    hashes = [1 << int(rng.integers(0, 64)) for _ in range(50)] + rng.integers(0, 2**64, 30, np.uint64).tolist()
    images: list[tuple[str | None, str | None]] = [(digest(n), f"{value:016x}") for n, value in enumerate(hashes)]
    folder = search(tmp_path / "out", corpus(tmp_path, [images]), 8)
    assert all_near(folder) == []
    found = FoundPairs(folder, nodes_of(folder)).dense()
    assert found is not None
    assert sorted(found.values[:, 0].tolist()) == sorted(hashes[:50])
    assert folder.json("certificate.json")["deferred"] == 50 * 49 // 2
    assert list(faults(nodes_of(folder), folder)) == list(redone(nodes_of(folder), folder)) == []


def test_a_part_may_have_no_image_with_a_hash(tmp_path: Path) -> None:
    hashed: list[tuple[str | None, str | None]] = [(digest(1), "0" * 16), (digest(2), "0" * 15 + "7")]
    inputs = corpus(tmp_path, [[], hashed, [(digest(3), None), (None, None)]])
    assert search(tmp_path / "out", inputs, 3).table("near.parquet", 0)["similarity"].to_pylist() == [1 - 3 / 64]
    empty = search(tmp_path / "empty", Inputs(inputs.folders, [0, 2]), 3)
    assert empty.marker().counts == {"tiles": 1, "nodes": 0, "pairs": 0, "near": 0, "dense": 0}


def test_what_is_no_hash_is_refused(tmp_path: Path) -> None:
    inputs = corpus(tmp_path, [[(digest(1), "ff")]])
    with pytest.raises(BrokenResult, match="phash that is not 16 hex digits"):
        search(tmp_path / "out", inputs, 8)


def recipe(*select: dict[str, object], **dedup: int) -> None:
    parse({"version": 1, "source": {"paths": ["x"]}, "output": "o", "select": list(select), "dedup": dedup})


def near(**keys: object) -> dict[str, object]:
    return {"drop": "near", "duplicates": {"by": "phash", **keys}}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "duplicates: by: pdq or phash needs `within`, and no other kind takes it"),
        ({"within": 6, "above": 0.9}, "duplicates: by: image_embedding or text_embedding needs `above`, and no"),
        ({"within": 17}, "duplicates.within: 17 is not allowed; write a whole number from 0 to 16"),
        ({"within": 9}, "within 9 is more than dedup.phash_bits 8; raise dedup.phash_bits to 9"),
    ],
)
def test_its_keys(keys: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=f"select step 'near': {message}"):
        recipe(near(**keys))
    recipe(near(within=6))
    recipe(near(within=9), phash_bits=10)


def test_a_step_goes_by_it_beside_one_by_embedding(tmp_path: Path) -> None:
    # b is near a by its hash, c is near b by its embedding alone, and d is near neither enough.
    names = {name: digest(number) for number, name in enumerate("abcd")}
    rows = [
        Row(Image(f"http://x/{name}", sha256=names[name]), "a", similarity=value)
        for name, value in zip("abcd", (0.4, 0.3, 0.2, 0.1), strict=True)
    ]
    inputs = write_inputs(tmp_path, rows, 1, [(names["b"], names["c"], 0.96), (names["a"], names["c"], 0.97)])
    folder = Folder(Store(str(tmp_path)), "dedup-phash", "0")
    pairs = [(names["a"], names[other], 1 - bits / 64) for other, bits in (("b", 6), ("d", 7))]
    near = put_near(folder, pairs)
    steps = [
        step("look", duplicates={"by": "phash", "within": 6}),
        step("embed", duplicates={"by": "image_embedding", "above": 0.95}),
    ]
    both = Inputs({**inputs.folders, **near}, inputs.parts)
    funnel, decided, _ = run_select(both, steps, tmp_path / "run")
    reasons = {row["pair_id"]: (row["reason"], row["duplicate_of"], row["duplicate_similarity"]) for row in decided[0]}
    a, b, c, d = (row.pair_id for row in rows)
    assert reasons == {
        a: (None, None, None),
        b: ("look", a, 1 - 6 / 64),
        c: ("embed", a, 0.97),
        d: (None, None, None),
    }
    facts = funnel["steps"][-2]
    assert facts["says"] == "at most 6 of 64 bits of phash differ; keeps the one with the highest clip_similarity"
    (search,) = facts["searches"]
    assert (search["near"], search["threshold"]) == ("dedup-phash", 1 - 6 / 64)
    # The made run's pixels have no hash.
    assert facts["without"] == "4 without a value stay"
