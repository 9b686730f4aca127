"""Near pairs by PDQ hash against brute force, hashes of low quality, and the keys of a step that goes by them."""

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from helpers.near_pairs import all_near, nodes_of
from helpers.searches import searched_whole

from curate import schema
from curate.duplicates import KINDS, NearKind
from curate.errors import BrokenResult, RecipeError
from curate.recipe import Recipe, parse
from curate.store import Folder, Inputs, Store

Measured = tuple[str | None, str | None, int | None]
"""Of an image its digest, its hash and its quality."""


def digest(number: int) -> str:
    return f"{number * 37 % 256:02x}{number:062x}"


def corpus(root: Path, parts: list[list[Measured]]) -> Inputs:
    """Commits fetch and the pass of the hashes."""
    inputs = Inputs({name: Folder(Store(str(root)), name, "f") for name in ("fetch", "pixels-pdq")}, range(len(parts)))
    for part, images in enumerate(parts):
        ids = pa.array([(1000 * part + n).to_bytes(16, "big") for n in range(len(images))], schema.ID)
        digests, hashes, qualities = (list(column) for column in zip(*images, strict=True))
        fetched = inputs["fetch"].outputs(part)
        fetched.put_table("images.parquet", pa.table({"image_id": ids, "sha256": pa.array(digests, pa.string())}))
        fetched.commit()
        measured = inputs["pixels-pdq"].outputs(part)
        columns = {"pdq": pa.array(hashes, pa.string()), "pdq_quality": pa.array(qualities, pa.int32())}
        measured.put_table("pixels.parquet", pa.table({"image_id": ids, **columns}))
        measured.commit()
    return inputs


def search(root: Path, inputs: Inputs, bits: int = 31, quality: int = 50) -> Folder:
    return searched_whole(root, {"kind": "pdq", "bits": bits, "quality": quality}, inputs)


@pytest.mark.parametrize("bits", [31, 60])
def test_near_pairs_are_of_digests_with_the_share_of_equal_bits(bits: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    bases = [int.from_bytes(rng.bytes(32)) for _ in range(6)]
    hashes = [bases[n % 6] ^ sum(1 << int(bit) for bit in set(rng.integers(0, 256, n % 40))) for n in range(60)]
    images: list[Measured] = [(digest(n), f"{value:064x}", 50 + n % 50) for n, value in enumerate(hashes)]
    # A copy of a digest, an image without a hash, one that was not fetched.
    more: list[Measured] = [images[3], (digest(70), None, None), (None, None, None)]
    folder = search(tmp_path / "out", corpus(tmp_path, [images[:20], images[20:] + more]), bits)
    expected = []
    for (a, left), (b, right) in itertools.combinations(sorted(zip(map(digest, range(60)), hashes, strict=True)), 2):
        differing = (left ^ right).bit_count()
        if differing <= bits:
            expected.append((a, b, 1 - differing / 256))
    assert all_near(folder) == expected
    assert len(expected) > 60
    assert folder.marker().counts == {"tiles": 1, "nodes": 60, "pairs": 60 * 59 // 2, "near": len(expected), "dense": 0}
    assert nodes_of(folder).marker().counts == {"images": 61, "unusable": 0}
    assert nodes_of(folder).marker().notes == ()


def test_hashes_of_low_quality_are_not_compared_and_counted(tmp_path: Path) -> None:
    blank, other = "0" * 64, "0" * 63 + "1"
    images: list[Measured] = [
        (digest(1), blank, 0),
        (digest(2), blank, 49),
        (digest(3), other, 50),
        (digest(4), other, 90),
    ]
    inputs = corpus(tmp_path, [images])
    folder = search(tmp_path / "some", inputs)
    ((a, b, _),) = all_near(folder)
    assert {a, b} == {digest(3), digest(4)}
    assert nodes_of(folder).marker().notes == (
        "2 images were not compared: the quality of the pdq hash is below dedup.pdq_quality",
    )
    assert search(tmp_path / "all", inputs, quality=0).marker().counts["near"] == 6


def test_what_is_no_hash_is_refused(tmp_path: Path) -> None:
    inputs = corpus(tmp_path, [[(digest(1), "ff", 100)]])
    with pytest.raises(BrokenResult, match="pdq that is not 64 hex digits"):
        search(tmp_path / "out", inputs)


def recipe(*steps: dict[str, object], **dedup: int) -> Recipe:
    select = [{"drop": f"near_{number}", "duplicates": keys} for number, keys in enumerate(steps)]
    return parse({"version": 1, "source": {"paths": ["x"]}, "output": "o", "select": select, "dedup": dedup})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"by": "pdq"}, "duplicates: by: pdq or phash needs `within`, and no other kind takes it"),
        ({"by": "pdq", "within": 65}, "duplicates.within: 65 is not allowed; write a whole number from 0 to 64$"),
        ({"by": "phash", "within": 31}, "duplicates.within: 31 is not allowed; write a whole number from 0 to 16$"),
        ({"by": "phash", "within": "a"}, "duplicates.within: 'a' is not allowed; write a whole number from 0 to 16$"),
        ({"by": "pdq", "within": 32}, "within 32 is more than dedup.pdq_bits 31; raise dedup.pdq_bits to 32"),
    ],
)
def test_a_key_of_two_kinds_has_the_bounds_of_its_own(keys: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=f"select step 'near_0': {message}"):
        recipe(keys)
    recipe({"by": "pdq", "within": 31}, {"by": "phash", "within": 8})
    recipe({"by": "pdq", "within": 60}, pdq_bits=60)


def test_bits_and_quality_are_in_the_fingerprint() -> None:
    kind = KINDS.find("pdq")
    assert isinstance(kind, NearKind)
    asked = [recipe(**keys).dedup for keys in ({}, {"pdq_bits": 40}, {"pdq_quality": 0}, {"phash_bits": 4})]
    plain, bits, quality, foreign = ({**kind.depends(dedup), **kind.gathers(dedup)} for dedup in asked)
    assert plain == foreign == {"bits": 31, "quality": 50}
    assert (bits["bits"], quality["quality"]) == (40, 0)
