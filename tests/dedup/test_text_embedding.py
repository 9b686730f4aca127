"""The search by text_embedding compares one embedding of each distinct caption, of pairs that have an image."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from helpers.near_pairs import all_near, nodes_of
from helpers.searches import searched_whole

from curate import schema
from curate.duplicates import CAPTION
from curate.errors import BrokenResult
from curate.store import Folder, Inputs, Store

Pair = tuple[int, str, list[float] | None, bool]
"""The number of the pair's id, its caption, its text embedding, and whether its image was embedded."""

SETTINGS: dict[str, Any] = {
    "kind": "text_embedding",
    "floor": 0.9,
    "tile": 4,
    "model": "m",
    "device": "cpu",
    "threads": 1,
}


def written(root: Path, parts: list[list[Pair]], repeated: int = 0) -> Inputs:
    """Commits plan and embed folders; the first pair of each part is planned `repeated` more times."""
    store = Store(str(root))
    inputs = Inputs({name: Folder(store, name, "f") for name in ("plan", "embed-m")}, range(len(parts)))
    for part, pairs in enumerate(parts):
        ids = pa.array([number.to_bytes(16, "big") for number, *_ in pairs], schema.ID)
        rows = [0] * repeated + list(range(len(pairs)))
        planned = {
            "pair_id": ids.take(pa.array(rows)),
            "caption": [pairs[row][1] for row in rows],
            "repeated": [0 < place <= repeated for place in range(len(rows))],
        }
        vectors = [None if vector is None else np.array(vector, np.float16) for _, _, vector, _ in pairs]
        embedded = {
            "pair_id": ids,
            "text_embedding": pa.array(vectors, schema.embedding(2)),
            "clip_similarity": pa.array([0.3 if has_image else None for *_, has_image in pairs], pa.float32()),
        }
        for name, table in (("plan", planned), ("embed-m", embedded)):
            out = inputs[name].outputs(part)
            out.put_table("pairs.parquet", pa.table(table))
            out.commit()
    return inputs


def digests(*captions: str) -> list[str]:
    found: list[str] = CAPTION.digests_of(pa.chunked_array([list(captions)])).to_pylist()
    return found


def test_distinct_captions_are_compared_by_the_embedding_of_the_smallest_pair(tmp_path: Path) -> None:
    parts: list[list[Pair]] = [
        # The second pair of the caption "a cat" has another embedding, as another batch may give: it does not count.
        [(5, "a cat", [1.0, 0.0], True), (9, "a dog", [0.0, 1.0], True), (10, "no image", [1.0, 0.0], False)],
        [(6, "a cat", [0.0, 1.0], True), (7, "A cat", [1.0, 0.0], True), (8, "", None, True)],
        # Of a source row with two captions, each is a pair.
        [(1, "a hound", [0.6, 0.8], True), (2, "one dog", [0.0, 1.0], True), (3, "nothing", [0.0, 0.0], True)],
    ]
    search = searched_whole(tmp_path, SETTINGS, written(tmp_path, parts, repeated=2))
    near = [("a cat", "A cat"), ("a dog", "one dog")]
    assert sorted(all_near(search)) == sorted((*sorted(digests(*pair)), 1.0) for pair in near)
    assert search.marker().counts["nodes"] == 5
    marker = nodes_of(search).marker()
    assert marker.counts == {"captions": 6, "unusable": 1}
    assert marker.notes == ("1 caption was not compared: no embedding of unit length",)


def test_tables_of_other_pairs_are_refused(tmp_path: Path) -> None:
    inputs = written(tmp_path, [[(1, "a", [1.0, 0.0], True)]])
    other = written(tmp_path / "other", [[(2, "a", [1.0, 0.0], True)]])
    mixed = Inputs({"plan": other["plan"], "embed-m": inputs["embed-m"]}, [0])
    with pytest.raises(BrokenResult, match="embed-m-f: part 0 does not list the pairs of plan-f"):
        searched_whole(tmp_path, SETTINGS, mixed)
