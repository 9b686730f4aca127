"""The whole way, on a small demo web: the guarantees of docs/architecture.md, one by one."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from helpers.inline_engine import in_process
from helpers.said import errors

from curate.commands.main import main
from curate.commands.verify import verify
from curate.demo.corpus import Corpus
from curate.demo.server import serve
from curate.fetch.worker import FetchWorker
from curate.store import Folder, Store

PAIRS = 300
SMALL = [
    "--pairs",
    str(PAIRS),
    "--set",
    "part_size=80",
    "--set",
    "pack.shard_size=40",
    "--set",
    "fetch.timeout=10",
    "--set",
    "fetch.threads=2",
]


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.2", 0))
        return probe.getsockname()[1]


def demo(output, web, port, *more):
    return ["demo", *SMALL, "--output", str(output), "--web", str(web), "--port", str(port), *more]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A web, its port, and a finished run on local processes that the tests below read."""
    folder = tmp_path_factory.mktemp("demo")
    port = free_port()
    assert main(demo(folder / "run", folder / "web", port, "--engine", "local")) == 0
    return folder, port


@pytest.fixture(scope="module")
def run(place):
    return Run(Store(str(place[0] / "run")))


class Run:
    """A finished run's tables."""

    def __init__(self, store):
        self.store = store
        self.manifest = store.read_json("manifest.json")
        self.parts = range(self.manifest["n_parts"])
        self.pack = store.path(self.manifest["pack"])

    def __getitem__(self, name):
        return Folder.at(self.store, self.manifest["folders"][name])

    def table(self, name, role):
        return pa.concat_tables([self[name].table(role, part) for part in self.parts])

    def files(self):
        """Every file of the result with its digest."""
        return {info["name"]: info["sha256"] for info in self.manifest["result"]}


def test_conservation_in_every_part_and_in_total(run, place):
    planned = kept = 0
    dropped = Counter()
    for part in run.parts:
        plan = run["plan"].table("pairs.parquet", part)
        decisions = run["select"].table("decisions.parquet", part)
        assert decisions["pair_id"].equals(plan["pair_id"])
        assert pc.all(pc.equal(decisions["kept"], pc.is_null(decisions["reason"]))).as_py()
        planned += len(plan)
        kept += pc.sum(decisions["kept"]).as_py()
        dropped.update(reason for reason in decisions["reason"].to_pylist() if reason)
    funnel = run["select"].json("funnel.json")
    assert planned == PAIRS == kept + dropped.total()
    assert (funnel["planned"], funnel["kept"]) == (planned, kept)
    assert {step["name"]: step["dropped"] for step in funnel["steps"] if step["dropped"]} == dict(dropped)
    assert 0 < kept < planned


def test_every_planted_fault_of_the_fetch_ends_in_its_class(run, place):
    truth = pq.read_table(place[0] / "web" / "truth.parquet")
    reason_of = dict(
        zip(
            run.table("select", "decisions.parquet")["pair_id"].to_pylist(),
            run.table("select", "decisions.parquet")["reason"].to_pylist(),
            strict=True,
        )
    )
    seen = set()
    for row in truth.to_pylist():
        expected = row["expected_reason"]
        if expected and expected.startswith("fetch:"):
            assert reason_of[row["pair_id"]] == expected, row["kind"]
            seen.add(expected)
    assert len(seen) >= 8


def test_alignment_of_tar_table_and_embeddings(run):
    sizes = json.loads((Path(run.pack) / "shards" / "sizes.json").read_text())
    kept = run.table("select", "decisions.parquet")
    expected = [
        pair.hex() for pair, keep in zip(kept["pair_id"].to_pylist(), kept["kept"].to_pylist(), strict=True) if keep
    ]
    found = []
    shards = sorted((Path(run.pack) / "shards").glob("*.tar"))
    for number, shard in enumerate(shards):
        with tarfile.open(shard) as tar:
            keys = [name.partition(".")[0] for name in tar.getnames()]
        samples = list(dict.fromkeys(keys))
        assert len(samples) == sizes[shard.name] == (40 if number < len(shards) - 1 else len(expected) - 40 * number)
        table = pq.read_table(shard.with_suffix(".parquet"))
        embeddings = pq.read_table(Path(run.pack) / "embeddings" / f"{shard.stem}.parquet")
        assert table["key"].to_pylist() == samples == embeddings["uid"].to_pylist()
        images = np.array(embeddings["image_embedding"].to_pylist())
        texts = np.array(embeddings["text_embedding"].to_pylist())
        similarity = np.array(table["clip_similarity"].to_pylist())
        assert np.allclose((images * texts).sum(axis=1), similarity, atol=2e-3)
        found += samples
    assert found == expected


