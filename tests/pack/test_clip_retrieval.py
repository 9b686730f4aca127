"""The layout `clip_retrieval`, read as clip-retrieval reads it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.made_run import COLUMNS, DIMS, SETTINGS, MadeRun, make_run, pack, write_manifest
from helpers.rewritten import put_info

from curate.commands.verify import verify
from curate.store import FileInfo, Store

PACK = "pack-ffffffff"
CHOSEN = {**SETTINGS, "layouts": ["clip_retrieval"]}
FOLDERS = {"small": "clip_retrieval", "big": "clip_retrieval_big"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    made = make_run(tmp_path_factory.mktemp("run"))
    write_manifest(made, pack(made, settings=CHOSEN), CHOSEN)
    return made


@pytest.fixture
def result(run: MadeRun) -> Path:
    return Path(run.store.path(PACK))


def read_matrix(path: Path) -> np.ndarray:
    """A file as `embedding_reader.numpy_reader` reads it: the first line by two patterns, the rest as it lies there."""
    data = path.read_bytes()
    head = data[:300].split(b"\n")[0]
    shape = re.search(r"'shape': \(([0-9]+), ([0-9]+)\)", str(head))
    dtype = re.search(r"'descr': '([<f0-9]+)'", str(head))
    assert shape is not None
    assert dtype is not None
    return np.frombuffer(data[len(head) + 1 :], dtype=dtype[1]).reshape(int(shape[1]), int(shape[2]))


def read_folder(folder: Path, kind: str, columns: list[str]) -> tuple[np.ndarray, pa.Table]:
    """All embeddings with their metadata, as `embedding_reader.parquet_numpy_reader`: sorted files, zipped."""
    matrices = [read_matrix(path) for path in sorted((folder / kind).glob("*.npy"))]
    tables = [pq.read_table(path).select(columns) for path in sorted((folder / "metadata").glob("*.parquet"))]
    assert [len(matrix) for matrix in matrices] == [len(table) for table in tables] == [5, 5, 2]
    return np.concatenate(matrices), pa.concat_tables(tables)


@pytest.mark.parametrize("model", DIMS)
def test_each_models_folder_is_read_back_row_for_row(run: MadeRun, result: Path, model: str) -> None:
    for which, kind in enumerate(("img_emb", "text_emb")):
        columns = ["image_path", "caption", "url", "key", f"clip_similarity_{model}"]
        found, metadata = read_folder(result / FOLDERS[model], kind, columns)
        assert found.dtype == np.float16
        np.testing.assert_array_equal(found, np.stack([row["vectors"][model][which] for row in run.kept]))
        keys = [row["pair_id"].hex() for row in run.kept]
        assert metadata["image_path"].to_pylist() == metadata["key"].to_pylist() == keys
        assert metadata["caption"].to_pylist() == [row["caption"] for row in run.kept]
        assert metadata["url"].to_pylist() == [row["url"] for row in run.kept]


def test_metadata_has_the_columns_of_a_shards_table(run: MadeRun, result: Path, tmp_path: Path) -> None:
    pack(run, tmp_path)
    shard = pq.read_table(tmp_path / PACK / "shards/00000001.parquet")
    for folder in FOLDERS.values():
        metadata = pq.read_table(result / folder / "metadata/metadata_00000001.parquet")
        assert metadata.column_names[:2] == ["image_path", "caption"]
        # As text, for NaN is not equal to itself.
        assert str(metadata.select(shard.column_names).to_pylist()) == str(shard.to_pylist())
        assert {*metadata.column_names} == {*shard.column_names, "image_path"}


def test_the_result_holds_nothing_else_and_has_no_fault(run: MadeRun, result: Path) -> None:
    found = {path.relative_to(result).as_posix() for path in result.rglob("*") if path.is_file()}
    names = [("img_emb", "npy"), ("text_emb", "npy"), ("metadata", "parquet")]
    assert {name for name in found if not name.startswith(("done/", "pass.json"))} == {
        "README.md",
        *(f"{of}/{kind}/{kind}_{n:08d}.{end}" for of in FOLDERS.values() for kind, end in names for n in range(3)),
    }
    assert verify(run.store) == []


def test_bytes_are_the_same_again_and_beside_another_layout(run: MadeRun, result: Path, tmp_path: Path) -> None:
    pack(run, tmp_path, {**SETTINGS, "layouts": ["webdataset", "clip_retrieval"]})
    for path in result.glob("clip_retrieval*/*/*"):
        assert (tmp_path / PACK / path.relative_to(result)).read_bytes() == path.read_bytes()
    head = (result / "clip_retrieval/img_emb/img_emb_00000002.npy").read_bytes().split(b"\n")[0]
    # np.save's own form, version 1.0, whatever numpy writes it.
    assert head[:8] == b"\x93NUMPY\x01\x00"
    assert head[10:].strip() == b"{'descr': '<f2', 'fortran_order': False, 'shape': (2, 8), }"


def test_the_cards_examples_run(result: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(result)
    card = (result / "README.md").read_text()
    assert "12 pairs of an image and a caption in 3 clip-retrieval partitions, kept from" in card
    found: dict = {}
    for block in card.split("```python\n")[1:]:
        exec(block.split("```")[0], found)
    assert found["embeddings"].shape == (5, DIMS["small"])
    assert len(found["metadata"]) == 5
    named = [name for line in card.splitlines() for name in re.findall(r"`(clip_retrieval\S*?/\S+)`", line)]
    assert len(named) == 6
    assert all((result / name.format(0)).is_file() for name in named)


def swapped(matrix: np.ndarray) -> np.ndarray:
    return matrix[[1, 0, *range(2, len(matrix))]]


def shortened(matrix: np.ndarray) -> np.ndarray:
    """The same rows in one dimension less."""
    cut = matrix[:, 1:].astype(np.float32)
    return (cut / np.linalg.norm(cut, axis=1, keepdims=True)).astype(np.float16)


@pytest.mark.parametrize(
    ("name", "change", "fault"),
    [
        ("img_emb/img_emb", swapped, "{metadata}: row 0: clip_similarity is "),
        ("text_emb/text_emb", swapped, "{metadata}: row 0: clip_similarity is "),
        ("img_emb/img_emb", lambda of: of[1:], "{name}: holds 4 rows, not 5"),
        (
            "text_emb/text_emb",
            lambda of: of[:, 1:] / np.linalg.norm(of[:, 1:], axis=1, keepdims=True),
            "{name}: has row",
        ),
        ("img_emb/img_emb", lambda of: of * np.float16(2), "{name}: row 0 has the length 2.00"),
        ("text_emb/text_emb", lambda of: of * np.float16("nan"), "{name}: row 0 has the length nan, not 1"),
        ("img_emb/img_emb", lambda of: of.astype(np.float32), "{name}: holds float32 of shape (5, 8), not rows of"),
        ("img_emb/img_emb", np.asfortranarray, "{name}: holds float16 of shape (5, 8), not rows of float16"),
        (
            "text_emb/text_emb",
            lambda of: of[:0].reshape(-1),
            "{name}: holds float16 of shape (0,), not rows of float16",
        ),
        ("text_emb/text_emb", lambda _: None, "{name}: cannot be read: "),
    ],
)
def test_embeddings_that_do_not_belong_to_the_metadata_are_found(
    tmp_path: Path, name: str, change: Callable[[np.ndarray], np.ndarray | None], fault: str
) -> None:
    made = make_run(tmp_path)
    write_manifest(made, pack(made, settings=CHOSEN), CHOSEN)
    name = f"clip_retrieval/{name}_00000001.npy"
    matrix = change(np.load(tmp_path / PACK / name))
    if matrix is None:
        (tmp_path / PACK / name).write_bytes(b"")
    else:
        np.save(tmp_path / PACK / name, matrix)
    agree(made, name)
    (found,) = verify(made.store)
    metadata = "clip_retrieval/metadata/metadata_00000001.parquet"
    assert found.startswith(f"{PACK}/{fault.format(name=name, metadata=metadata)}")


def test_metadata_of_other_pairs_is_found(tmp_path: Path) -> None:
    made = make_run(tmp_path)
    write_manifest(made, pack(made, settings=CHOSEN), CHOSEN)
    name = "clip_retrieval_big/metadata/metadata_00000000.parquet"
    table = pq.read_table(tmp_path / PACK / name)
    pq.write_table(table.take([1, 0, 2, 3, 4]), tmp_path / PACK / name)
    agree(made, name)
    first, second = (row["pair_id"].hex() for row in made.kept[:2])
    rows, cosines = verify(made.store)
    assert rows == f"{PACK}/{name}: row 0 is {second}, where {first} belongs"
    assert cosines.startswith(f"{PACK}/{name}: row 0: clip_similarity_big is ")


def test_a_lost_partition_is_a_gap_even_where_the_manifest_forgot_it_too(run: MadeRun, tmp_path: Path) -> None:
    manifest = run.store.read_json("manifest.json")
    kept = [info for info in manifest["result"] if not info["name"].startswith("clip_retrieval_big/")]
    run.store.put("manifest-sample-0.5.json", json.dumps({**manifest, "result": kept}).encode())
    found = verify(Store(run.store.url), manifest="manifest-sample-0.5.json")
    faults = [fault for fault in found if "/done/" not in fault]
    assert len(found) > len(faults), "markers name files that the manifest does not"
    assert len(faults) == 9
    assert all(fault.endswith(": is not listed in the manifest") for fault in faults)
    assert COLUMNS.embeddings()[2] == "image_embedding_big"


def agree(made: MadeRun, name: str) -> None:
    """Makes the manifest say what a file now holds, as a faulty writer would have."""
    manifest = made.store.read_json("manifest.json")
    data = made.store.read(f"{PACK}/{name}")
    (info,) = (info for info in manifest["result"] if info["name"] == name)
    info |= vars(made.folder("pack").outputs(0).put("x", data, name=name, rows=info["rows"]))
    made.store.put("manifest.json", json.dumps(manifest).encode())
    put_info(made.folder("pack"), FileInfo(**info))
