"""Every kind of signal through a whole run, from the command line."""

import random

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from helpers.said import errors

from curate.commands.main import main
from curate.commands.verify import verify
from curate.demo.captions import caption
from curate.demo.scenes import draw_scene, sample_scene
from curate.store import Folder, Store

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.fixture
def recipe(tmp_path):
    """A recipe over a folder of drawings, with two models and signals of both."""
    rng = random.Random(0)
    for place in ("pairs", "good"):
        (tmp_path / place).mkdir()
        for number in range(8):
            scene = sample_scene(rng)
            draw_scene(scene, (96, 96)).save(tmp_path / place / f"{number}.png")
            (tmp_path / place / f"{number}.txt").write_text(caption(scene, rng))
    (tmp_path / "good" / "7.png").write_bytes((tmp_path / "pairs" / "3.png").read_bytes())
    torch.save(torch.nn.Linear(128, 1).state_dict(), tmp_path / "taste.pth")
    content = {
        "version": 1,
        "source": {"kind": "samples", "paths": [str(tmp_path / "pairs")]},
        "output": str(tmp_path / "run"),
        "models": {"a": {"name": "pocket"}, "b": {"name": "pocket", "precision": "bf16"}},
        "signals": {
            "concepts": {"red": {"prompts": [["a red shape", "something red"], "a blue shape"], "model": "b"}},
            "classes": {"shape": {"labels": ["circle", "square", "star"], "templates": ["a {}", "one red {}"]}},
            "heads": {"taste": {"path": str(tmp_path / "taste.pth"), "output": "sigmoid"}},
            "targets": {"good": {"images": [str(tmp_path / "good" / "*.png")]}},
        },
        "select": [
            {"drop": "unsure", "where": "class_shape_probability < 0.01 or concept_red > 2 or head_taste > 1"},
            {"drop": "far", "keep_top": {"of": "target_good", "fraction": 0.5}},
        ],
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def run(recipe, *more):
    return main(["run", str(recipe), "--engine", "local", *more])


def test_all_signals_through_a_run(recipe, tmp_path, capsys):
    assert run(recipe) == 0
    store = Store(str(tmp_path / "run"))
    assert verify(store, deep=True) == []
    manifest = store.read_json("manifest.json")
    # Stored for every pair, kept or not.
    stored = Folder.at(store, manifest["folders"]["signals-target_good"])
    nearness = [stored.table("pairs.parquet", part)["target_good"] for part in sorted(stored.units())]
    assert (sum(map(len, nearness)), sum(column.null_count for column in nearness)) == (8, 0)
    (shard,) = (tmp_path / "run" / manifest["pack"] / "shards").glob("*.parquet")
    table = pq.read_table(shard)
    assert len(table) == 4
    # The picture that is one of the targets is as near as can be.
    assert max(table["target_good"].to_pylist()) == pytest.approx(1, abs=1e-3)
    assert set(table["class_shape"].to_pylist()) <= {"circle", "square", "star"}
    for name in ("class_shape_probability", "head_taste", "concept_red"):
        assert all(0 <= value <= 1 for value in table[name].to_pylist())
    capsys.readouterr()
    uid = table["uid"][0].as_py()
    assert main(["explain", store.url, uid]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("target_good", "class_shape", "head_taste", "concept_red"))
    # Another template computes that column and what follows; the images are left alone.
    before = set(store.folders())
    assert run(recipe, "--set", "signals.classes.shape.templates=['the {}']", "--until", "select") == 0
    added = {name.rpartition("-")[0] for name in set(store.folders()) - before}
    assert added == {"prompts-class_shape", "signals-class_shape", "select"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("signals.heads.taste.path=none.pth", "/none.pth does not exist"),
        ("signals.heads.taste.index=3", "index 3"),
        ("signals.targets.good.images=[nowhere]", "/nowhere does not exist"),
        ("signals.concepts.red.model=c", "there is no model 'c'"),
        ("select.far.keep_top.of=target_god", "did you mean 'target_good'?"),
    ],
)
def test_what_is_wrong_is_said_before_the_run_begins(recipe, tmp_path, change, said, capsys):
    assert run(recipe, "--set", change) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(errors(error)) == 1
    assert not (tmp_path / "run").exists()


def test_a_head_of_another_width_is_refused_before_the_run_begins(recipe, tmp_path, capsys):
    torch.save(torch.nn.Linear(768, 1).state_dict(), tmp_path / "taste.pth")
    assert run(recipe) == 2
    assert "takes embeddings of 768 numbers, but those of model a have 128" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