def test_the_results_folder_holds_the_result_and_nothing_besides(run):
    folder = Path(run.pack)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == set(run.files())
    assert {name.partition("/")[0] for name in names} == {"README.md", "shards", "embeddings"}
    marked = Folder.at(run.store, run.manifest["pack"])
    assert marked.units() == {-1, *range(len(list(folder.glob("shards/*.tar"))))}
    assert marked.described()["name"] == "pack"


def test_every_folder_of_tables_is_one_dataset(run):
    folders = {path.parent for path in Path(run.store.url).rglob("*.parquet")}
    assert {folder.name for folder in folders} >= {"pairs", "images", "pixels", "decisions", "near", "parts"}
    for folder in folders:
        schemas = {pq.read_schema(path) for path in folder.glob("*.parquet")}
        assert len(schemas) == 1, folder
    decisions = run.manifest["folders"]["select"]
    table = pq.read_table(Path(run.store.url, decisions, "decisions"))
    assert table.num_rows == PAIRS


def test_no_two_kept_pairs_are_duplicates_and_every_dropped_one_names_a_kept_one(run):
    decisions = run.table("select", "decisions.parquet")
    plan = run.table("plan", "pairs.parquet")
    images = run.table("fetch", "images.parquet")
    vectors = run.table("embed-pocket", "images.parquet")
    digest = dict(zip(images["image_id"].to_pylist(), images["sha256"].to_pylist(), strict=True))
    vector = dict(zip(vectors["image_id"].to_pylist(), vectors["image_embedding"].to_pylist(), strict=True))
    image = dict(zip(plan["pair_id"].to_pylist(), plan["image_id"].to_pylist(), strict=True))
    steps = {step["name"]: step for step in run["select"].json("funnel.json")["steps"]}
    above = steps["near_image"]["searches"][0]["threshold"]
    rows = decisions.to_pylist()
    kept = [row["pair_id"] for row in rows if row["kept"]]
    assert len({digest[image[pair]] for pair in kept}) == len(kept)
    matrix = np.array([vector[image[pair]] for pair in kept], dtype=np.float64)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    cosines = matrix @ matrix.T
    np.fill_diagonal(cosines, 0)
    assert cosines.max() < above
    copies = [row for row in rows if row["reason"] in ("same_image", "near_image")]
    assert {row["reason"] for row in copies} == {"same_image", "near_image"}
    for row in copies:
        assert row["duplicate_of"] in set(kept)
        if row["reason"] == "same_image":
            assert digest[image[row["pair_id"]]] == digest[image[row["duplicate_of"]]]
        else:
            a, b = (np.array(vector[image[row[name]]], np.float64) for name in ("pair_id", "duplicate_of"))
            assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) >= above - 1e-6


def test_the_result_verifies_and_the_commands_answer(run, place, capsys):
    assert verify(run.store, deep=True) == []
    url = run.store.url
    assert main(["verify", url, "--deep"]) == 0
    assert "no faults: the result is complete" in capsys.readouterr().out
    assert main(["status", url]) == 0
    said = capsys.readouterr().out
    assert f"of {PAIRS}" in said
    assert run.manifest["pack"] in said
    decisions = run.table("select", "decisions.parquet").to_pylist()
    for row in {row["reason"]: row for row in decisions}.values():
        assert main(["explain", url, row["pair_id"].hex()]) == 0
        said = capsys.readouterr().out
        assert (f"dropped: {row['reason']}" if row["reason"] else "decision    kept") in said
    plan = run.table("plan", "pairs.parquet").to_pylist()
    assert main(["explain", url, plan[0]["url"]]) == 0
    assert plan[0]["pair_id"].hex() in capsys.readouterr().out
    assert main(["explain", url, "http://nowhere.example/"]) == 2
    assert "has no URL http://nowhere.example/" in capsys.readouterr().err
    (page,) = Path(url, run.manifest["folders"]["report"]).glob("index.*.html")
    html = page.read_text()
    assert "mismatched" in html
    assert "<script" not in html


