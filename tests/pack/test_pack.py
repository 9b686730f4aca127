import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset as wds
import yaml
from helpers.made_run import CAPTIONS, DIMS, SETTINGS, MadeRun, make_run, pack
from helpers.rewritten import put_table
from PIL import Image

from curate.errors import BrokenResult
from curate.pack import worker
from curate.store import WHOLE, Folder, Store


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def result(run: MadeRun) -> Path:
    return Path(run.store.path(pack(run).path))


def files(root: Path) -> dict[str, bytes]:
    found = [path for folder in ("shards", "embeddings") for path in (root / folder).iterdir()]
    return {str(path.relative_to(root)): path.read_bytes() for path in [*found, root / "README.md"]}


def tables(result: Path, folder: str) -> list[pa.Table]:
    return [pq.read_table(path) for path in sorted((result / folder).glob("*.parquet"))]


def test_kept_pairs_fill_every_shard_but_the_last(run: MadeRun, result: Path) -> None:
    assert len(run.kept) == 12
    assert worker.n_shards(run.inputs["select"], 5) == 3
    sizes = json.loads((result / "shards/sizes.json").read_bytes())
    assert sizes == {"00000000.tar": 5, "00000001.tar": 5, "00000002.tar": 2}
    stats = json.loads((result / "shards/00000002_stats.json").read_bytes())
    assert stats == {"count": 2, "successes": 2, "failed_to_download": 0, "failed_to_resize": 0,
                     "status_dict": {"success": 2}}  # fmt: skip


@pytest.mark.parametrize(("size", "shards"), [(1, 12), (4, 3), (11, 2), (12, 1), (13, 1)])
def test_any_shard_size_cuts_the_same_sequence(run: MadeRun, size: int, shards: int, tmp_path: Path) -> None:
    folder = pack(run, tmp_path, {**SETTINGS, "shard_size": size})
    found = tables(tmp_path / folder.path, "shards")
    assert [len(table) for table in found[:-1]] == [size] * (shards - 1)
    keys = pa.concat_tables(found)["key"].to_pylist()
    assert keys == [row["pair_id"].hex() for row in run.kept]
    counts = [folder.marker(shard).counts["samples"] for shard in range(shards)]
    assert sum(counts) == len(run.kept)


