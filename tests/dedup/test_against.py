"""Sets of the recipe's section `against`: whole runs on drawn pictures, compared with NumPy."""

import contextlib
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from curate.commands.main import main
from curate.commands.verify import verify
from curate.dedup.against import certificate, files, passes, results
from curate.dedup.against.results import Result
from curate.dedup.kinds.image_embedding import ImageEmbedding
from curate.dedup.kinds.pdq import Pdq
from curate.demo.scenes import draw_scene, sample_scene
from curate.errors import RecipeError
from curate.remembered import Remembered
from curate.runs.units import UnitRunner
from curate.runs.work import UnitResult
from curate.store import WHOLE, Folder, Store

pytestmark = pytest.mark.usefixtures("in_process")

PICTURES = 30

STEPS = [
    {"drop": "listed", "matches": {"set": "val", "by": "sha256"}},
    {"drop": "leak", "matches": {"set": "val", "by": "pdq", "within": 31}},
    {"drop": "look", "matches": {"set": "val", "by": "phash", "within": 4}},
    {"drop": "near", "matches": {"set": "test", "by": "image_embedding", "above": 0.97}},
    {"drop": "copy", "duplicates": {"by": "pdq", "within": 10, "prefer": "width"}},
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, and a run of them that has all that a set is made of."""
    folder = tmp_path_factory.mktemp("against")
    rng = random.Random(0)
    (folder / "pictures").mkdir()
    for number in range(PICTURES):
        draw_scene(sample_scene(rng), (96, 96)).save(folder / "pictures" / f"{number:02}.png")
    assert run(folder, "plain", {}, [{"drop": "odd", "where": "source_row % 2 = 1"}, STEPS[-1]]) == 0
    shutil.copytree(folder / "plain", folder / "release")
    return folder


def run(folder: Path, output: str, against: dict[str, Any], steps: list[dict[str, Any]], **more: Any) -> int:
    """Runs a recipe over the pictures, in parts of about 8."""
    recipe = {
        "version": 1,
        "source": {"kind": "samples", "paths": [str(folder / "pictures")], "caption": None},
        "output": str(folder / output),
        "part_size": 8,
        "against": against,
        "select": steps,
        **more,
    }
    path = folder / f"{output}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return main(["run", str(path), "--engine", "local"])


class Run:
    """A finished run's tables."""

    def __init__(self, url: Path) -> None:
        self.store = Store(str(url))
        self.manifest = self.store.read_json("manifest.json")
        self.parts = range(self.manifest["n_parts"])

    def __getitem__(self, name: str) -> Folder:
        return Folder.at(self.store, self.manifest["folders"][name])

    def rows(self, name: str, role: str) -> list[dict[str, Any]]:
        return [row for part in self.parts for row in self[name].table(role, part).to_pylist()]

    def pictures(self) -> list[dict[str, Any]]:
        """Of each picture: pair_id, sha256, hashes, embedding."""
        tables = [("fetch", "images"), ("pixels", "pixels"), ("pixels-pdq", "pixels"), ("embed-pocket", "images")]
        by_image: dict[bytes, dict[str, Any]] = {}
        for name, role in tables:
            for row in self.rows(name, f"{role}.parquet"):
                by_image.setdefault(row["image_id"], {}).update(row)
        return [{**row, **by_image[row["image_id"]]} for row in self.rows("plan", "pairs.parquet")]


def flipped(digits: str, bits: int, rng: random.Random) -> str:
    """A hash in which some bits differ."""
    number = int(digits, 16)
    for bit in rng.sample(range(4 * len(digits)), bits):
        number ^= 1 << bit
    return f"{number:0{len(digits)}x}"


def write_sets(folder: Path, pictures: list[dict[str, Any]]) -> dict[str, Any]:
    """Writes sets that some of the pictures match, in every format; returns the section of the recipe."""
    rng, noise = random.Random(1), np.random.default_rng(1)
    listed = [picture["sha256"] for picture in pictures[:3]]
    (folder / "sha256.txt").write_text("# of the evaluation\n" + "\n".join([*listed[:2], "0" * 64, listed[2]]) + "\n")
    pdq = [flipped(pictures[number]["pdq"], 3 * number, rng) for number in range(14)]
    (folder / "pdq.txt").write_text("\n".join(value.upper() for value in pdq[:7]) + "\n")
    pq.write_table(pa.table({"pdq": [*pdq[7:], None]}), folder / "pdq.parquet", row_group_size=3)
    phash = [flipped(pictures[number]["phash"], number % 7, rng) for number in range(10, 24)]
    pq.write_table(pa.table({"phash": phash, "name": ["x"] * 14}), folder / "phash.parquet")
    vectors = np.array([picture["image_embedding"] for picture in pictures[18:]], np.float32)
    vectors = (
        vectors + noise.standard_normal(vectors.shape).astype(np.float32) * 0.02 * np.arange(len(vectors))[:, None]
    )
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.save(folder / "a.npy", vectors[:6])
    rows = [
        *vectors[6:].tolist(),
        [0.0] * vectors.shape[1],
        [float("nan")] * vectors.shape[1],
        [2.0] * vectors.shape[1],
    ]
    pq.write_table(pa.table({"image_embedding": rows}), folder / "b.parquet")
    at = lambda *names: [str(folder / name) for name in names]  # noqa: E731
    return {
        "val": {"sha256": at("sha256.txt"), "pdq": at("pdq.*"), "phash": at("phash.parquet")},
        "test": {"image_embedding": at("a.npy", "b.parquet")},
    }


def hashes(values: list[str]) -> npt.NDArray[np.uint8]:
    return np.unpackbits(np.array([list(bytes.fromhex(value)) for value in values], np.uint8), axis=1)


def expected(folder: Path, pictures: list[dict[str, Any]]) -> dict[bytes, tuple[str, str, str, float]]:
    """By pair: the step that drops it, the set, what the item is called, and how alike they are."""
    found: dict[bytes, tuple[str, str, str, float]] = {}

    def add(step: str, name: str, similarity: npt.NDArray[Any], least: float, called: list[str]) -> None:
        for picture, row in zip(pictures, similarity, strict=True):
            if row.max() >= least and picture["pair_id"] not in found:
                found[picture["pair_id"]] = (step, name, called[int(row.argmax())], float(row.max()))

    lines = (folder / "sha256.txt").read_text().splitlines()
    equal = np.array([[float(picture["sha256"] == line) for line in lines] for picture in pictures])
    add("listed", "val", equal, 1.0, [f"sha256.txt line {number + 1}" for number in range(len(lines))])
    parquet = pq.read_table(folder / "pdq.parquet")["pdq"].to_pylist()[:-1]
    values = [*parquet, *(folder / "pdq.txt").read_text().lower().split()]
    called = [f"pdq.parquet row {number}" for number in range(7)] + [
        f"pdq.txt line {number + 1}" for number in range(7)
    ]
    shares = (hashes([picture["pdq"] for picture in pictures])[:, None] == hashes(values)[None]).mean(axis=2)
    usable = np.array([picture["pdq_quality"] >= 50 for picture in pictures])
    add("leak", "val", np.where(usable[:, None], shares, 0), 1 - 31 / 256, called)
    values = pq.read_table(folder / "phash.parquet")["phash"].to_pylist()
    shares = (hashes([picture["phash"] for picture in pictures])[:, None] == hashes(values)[None]).mean(axis=2)
    add("look", "val", shares, 1 - 4 / 64, [f"phash.parquet row {number}" for number in range(len(values))])
    vectors = [np.load(folder / "a.npy"), np.array(pq.read_table(folder / "b.parquet")["image_embedding"].to_pylist())]
    called = [
        f"{name} row {row}"
        for name, rows in zip(("a.npy", "b.parquet"), vectors, strict=True)
        for row in range(len(rows))
    ]
    of_set = np.concatenate(vectors).astype(np.float16).astype(np.float64)
    lengths = np.linalg.norm(of_set, axis=1)
    is_unit = np.abs(lengths - 1) < 0.01
    images = np.array([picture["image_embedding"] for picture in pictures], np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = images @ of_set.T / (np.linalg.norm(images, axis=1)[:, None] * lengths)
    add("near", "test", np.where(is_unit, np.round(cosines, 6), -1), 0.97, called)
    return found


def decided(folder: Path, output: str) -> dict[bytes, tuple[str, str, str, float]]:
    """What a run decided, as `expected`; checks that every pair of those steps names its item, and no other pair."""
    made = Run(folder / output)
    reasons = {row["pair_id"]: row["reason"] for row in made.rows("select", "decisions.parquet")}
    matched = {row["pair_id"]: row for row in made.rows("select", "matches.parquet")}
    names = {step["drop"] for step in STEPS[:-1]}
    assert {pair for pair, reason in reasons.items() if reason in names} == matched.keys()
    return {pair: (reasons[pair], row["set"], row["item"], row["similarity"]) for pair, row in matched.items()}


@pytest.fixture(scope="module")
def sets(root: Path) -> dict[str, Any]:
    return write_sets(root, Run(root / "release").pictures())


def test_every_pair_that_matches_an_item_is_dropped_and_names_it(
    root: Path, sets: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(root, "plain", sets, STEPS) == 0
    said = capsys.readouterr()
    oracle = expected(root, Run(root / "release").pictures())
    assert {step for step, *_ in oracle.values()} == {"listed", "leak", "look", "near"}
    assert decided(root, "plain") == oracle
    assert verify(Store(str(root / "plain")), deep=True) == []
    for note in ("1 value is not finite, the first in row", "1 value is zero, ", "1 value is not of unit length"):
        assert f"against.test.image_embedding: {note}" in said.out + said.err
    pair, (step, name, item, similarity) = next((p, one) for p, one in oracle.items() if one[0] == "leak")
    assert main(["explain", str(root / "plain"), pair.hex()]) == 0
    told = capsys.readouterr().out
    assert f"matches     {item} of the set {name}, by pdq: {round((1 - similarity) * 256)} of 256 bits differ" in told
    assert f"→ {step}" in told
    report = Run(root / "plain")["report"]
    page = report.store.read(report.file("index.html")).decode()
    assert f"<dt>matches</dt><dd>{item} of {name}, {round((1 - similarity) * 256)} of 256 bits differ</dd>" in page
    assert "at most 31 of 256 bits of pdq differ, compared with the set val;" in page


def test_what_an_earlier_result_has_is_dropped(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pack = root / "release" / Run(root / "release").manifest["pack"]
    both = [{"by": "image_embedding", "above": 0.97}, {"by": "pdq", "within": 60}]
    steps = [{"drop": "again", "matches": {"set": "last", "all": both}}]
    assert run(root, "plain", {"last": {"result": str(pack)}}, steps, dedup={"pdq_bits": 60}) == 0
    pictures = Run(root / "release").pictures()
    earlier = pictures_of(pack)
    vectors = [np.array([one["image_embedding"] for one in of], np.float64) for of in (pictures, earlier)]
    lengths = [np.linalg.norm(of, axis=1) for of in vectors]
    cosines = np.round(vectors[0] @ vectors[1].T / np.outer(*lengths), 6)
    differ = (hashes([one["pdq"] for one in pictures])[:, None] != hashes([one["pdq"] for one in earlier])[None]).sum(
        axis=2
    )
    usable = np.array([one["pdq_quality"] >= 50 for one in pictures])
    is_match = (cosines >= 0.97) & (differ <= 60) & usable[:, None]
    found = {row["pair_id"]: row for row in Run(root / "plain").rows("select", "matches.parquet")}
    matching = {picture["pair_id"] for picture, row in zip(pictures, is_match, strict=True) if row.any()}
    assert found.keys() == matching
    assert len(earlier) - 1 <= len(matching) < len(pictures)
    for picture, row, similar in zip(pictures, is_match, cosines, strict=True):
        if row.any():
            best = np.where(row, similar, -1)
            assert found[picture["pair_id"]]["similarity"] == best.max()
            assert found[picture["pair_id"]]["item"] in {
                earlier[at]["uid"] for at in np.flatnonzero(best == best.max())
            }
    assert verify(Store(str(root / "plain")), deep=True) == []
    assert main(["explain", str(root / "plain"), next(iter(matching)).hex()]) == 0
    assert "of the set last, by image_embedding and pdq: cosine " in capsys.readouterr().out
    # By digest, a pair is dropped where the earlier result has its very file.
    steps = [{"drop": "again", "matches": {"set": "last", "by": "sha256"}}]
    assert run(root, "plain", {"last": {"result": str(root / "release")}}, steps) == 0
    named = {row["pair_id"].hex(): row["item"] for row in Run(root / "plain").rows("select", "matches.parquet")}
    assert named == {one["uid"]: one["uid"] for one in earlier}


def test_a_folder_of_images_is_hashed_and_embedded_as_the_runs_own(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "val"
    (folder / "deep").mkdir(parents=True)
    for number in range(10):
        shutil.copy(root / "pictures" / f"{number:02}.png", folder / "deep" / f"same {number}.png")
    for number in range(10, 18):
        with Image.open(root / "pictures" / f"{number:02}.png") as picture:
            picture.convert("RGB").save(folder / f"{number}.jpg", quality=60)
    (folder / "broken.jpg").write_bytes(b"no picture")
    both = [{"by": "image_embedding", "above": 0.9}, {"by": "pdq", "within": 31}]
    steps = [
        {"drop": "same", "matches": {"set": "val", "by": "sha256"}},
        {"drop": "leak", "matches": {"set": "val", "all": both}},
    ]
    assert run(root, "plain", {"val": {"images": [str(folder)]}}, steps) == 0
    said = capsys.readouterr()
    assert "1 image was not compared: not an image that could be read" in said.out + said.err
    made = Run(root / "plain")
    names = {row["pair_id"]: unquote(row["url"]).rpartition("/")[2] for row in made.rows("plan", "pairs.parquet")}
    reasons = {names[row["pair_id"]]: row["reason"] for row in made.rows("select", "decisions.parquet")}
    items = {names[row["pair_id"]]: row["item"] for row in made.rows("select", "matches.parquet")}
    assert {name for name, reason in reasons.items() if reason == "same"} == {f"{number:02}" for number in range(10)}
    assert [items[f"{number:02}"] for number in range(10)] == [f"val/deep/same {number}.png" for number in range(10)]
    usable = {names[one["pair_id"]] for one in Run(root / "release").pictures() if one["pdq_quality"] >= 50}
    leaked = {name for name, reason in reasons.items() if reason == "leak"}
    assert leaked == {f"{number}" for number in range(10, 18)} & usable
    assert all(items[name] == f"val/{name}.jpg" for name in leaked)
    # The images of the set have the very values that the same files have in the run.
    of_run = dict(values_of(made["nodes-pdq"]))
    of_set = dict(values_of(made["set-val-pdq"]))
    shared = of_run.keys() & of_set.keys()
    assert len(shared) >= 9
    assert all(of_run[digest] == of_set[digest] for digest in shared)
    assert verify(made.store, deep=True) == []
    # A new decision neither reads nor embeds the set again.
    before = sorted(path.name for path in (root / "plain" / "against" / "val").iterdir())
    assert run(root, "plain", {"val": {"images": [str(folder)]}}, steps[:1]) == 0
    assert sorted(path.name for path in (root / "plain" / "against" / "val").iterdir()) == before


def values_of(nodes: Folder) -> list[tuple[bytes, bytes]]:
    table = nodes.table("nodes.parquet", 0)
    return list(zip(table["digest"].to_pylist(), table["value"].to_pylist(), strict=True))


@pytest.mark.soak
def test_a_step_may_compare_by_another_model(root: Path) -> None:
    models = {"pocket": {"name": "pocket"}, "vague": {"name": "pocket", "precision": "bf16"}}
    pictures = Run(root / "release").pictures()
    vectors = np.array([picture["image_embedding"] for picture in pictures[:4]], np.float32)
    np.save(root / "vague.npy", vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    step = {"drop": "near", "matches": {"set": "val", "by": "image_embedding", "model": "vague", "above": 0.99}}
    named = {**step, "matches": {**step["matches"], "model": "pocket"}, "drop": "first"}  # type: ignore[dict-item]
    against = {"val": {"image_embedding": [str(root / "vague.npy")]}}
    assert run(root, "plain", against, [step, named], models=models) == 0
    made = Run(root / "plain")
    assert {"against-val-image_embedding-vague", "against-val-image_embedding"} <= made.manifest["folders"].keys()
    reasons = {row["pair_id"]: row["reason"] for row in made.rows("select", "decisions.parquet")}
    assert [reasons[picture["pair_id"]] for picture in pictures[:4]] == ["near"] * 4
    assert verify(made.store, deep=True) == []
    wrong = {**step, "matches": {**step["matches"], "model": "vaugue"}}  # type: ignore[dict-item]
    assert run(root, "plain", against, [wrong], models=models) == 2


def pictures_of(pack: Path) -> list[dict[str, Any]]:
    """The rows of a result with their embeddings."""
    rows = []
    for shard in sorted((pack / "shards").glob("*.parquet")):
        vectors = pq.read_table(pack / "embeddings" / shard.name).to_pylist()
        rows += [{**row, **vector} for row, vector in zip(pq.read_table(shard).to_pylist(), vectors, strict=True)]
    return rows


def test_a_result_that_does_not_fit_is_one_line(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # By another kind than above: a set with the same content is not gathered again.
    by_phash = [{"drop": "again", "matches": {"set": "last", "by": "phash", "within": 4}}]

    def said(path: Path, steps: list[dict[str, Any]]) -> str:
        capsys.readouterr()
        assert run(root, "plain", {"last": {"result": str(path)}}, steps) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    assert f"against.last.result: {tmp_path} has no manifest.json; name the folder of a finished run" in said(
        tmp_path, by_phash
    )
    release = tmp_path / "release"
    shutil.copytree(root / "release", release)
    (shard,) = (release / Run(release).manifest["pack"] / "shards").glob("*.parquet")
    table = pq.read_table(shard)
    pq.write_table(table.slice(1), shard)
    assert "is not the file that the manifest describes (sha256 differs)" in said(release, by_phash)
    pq.write_table(table.drop_columns(["phash"]), shard)
    assert "has no column 'phash'; compare by another kind" in said(release, by_phash)
    found = Result.of("against.last.result", str(release), None)
    with pytest.raises(RecipeError, match=r"has no embeddings by the run's first model, but by others \(pocket\)"):
        found.tables("against.last.result", ImageEmbedding.stored, "another", Remembered())
    (release / "manifest.json").write_text("{}")
    assert "manifest.json is not a manifest: 'pack'" in said(release, by_phash)


@pytest.mark.usefixtures("s3")
def test_sets_are_read_from_a_store(root: Path, tmp_path: Path) -> None:
    bucket = tmp_path / "s3" / "bucket"
    (bucket / "sets").mkdir()
    vectors = np.eye(5, 8, dtype=np.float32)
    np.save(bucket / "sets" / "a.npy", vectors[:2])
    pq.write_table(pa.table({"image_embedding": list(vectors[2:])}), bucket / "sets" / "b.parquet")
    shutil.copytree(root / "release", bucket / "release")
    stored = ImageEmbedding.stored
    assert stored
    found = files.find("against.x.image_embedding", ["s3://bucket/sets/*"], stored)
    assert [(file.path, file.rows, file.width) for file in found] == [
        ("s3://bucket/sets/a.npy", 2, 8),
        ("s3://bucket/sets/b.parquet", 3, 8),
    ]
    read = [files.read("against.x.image_embedding", file, 1, file.rows, stored) for file in found]
    assert np.array_equal(np.concatenate([one.values for one in read]), vectors[[1, 3, 4]].astype(np.float16))
    assert [one.rows.tolist() for one in read] == [[1], [1, 2]]
    result = Result.of("against.x.result", "s3://bucket/release", None)
    (table,) = result.tables("against.x.result", Pdq.stored, None, Remembered())
    images, _ = results.read("against.x.result", table, Pdq.stored)
    assert len(images.digests) == table.rows == PICTURES // 2
    with pytest.raises(RecipeError, match=r"against.x.pdq: s3://bucket/none.txt names no file"):
        files.find("against.x.pdq", ["s3://bucket/none.txt"], Pdq.stored)


class Killed(BaseException):
    """The end of a driver."""


def test_killed_after_any_unit_it_goes_on_and_blocks_change_no_decision(
    root: Path, sets: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = STEPS[:2]
    against = {"val": {kind: sets["val"][kind] for kind in ("pdq", "sha256")}}
    assert run(root, "plain", against, steps) == 0
    whole = decided_rows(root / "plain")
    # The pictures in five blocks, the fourteen hashes in three, from shelves of five rows.
    monkeypatch.setattr(Pdq, "block_rows", 6)
    monkeypatch.setattr(passes, "BLOCK_ROWS", 3)
    monkeypatch.setattr(passes, "SHELF_ROWS", 5)
    done: list[tuple[str, int]] = []
    original = UnitRunner.run

    def one_unit(runner: UnitRunner, unit: int, start: int) -> UnitResult:
        if done and done[-1][0] == "now":
            raise Killed
        result = original(runner, unit, start)
        done[:] = [*done, (runner.work.name, unit), ("now", 0)]
        return result

    with monkeypatch.context() as patch:
        patch.setattr(UnitRunner, "run", one_unit)
        while finished(root, against, steps) is None:
            done.pop()
    units = [one for one in done if one[0] != "now"]
    assert len(units) == len(set(units)), "a unit was done twice"
    names = [name for name, _ in units]
    # The last shelf of pdq.parquet has three rows; lists have seven and five lines.
    assert names.count("set-val-pdq-shelve") == 4
    assert names.count("set-val-pdq-gather") == 3
    assert names.count("against-val-pdq-tiles") == 15
    assert decided_rows(root / "plain") == whole
    assert {row["item"] for row in whole[1]} >= {"pdq.txt line 4", "pdq.parquet row 0", "sha256.txt line 2"}
    made = Run(root / "plain")
    assert not made.store.kind(f"{made['set-val-pdq'].path}/work"), "the shelves are deleted"
    assert verify(made.store, deep=True) == []


def finished(root: Path, against: dict[str, Any], steps: list[dict[str, Any]]) -> int | None:
    """The exit code of a run; None where its driver is killed."""
    try:
        return run(root, "plain", against, steps)
    except Killed:
        return None


def decided_rows(url: Path) -> tuple[list[Any], list[Any]]:
    """The decisions of a run, and the items that they name."""
    made = Run(url)
    return made.rows("select", "decisions.parquet"), made.rows("select", "matches.parquet")


def test_a_certificate_accounts_for_every_pair_and_a_changed_one_is_a_fault(root: Path, sets: dict[str, Any]) -> None:
    assert run(root, "plain", {"val": {"pdq": sets["val"]["pdq"]}}, STEPS[1:2]) == 0
    made = Run(root / "plain")
    nodes, items, search = made["nodes-pdq"], made["set-val-pdq"], made["against-val-pdq"]
    said = search.json("certificate.json")
    assert said["pairs"] == (PICTURES - 1) * 14 == said["compared"] + sum(said["excluded"].values())
    assert said["bounds"] == {bound: [*said["bounds"][bound]] for bound in said["excluded"]}
    assert all(isinstance(constants, dict) for stated in said["bounds"].values() for constants in stated)
    assert list(certificate.faults(nodes, items, search)) == list(certificate.redone(nodes, items, search)) == []
    for change, fault in (
        ({"compared": said["compared"] + 1}, "are not the 406 pairs of 29 images and 14 items"),
        ({"near": 99}, "its sums are not those of the tiles"),
        ({"set_blocks": [{"nodes": 14, "sha256": "0"}]}, "block 0 has other nodes than set-val-pdq"),
    ):
        with changed(search, "certificate.json", {**said, **change}):
            assert any(fault in line for line, _ in certificate.faults(nodes, items, search))
    tile = search.table("matches.parquet", 0)
    with changed(search, "matches.parquet", tile.slice(0, len(tile) - 1), unit=0):
        assert any("has another number of matches" in line for line, _ in certificate.faults(nodes, items, search))


@contextlib.contextmanager
def changed(folder: Folder, role: str, content: Any, unit: int = WHOLE) -> Iterator[None]:
    """Writes a file of a unit anew, with its marker; afterwards the unit is as before."""
    path = Path(folder.store.path(folder.marker_name(unit)))
    marker, before = path.read_bytes(), folder.marker(unit)
    out = folder.outputs(unit)
    out.files.update(before.files)
    out.counts.update(before.counts)
    out.put_json(role, content) if isinstance(content, dict) else out.put_table(role, content)
    path.unlink()
    out.commit()
    yield
    path.write_bytes(marker)


PDQ = {"drop": "leak", "matches": {"set": "val", "by": "pdq", "within": 31}}


@pytest.mark.parametrize(
    ("against", "step", "message"),
    [
        ({}, PDQ, "select step 'leak': against has no set 'val'; the recipe has no section `against`"),
        ({"vla": {"pdq": ["x.txt"]}}, PDQ, "select step 'leak': against has no set 'val'; did you mean 'vla'?"),
        ({"val": {"phash": ["x.txt"]}}, PDQ, "against.val has no values for by: pdq; write against.val.pdq"),
        (
            {"val": {}},
            PDQ,
            "against.val: a set names its items by `images`, by `result`, or by one or more of: ",
        ),
        ({"val": {"images": ["{root}/none"]}}, PDQ, "against.val.images: {root}/none does not exist"),
        (
            {"val": {"images": ["x"], "pdq": ["x.txt"]}},
            PDQ,
            "against.val: a set names its items by images or by pdq, not",
        ),
        ({"val": {"pdq": ["x.txt"]}, "other": {"pdq": ["x"]}}, PDQ, "against.other: no step compares with it"),
        (
            {"val": {"pdq": ["x.txt"]}},
            {"drop": "leak", "matches": {"set": "val", "by": "pdq", "within": 40}},
            "within 40 is more than dedup.pdq_bits 31; raise dedup.pdq_bits to 40",
        ),
        (
            {"val": {"image_embedding": ["x.npy"]}},
            {"drop": "leak", "matches": {"set": "val", "by": "image_embedding", "above": 0.8}},
            "select step 'leak': above 0.8 is below dedup.floor 0.9; lower dedup.floor to 0.8",
        ),
        (
            {"val": {"pdq": ["x.txt"], "phash": ["y.txt"]}},
            {
                "drop": "leak",
                "matches": {"set": "val", "all": [{"by": "pdq", "within": 9}, {"by": "phash", "within": 3}]},
            },
            "matches.all: the values in files of against.val do not say which of them belong to one image",
        ),
        ({"val": {"pdq": ["{root}/no.txt"]}}, PDQ, "against.val.pdq: {root}/no.txt names no file"),
        ({"val": {"pdq": ["{root}/no*.txt"]}}, PDQ, "against.val.pdq: {root}/no*.txt names no file"),
        (
            {"val": {"pdq": ["{root}/list.csv"]}},
            PDQ,
            "{root}/list.csv is not read here; write a file that ends in .txt",
        ),
        ({"val": {"pdq": ["{root}/empty.txt"]}}, PDQ, "against.val.pdq: {root}/empty.txt has no value"),
        ({"val": {"pdq": ["{root}/short.txt"]}}, PDQ, "{root}/short.txt, line 2: not a pdq of 64 hex digits"),
        ({"val": {"pdq": ["{root}/fake.parquet"]}}, PDQ, "against.val.pdq: {root}/fake.parquet is not a Parquet file"),
        ({"val": {"pdq": ["{root}/wide.parquet"]}}, PDQ, "wide.parquet has no column 'pdq'; known: image_embedding"),
        ({"val": {"pdq": ["https://user:key@host/x.txt"]}}, PDQ, "holds a user name, a password or a key"),
        (
            {"val": {"image_embedding": ["{root}/wide.npy"]}},
            None,
            "has vectors of 3 values, but the embeddings of the model",
        ),
        ({"val": {"image_embedding": ["{root}/wide.parquet"]}}, None, "vectors of 3 values, but the embeddings of the"),
        (
            {"val": {"image_embedding": ["{root}/flat.npy"]}},
            None,
            "flat.npy holds float64 [3]; write vectors of float16",
        ),
        (
            {"val": {"image_embedding": ["{root}/int.npy"]}},
            None,
            "int.npy holds int64 [3, 3]; write vectors of float16",
        ),
        (
            {"val": {"image_embedding": ["{root}/fake.npy"]}},
            None,
            "against.val.image_embedding: {root}/fake.npy is not a ",
        ),
        (
            {"val": {"image_embedding": ["{root}/wide.*"]}},
            None,
            "has vectors of 3 values, but the embeddings of the model",
        ),
        (
            {"val": {"image_embedding": ["{root}/zero.npy"]}},
            None,
            "no item of it can be compared: 2 values are zero, the",
        ),
    ],
)
def test_a_wrong_set_is_one_line(
    against: dict[str, Any], step: Any, message: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"list.csv": b"a\n", "empty.txt": b"# nothing\n\n", "short.txt": b"0" * 64 + b"\nabc\n"}
    for name, content in {**files, "fake.parquet": b"PAR1", "fake.npy": b"no"}.items():
        (root / name).write_bytes(content)
    pq.write_table(pa.table({"image_embedding": [[1.0, 0, 0]]}), root / "wide.parquet")
    dim = len(Run(root / "release").pictures()[0]["image_embedding"])
    arrays = {"wide": np.eye(3), "flat": np.ones(3), "int": np.ones((3, 3), int), "zero": np.zeros((2, dim))}
    for name, array in arrays.items():
        np.save(root / f"{name}.npy", array)
    named = yaml.safe_load(yaml.safe_dump(against).replace("{root}", str(root)))
    step = step or {"drop": "leak", "matches": {"set": "val", "by": "image_embedding", "above": 0.95}}
    capsys.readouterr()
    assert run(root, "plain", named, [step]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.format(root=root) in said
    assert len(said) < 500 + len(str(root))