def test_the_same_command_does_nothing_again_and_a_threshold_only_what_follows(place, run, capsys):
    folder, port = place
    before = {name: (folder / "run" / name).stat().st_mtime_ns for name in run.manifest["folders"].values()}
    assert main(demo(folder / "run", folder / "web", port, "--engine", "local")) == 0
    assert {name: (folder / "run" / name).stat().st_mtime_ns for name in before} == before
    assert Run(run.store).manifest == run.manifest
    changed = demo(folder / "run", folder / "web", port, "--engine", "local")
    changed += ["--set", "select.mismatched.keep_top.fraction=0.5"]
    assert main(changed) == 0
    after = Run(run.store)
    differs = {name for name, path in after.manifest["folders"].items() if path != run.manifest["folders"][name]}
    assert differs == {"select", "pack", "report"}
    assert after["select"].json("funnel.json")["kept"] < run["select"].json("funnel.json")["kept"]
    # Back again: everything is there still.
    assert main(demo(folder / "run", folder / "web", port, "--engine", "local")) == 0
    assert Run(run.store).manifest == run.manifest


def test_a_second_decision_needs_neither_torch_nor_ray_nor_pandas_nor_a_worker(place, run, tmp_path):
    """With the default engine. What it costs is measured by benchmarks/redecide.py; here, what it loads and starts.

    One process is started: it decodes the report's thumbnails.
    """
    shutil.copytree(place[0] / "run", tmp_path / "run")
    change = ["--set", f"output={tmp_path / 'run'}", "--set", "select.2.where='caption_words < 6'"]
    command = ["run", str(tmp_path / "run" / "recipe.json"), *change]
    code = (
        "import json, multiprocessing, subprocess, sys\n"
        "start, started = subprocess.Popen.__init__, []\n"
        "def refuse(*_, **__): raise SystemExit('a process was started')\n"
        "def decoding_only(self, args, **more):\n"
        "    if 'curate.decoding' not in args[-1] or started: refuse()\n"
        "    started.append(args)\n"
        "    start(self, args, **more)\n"
        "multiprocessing.process.BaseProcess.start = refuse\n"
        "subprocess.Popen.__init__ = decoding_only\n"
        "from curate.commands.main import main\n"
        f"code = main({command!r})\n"
        "print(json.dumps([code, [name for name in ('torch', 'ray', 'open_clip', 'pandas') if name in sys.modules]]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert json.loads(done.stdout.splitlines()[-1]) == [0, []], done.stderr
    again = Run(Store(str(tmp_path / "run")))
    assert again["fetch"].path == run["fetch"].path
    kept = {
        name: len(one.table("select", "decisions.parquet").filter(pc.field("kept")))
        for name, one in (("before", run), ("after", again))
    }
    assert 0 < kept["after"] < kept["before"]
    assert verify(again.store, deep=True) == []


def test_ray_gives_the_same_bytes(place, run, tmp_path):
    folder, port = place
    assert main(demo(tmp_path / "run", folder / "web", port, "--engine", "ray")) == 0
    assert Run(Store(str(tmp_path / "run"))).files() == run.files()


def begun(output):
    """Every start that is recorded, with the marker that its unit has when it is done."""
    records = output.glob("*/attempts/*.json")
    return {record: record.parents[1] / "done" / f"{record.name.split('.')[0]}.json" for record in records}


def kill_at_marker(command, output, markers, count):
    """Runs the command until `count` markers stand, then kills its driver (-9) in the middle of a unit.

    Everything is stopped while it is looked at, so that what is seen under way is what the kill interrupts.
    """
    before = begun(output)
    deadline = time.monotonic() + 300
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while True:
        assert process.poll() is None, f"it ended before {markers} {count} with a unit begun: {process.stderr.read()!r}"
        assert time.monotonic() < deadline, f"it came to no unit begun behind {markers} {count}"
        if len(list(output.glob(markers))) >= count:
            os.killpg(process.pid, signal.SIGSTOP)
            under_way = [record for record, marker in begun(output).items() if not marker.exists()]
            if set(under_way) - before.keys():
                break
            os.killpg(process.pid, signal.SIGCONT)
        time.sleep(0.005)
    process.kill()
    os.killpg(process.pid, signal.SIGCONT)
    process.communicate()


def kill_and_go_on(place, run, folder, engine, kills):
    """Kills at these markers, then the same command to its end; what was done is not done again."""
    web, port = place
    output = folder / "run"
    recipe = write_recipe(folder, web, port)
    command = [sys.executable, "-m", "curate.commands.main", "run", str(recipe), *SMALL[2:], "--engine", engine]
    kept: dict[str, int] = {}
    # The web is nobody's child here: the demo's own would end with its driver, before a Ray worker does, which would
    # commit a part whose hosts had gone.
    with serve(Corpus(0, PAIRS, port)):
        for markers, count in kills:
            kill_at_marker(command, output, markers, count)
            assert not (output / "manifest.json").exists()
            stand = {str(p): p.stat().st_mtime_ns for p in output.rglob("done/*.json")}
            assert kept.items() <= stand.items(), "a finished part was done again"
            kept = stand
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert kept.items() <= {str(p): p.stat().st_mtime_ns for p in output.rglob("done/*.json")}.items()
    assert all(marker.exists() for marker in begun(output).values()), "what a kill interrupted was not done again"
    assert Run(Store(str(output))).files() == run.files()


def test_killed_again_and_again_it_ends_in_the_same_bytes(place, run, tmp_path):
    kills = (("fetch-*/done/*.json", 2), ("embed-pocket-*/done/*.json", 1), ("dedup-*/done/*.json", 1))
    kill_and_go_on(place, run, tmp_path, "local", kills)


@pytest.mark.soak
@pytest.mark.parametrize("engine", ["local", "ray"])
@pytest.mark.parametrize("seed", range(5))
def test_killed_at_random_markers_it_ends_in_the_same_bytes(place, run, tmp_path, engine, seed):
    markers = sum(
        len(list(Path(run.store.path(name)).glob("done/*.json"))) for name in run.manifest["folders"].values()
    )
    counts = sorted(random.Random(f"{engine} {seed}").sample(range(1, markers), 6))
    kill_and_go_on(place, run, tmp_path, engine, [("*/done/*.json", count) for count in counts])


def test_the_whole_demo_into_a_real_s3_server(place, run, s3, monkeypatch, capsys):
    folder, port = place
    with in_process():
        assert main(demo("s3://bucket/curated", folder / "web", port, "--engine", "local")) == 0
    store = Store("s3://bucket/curated")
    stored = Run(store)
    assert stored.files() == run.files()
    assert verify(store) == []
    shard = next(name for name in stored.files() if name.endswith(".tar"))
    with store.open(f"{stored.manifest['pack']}/{shard}") as opened, tarfile.open(fileobj=opened) as tar:
        assert len(tar.getnames()) == 3 * 40
    capsys.readouterr()
    assert main(["status", "s3://bucket/curated"]) == 0
    assert "kept" in capsys.readouterr().out


def test_a_sample_has_its_own_result_and_the_whole_reuses_it(place, tmp_path, capsys):
    folder, port = place
    recipe = write_recipe(tmp_path, folder, port)
    with serve(Corpus(0, PAIRS, port)), in_process():
        assert main(["run", str(recipe), "--engine", "local", "--sample", "0.3"]) == 0
        store = Store(str(tmp_path / "run"))
        manifest = store.read_json("manifest-sample-0.3.json")
        assert not store.exists("manifest.json")
        assert (manifest["parts"], manifest["n_parts"]) == (2, 4)
        sampled = Folder.at(store, manifest["folders"]["fetch"])
        assert sampled.units() == {0, 1}
        before = [sampled.marker(part) for part in (0, 1)]
        capsys.readouterr()
        assert main(["run", str(recipe), "--engine", "local", "--dry-run"]) == 0
        said = capsys.readouterr().out
        assert "would run: 2 parts, 2 reused" in said
        assert main(["run", str(recipe), "--engine", "local", "--until", "fetch"]) == 0
        assert sampled.units() == {0, 1, 2, 3}
        assert [sampled.marker(part) for part in (0, 1)] == before


def write_recipe(tmp_path, folder, port):
    import yaml

    import curate.demo

    recipe = yaml.safe_load((Path(curate.demo.__file__).parent / "recipe.yaml").read_text())
    recipe["source"]["paths"] = [str(folder / "web" / "urls")]
    recipe["output"] = str(tmp_path / "run")
    recipe["fetch"]["allow"] = Corpus(0, PAIRS, port).addresses()
    recipe["part_size"] = 80
    path = tmp_path / "recipe.yaml"
    # By name, not as the demo's recipe has them: the order of signals is no part of what a run is.
    path.write_text(yaml.safe_dump(recipe, sort_keys=True))
    return path


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) if folder.exists() else []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("fetch.imagesize=3", "unknown key 'fetch.imagesize' in the recipe; did you mean 'image_size'?"),
        ("source.url=ULR", "did you mean 'URL'?"),
        ("source.caption=TXT", "TEXT"),
        ("source.paths=[nowhere/*.parquet]", "nowhere/*.parquet"),
        ("models={m: {name: ViT-B-23, pretrained: openai}}", "did you mean 'ViT-B-32'?"),
        ("models={m: {name: ViT-B-32, pretrained: opnai}}", "did you mean 'openai'?"),
        ("select.small.where=width <", "small"),
        ("select.small.where=widht < 3", "did you mean 'width'?"),
        ("select.mismatched.keep_top.of=clip_similarty", "did you mean 'clip_similarity'?"),
        ("output=/dev/null/run", "/dev/null/run"),
        ("part_size=0", "part_size"),
    ],
)
def test_bad_input_is_one_line_and_exit_2_and_nothing_is_written(place, tmp_path, change, message, capsys):
    recipe = write_recipe(tmp_path, *place)
    before = tree(tmp_path)
    assert main(["run", str(recipe), "--engine", "local", "--set", change]) == 2
    said = capsys.readouterr()
    (error,) = errors(said.err)
    assert message in error
    assert error.startswith("curate: ")
    assert tree(tmp_path) == before