def test_webdataset_reads_the_kept_pairs_in_order(run: MadeRun, result: Path) -> None:
    urls = [str(path) for path in sorted((result / "shards").glob("*.tar"))]
    samples = list(wds.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [row["pair_id"].hex() for row in run.kept]
    for sample, row in zip(samples, run.kept, strict=True):
        (extension,) = {"jpg", "png", "webp"} & set(sample)
        assert sample[extension] == row["bytes"]
        assert sample["txt"].decode() == row["caption"]
    assert {row["caption"] for row in run.kept} == set(CAPTIONS), "every awkward caption is among them"


def test_json_holds_any_source_value(run: MadeRun, result: Path) -> None:
    samples = {}
    for path in sorted((result / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            samples |= {m.name[:32]: json.load(tar.extractfile(m)) for m in tar if m.name.endswith(".json")}
    for row in run.kept:
        found = samples[row["pair_id"].hex()]
        assert found["uid"] == found["key"] == row["pair_id"].hex()
        assert (found["url"], found["caption"], found["status"]) == (row["url"], row["caption"], "success")
        assert (found["width"], found["height"]) == (20, 10)
        assert (found["original_width"], found["original_height"]) == (40, 20)
        for model, names in (
            ("small", ["clip_similarity", "clip_similarity_small"]),
            ("big", ["clip_similarity_big", "clip_similarity_mirrored_big"]),
        ):
            cosine = np.dot(*(vector.astype(np.float32) for vector in row["vectors"][model]))
            assert [found[name] for name in names] == pytest.approx([cosine] * 2, abs=1e-6)
        assert found["source_when"] == row["source_when"].isoformat()
        assert found["source_raw"] == "00ff"
        assert found["source_tags"] == ["a", None]
        assert found["source_score"] == (None if np.isnan(row["source_score"]) else 0.5)


def test_members_are_alphabetical_and_say_nothing_of_time_or_owner(result: Path) -> None:
    for path in (result / "shards").glob("*.tar"):
        with tarfile.open(path) as tar:
            members = tar.getmembers()
        for sample in zip(*[iter(members)] * 3, strict=True):
            assert [m.name for m in sample] == sorted(m.name for m in sample)
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}


def test_tables_have_img2dataset_columns_scores_and_source(run: MadeRun, result: Path) -> None:
    table = pa.concat_tables(tables(result, "shards"))
    first = [
        "key",
        "uid",
        "url",
        "caption",
        "status",
        "error_message",
        "width",
        "height",
        "original_width",
        "original_height",
        "sha256",
        "clip_similarity",
        "clip_similarity_small",
        "clip_similarity_big",
        "clip_similarity_mirrored_big",
    ]
    assert table.column_names[: len(first)] == first
    rest = {
        "caption_words",
        "caption_language",
        "concept_mark",
        "phash",
        "brightness",
        "contrast",
        "colorfulness",
        "sharpness",
        "source_row",
        "source_when",
        "source_raw",
        "source_score",
        "source_tags",
    }
    assert set(table.column_names[len(first) :]) == rest
    assert table["source_row"].to_pylist() == [row["source_row"] for row in run.kept]
    assert table["caption_words"].to_pylist() == [len(row["caption"].split()) for row in run.kept]
    assert table.schema.field("width").type == pa.int32()


def test_embeddings_stand_row_by_row_with_the_table(run: MadeRun, result: Path) -> None:
    for table, embedded in zip(tables(result, "shards"), tables(result, "embeddings"), strict=True):
        assert embedded["uid"].equals(table["uid"])
    embedded = pa.concat_tables(tables(result, "embeddings"))
    names = ["image_embedding", "text_embedding", "image_embedding_big", "text_embedding_big"]
    assert embedded.column_names == ["uid", *names]
    assert embedded.schema.field("image_embedding_big").type == pa.list_(pa.float16(), DIMS["big"])
    for model, suffix in (("small", ""), ("big", "_big")):
        for which, name in enumerate(("image_embedding", "text_embedding")):
            found = embedded[name + suffix].combine_chunks().flatten().to_numpy().reshape(len(run.kept), -1)
            np.testing.assert_array_equal(found, np.stack([row["vectors"][model][which] for row in run.kept]))


def test_two_attempts_are_byte_identical(run: MadeRun, result: Path, tmp_path: Path) -> None:
    again = files(tmp_path / pack(run, tmp_path).path)
    assert again == files(result)


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[3])
from pathlib import Path
from helpers.made_run import SETTINGS, make_run
from curate.pack import worker
from curate.store import Folder, Outputs, Store

run = make_run(Path(sys.argv[1]))
folder = Folder(Store(sys.argv[2]), "pack", "f" * 8)
pack = worker.open_worker(SETTINGS)
out = folder.outputs(0)
pack(0, run.inputs, {"pack": out})
out.commit()

put_table = Outputs.put_table
def die(self, role, table, **named):
    os.kill(os.getpid(), signal.SIGKILL)
Outputs.put_table = die
pack(1, run.inputs, {"pack": folder.outputs(1)})
"""


def test_a_kill_between_shards_leaves_what_was_done(run: MadeRun, result: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        KILLED,
        str(tmp_path / "run"),
        str(tmp_path / "out"),
        str(Path(__file__).parents[1]),
    ]
    scratch = {**os.environ, "TMPDIR": str(tmp_path)}
    assert subprocess.run(command, check=False, env=scratch).returncode == -signal.SIGKILL
    folder = Folder(Store(str(tmp_path / "out")), "pack", "f" * 8)
    assert folder.units() == {0}
    assert folder.marker(0).counts["samples"] == len(folder.table("shards/00000000.parquet", 0)) == 5
    assert (tmp_path / "out" / folder.path / "shards/00000001.tar").exists(), "killed after it, before the marker"
    pack(run, tmp_path / "out")
    assert files(tmp_path / "out" / folder.path) == files(result)


def test_a_shard_may_end_in_one_part_and_begin_in_another(run: MadeRun) -> None:
    shard = worker.spans(run.inputs["select"], 5, 1)
    assert shard == [(0, 5, 6), (2, 0, 4)], "part 1 keeps nothing; the shard goes on in part 2"


def test_card_counts_and_names_no_place(run: MadeRun, result: Path) -> None:
    text = (result / "README.md").read_text()
    planned = sum(run.inputs["select"].table("parts.parquet")["planned"].to_pylist())
    assert f"12 pairs of an image and a caption in 3 WebDataset shards, kept from {planned}" in text
    for step in run.inputs["select"].json("funnel.json")["steps"]:
        (line,) = [line for line in text.splitlines() if line.startswith(f"| `{step['name']}`")]
        assert f"| {step['seen']} | {step['dropped']} |" in line
    assert "top 30 % of all fetched pairs by `clip_similarity`: `clip_similarity` ≥ 0.21" in text
    assert "small" * 8 in text
    assert str(result.parent) not in text
    assert not [caption for caption in CAPTIONS if caption and caption in text]
    assert "shards/{00000000..00000002}.tar" in text


def test_the_cards_examples_run(result: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(result)
    blocks = (result / "README.md").read_text().split("```python\n")[1:]
    found: dict = {}
    # `datasets` is no dependency of ours; what it reads of the card is tested below.
    for block in [block for block in blocks if not block.startswith("from datasets")]:
        exec(block.split("```")[0], found)
    assert found["images"].shape == (5, DIMS["small"])
    assert isinstance(found["image"], Image.Image)
    assert found["caption"] in CAPTIONS


def test_the_cards_metadata_names_the_shards_as_the_data(result: Path) -> None:
    """`datasets.load_dataset(folder)` reads these keys; they were tried with datasets 5.2, streaming and not."""
    empty, metadata, text = (result / "README.md").read_text().split("---\n", 2)
    assert empty == ""
    assert text.lstrip().startswith("# ")
    (config,) = yaml.safe_load(metadata)["configs"]
    assert config["config_name"] == "default"
    named = sorted(result.glob(config["data_files"]))
    assert named == sorted(result.rglob("*.tar"))
    assert len(named) == 3


def test_tables_in_another_order_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    folder = run.folder("signals-caption")
    table = folder.table("pairs.parquet", 0)
    put_table(folder, "pairs.parquet", 0, table.take(list(reversed(range(len(table))))))
    with pytest.raises(BrokenResult, match="signals-caption-ffffffff: part 0"):
        pack(run)


def test_an_image_lost_from_its_tar_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    marker = run.folder("fetch").marker(0).files["images.tar"]
    with tarfile.open(tmp_path / run.folder("fetch").path / marker.name, "w"):
        pass
    with pytest.raises(BrokenResult, match=r"images/000000\.\w+\.tar: it lacks '[0-9a-f]{32}\.\w+'"):
        pack(run)
    assert run.folder("pack").units() == set()


def test_the_whole_is_done_last(run: MadeRun, result: Path) -> None:
    folder = run.folder("pack")
    assert folder.units() == {0, 1, 2, WHOLE}
    assert {info.name for info in folder.marker(WHOLE).files.values()} == {"shards/sizes.json", "README.md"}
    assert folder.marker(1).counts["bytes"] == sum(info.bytes for info in folder.marker(1).files.values())
