"""A package that brings a step kind through an entry point: from the recipe to report and explain."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from curate.demo.captions import caption
from curate.demo.scenes import draw_scene, sample_scene
from curate.store import Folder, Store

STEP = """
from curate.select.steps.contract import RowWise, Words, code


class KeepWide(RowWise[int]):
    name = "keep_wide"
    version = 3
    description = "Keep images of so many pixels in width, or more."
    keys = int

    def columns(self, step, known):
        return ["width"]

    def check(self, step, columns):
        if step.keys < 1:
            raise step.wrong(f"keep_wide: {step.keys} is no width")

    def condition(self, step):
        return f"width < {step.keys}"

    def words(self, step, facts):
        return Words(f"keeps images of {step.keys} pixels or wider", f"images with {code('width')} < {step.keys}")


STEP = KeepWide()
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as pip leaves it."""
    site = tmp_path_factory.mktemp("site")
    (site / "wide_steps.py").write_text(STEP)
    info = site / "wide_steps-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wide-steps\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[curate.steps]\nkeep_wide = wide_steps:STEP\n")
    return site


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("wide")
    rng = random.Random(0)
    (root / "pairs").mkdir()
    for number, width in enumerate((96, 128, 160)):
        scene = sample_scene(rng)
        draw_scene(scene, (width, 96)).save(root / "pairs" / f"{number}.png")
        (root / "pairs" / f"{number}.txt").write_text(caption(scene, rng))
    content = {
        "version": 1,
        "source": {"kind": "samples", "paths": [str(root / "pairs")]},
        "output": str(root / "run"),
        "select": [{"drop": "narrow", "keep_wide": 100}],
    }
    (root / "recipe.yaml").write_text(yaml.safe_dump(content))
    return root / "recipe.yaml"


def curate(*arguments: object, site: Path | None = None) -> subprocess.CompletedProcess[str]:
    paths = [str(Path(__file__).parents[2]), *([str(site)] if site else [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "curate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_a_step_of_another_package_runs_to_report_and_explain(installed, recipe):
    ran = curate("run", recipe, "--engine", "local", site=installed)
    assert ran.returncode == 0, ran.stderr
    says = "keeps images of 100 pixels or wider"
    assert says in ran.stdout
    store = Store(str(recipe.parent / "run"))
    folders = {name: Folder.at(store, path) for name, path in store.read_json("manifest.json")["folders"].items()}
    (step,) = [step for step in folders["select"].json("funnel.json")["steps"] if step["name"] == "narrow"]
    assert (step["kind"], step["seen"], step["dropped"], step["would_drop"]) == ("keep_wide", 3, 1, 1)
    params = folders["select"].described()["params"]
    assert params["kinds"] == {"keep_wide": {"package": "wide-steps", "version": 3}}
    assert says in store.read(folders["report"].file("index.html")).decode()
    assert "images with `width` < 100" in store.read(f"{folders['pack'].path}/README.md").decode()
    narrow = next(row for row in folders["select"].table("decisions.parquet", 0).to_pylist() if not row["kept"])
    explained = curate("explain", store.url, narrow["pair_id"].hex(), site=installed)
    assert f"→ narrow           drops it  [{says}]" in explained.stdout
    # Where the package is not installed, the same recipe and run are one line each.
    missing = curate("run", recipe, "--engine", "local")
    assert missing.returncode == 2
    assert missing.stderr.startswith("curate: unknown key 'keep_wide' in select step 'narrow'; did you mean 'keep_")
    unexplained = curate("explain", store.url, narrow["pair_id"].hex())
    assert unexplained.returncode == 2
    assert "select step 'narrow' needs a kind of step that is not installed here (keep_wide)" in unexplained.stderr


def test_its_own_check_is_one_line(installed, recipe):
    asked = curate("run", recipe, "--set", "select.narrow.keep_wide=0", "--dry-run", site=installed)
    assert (asked.returncode, asked.stderr) == (2, "curate: select step 'narrow': keep_wide: 0 is no width\n")


def test_a_package_that_cannot_be_imported_is_one_line(installed, recipe, tmp_path):
    (tmp_path / "wide_steps.py").write_text("import a_module_that_is_not_there\n")
    for name in ("METADATA", "entry_points.txt"):
        target = tmp_path / "wide_steps-1.2.dist-info" / name
        target.parent.mkdir(exist_ok=True)
        target.write_text((installed / "wide_steps-1.2.dist-info" / name).read_text())
    broken = curate("run", recipe, "--dry-run", site=tmp_path)
    assert broken.returncode == 2
    assert broken.stderr.startswith(
        "curate: the step kind 'keep_wide' of wide-steps 1.2 (wide_steps:STEP) cannot be load"
    )
    assert broken.stderr.count("\n") == 1
    assert not broken.stdout