def test_weights_that_do_not_fit_an_empty_list_and_an_unreadable_file(place, tmp_path, capsys):
    import torch
    from safetensors.torch import save_file

    recipe = write_recipe(tmp_path, *place)
    save_file({"visual.conv1.weight": torch.zeros(3, 3)}, tmp_path / "wrong.safetensors")
    (tmp_path / "empty.csv").write_text("URL,TEXT\n")
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    before = tree(tmp_path)
    for change, message in (
        (f"models={{m: {{name: ViT-B-32, pretrained: {tmp_path}/wrong.safetensors}}}}", "wrong.safetensors"),
        (f"source.paths=[{tmp_path}/empty.csv]", "empty.csv"),
        (f"source.paths=[{tmp_path}/broken.parquet]", "broken.parquet"),
    ):
        assert main(["run", str(recipe), "--engine", "local", "--set", change]) == 2
        (error,) = errors(capsys.readouterr().err)
        assert message in error
        assert tree(tmp_path) == before


def test_another_identity_is_refused(place, run, tmp_path, capsys):
    recipe = write_recipe(tmp_path, *place)
    arguments = ["run", str(recipe), "--engine", "local", "--set", f"output={place[0] / 'run'}"]
    assert main([*arguments, "--set", "seed=7"]) == 2
    assert "holds a run with another seed" in capsys.readouterr().err


def test_parts_that_are_set_aside_end_the_run_unless_it_may_go_on(place, tmp_path, capsys, monkeypatch):
    """A part at which the worker fails is tried twice, set aside, named; --allow-missing goes on without."""
    folder, port = place
    shutil.copytree(folder / "run", tmp_path / "run")
    store = Store(str(tmp_path / "run"))
    manifest = store.read_json("manifest.json")
    for name, path in manifest["folders"].items():
        if name != "plan":
            shutil.rmtree(tmp_path / "run" / path)
    (tmp_path / "run" / "manifest.json").unlink()
    fetch_part = FetchWorker.__call__

    def fails(self, unit, inputs, outputs):
        if unit == 2:
            raise RuntimeError("this part cannot be fetched")
        fetch_part(self, unit, inputs, outputs)

    monkeypatch.setattr(FetchWorker, "__call__", fails)
    command = demo(tmp_path / "run", folder / "web", port, "--engine", "local")
    with in_process():
        assert main(command) == 1
    assert "1 of 4 parts are set aside (000002)" in capsys.readouterr().err
    recipe = write_recipe(tmp_path, folder, port)
    with serve(Corpus(0, PAIRS, port)), in_process():
        assert main(["run", str(recipe), "--engine", "local", "--allow-missing"]) == 0
    manifest = store.read_json("manifest.json")
    assert manifest["missing_parts"] == [2]
    assert verify(store) == []
