"""Signals, pixel scorers and steps that another package brings: installed, named in a recipe, run, reported."""

import os
import subprocess
import sys
import textwrap

import pytest
import yaml
from helpers.embed_parts import draw, encode

from curate.store import Folder, Store

MODULE = '''
"""What a stranger's package may hold."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from curate.embed.pixels.contract import PixelMeasure, PixelModel
from curate.keys import Keys
from curate.signals.contract import Signal, SignalKeys
from curate.signals.vectors import per_pair


class Vowels(Keys):
    letters: str = Field("aeiou", description="Which letters count.")


class VowelCount(Signal[Vowels]):
    name, prefix, version, about = "vowels", "vowels", 3, "How many vowels a caption has."
    keys, reads_embeddings = Vowels, False

    def columns(self, scorer):
        return {scorer: pa.int32()}

    def depends(self, keys):
        return {"letters": keys.letters}

    def score(self, task):
        found = pc.count_substring_regex(task.pairs["caption"], f"[{task.keys.letters}]")
        return {task.scorer: found.cast(pa.int32())}


class First(SignalKeys):
    pass


class FirstNumber(Signal[First]):
    name, prefix, version, about, keys = "firsts", "first", 1, "An embedding's first number.", First

    def score(self, task):
        dim = task.embeddings.table("images.parquet", task.part)["image_embedding"].type.list_size
        (found,) = per_pair(task, dim, "first", 1, lambda images: images[:, :1])
        return {task.scorer: found}


class Red(Keys):
    above: int = Field(128, description="From which value on.")


class RedShare(PixelMeasure):
    name, prefix, version, about, keys = "reds", "red", 1, "The share of red pixels.", Red

    def depends(self, keys):
        return {"above": keys.above}

    def measure(self, picture, keys):
        return [float((np.asarray(picture)[:, :, 0] > keys.above).mean())]


class Dark(Keys):
    pass


class Darkness(PixelModel):
    name, prefix, version, about, keys = "darks", "dark", 1, "How dark a crop is, and its place in its batch.", Dark

    def columns(self, scorer):
        return {scorer: pa.float32(), f"{scorer}_batch": pa.int64()}

    def crop(self, picture, keys):
        return np.asarray(picture.resize((4, 4)).convert("L"))[None]

    def open(self, keys, learned, device, endpoint):
        return lambda crops: [(255.0 - float(crop.mean()), len(crops)) for crop in crops]


VOWELS, FIRSTS, REDS, DARKS = VowelCount(), FirstNumber(), RedShare(), Darkness()
'''

ENTRY_POINTS = """
[curate.signals]
vowels = stranger:VOWELS
firsts = stranger:FIRSTS

[curate.pixels]
reds = stranger:REDS
darks = stranger:DARKS
"""


@pytest.fixture
def installed(tmp_path):
    """A folder with the package as an installer leaves it, to stand on the path."""
    site = tmp_path / "site"
    info = site / "stranger_things-1.2.dist-info"
    info.mkdir(parents=True)
    (site / "stranger.py").write_text(textwrap.dedent(MODULE))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger-things\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return site


def curate(*arguments, path=None):
    """The command line in a process of its own, as entry points are looked up once in each."""
    paths = [*([str(path)] if path else []), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-m", "curate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "pairs").mkdir()
    for number in range(6):
        (tmp_path / "pairs" / f"{number}.png").write_bytes(encode(draw(number)))
        (tmp_path / "pairs" / f"{number}.txt").write_text("a drawing of a thing" if number else "xyz")
    content = {
        "version": 1,
        "source": {"kind": "samples", "paths": [str(tmp_path / "pairs")]},
        "output": str(tmp_path / "run"),
        "signals": {"vowels": {"a": {"letters": "a"}}, "firsts": {"of": {}}},
        "pixels": {"reds": {"half": {}}, "darks": {"mean": {}}},
        "select": [{"drop": "no_a", "where": "vowels_a < 1 or red_half > 2 or dark_mean > 255 or first_of > 1"}],
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_what_another_package_brings_goes_through_to_report_and_explain(recipe, installed, tmp_path):
    done = curate("run", recipe, "--engine", "local", path=installed)
    assert done.returncode == 0, done.stderr
    assert "no_a" in done.stdout
    store = Store(str(tmp_path / "run"))
    manifest = store.read_json("manifest.json")
    folders = {name: Folder.at(store, path) for name, path in manifest["folders"].items()}
    assert {"signals-vowels_a", "signals-first_of", "pixels-red_half", "pixels-dark_mean"} <= folders.keys()
    of_vowels = store.read_json(f"{folders['signals-vowels_a'].path}/pass.json")
    assert (of_vowels["version"], of_vowels["params"]) == (3, {"letters": "a", "package": "stranger-things"})
    table = folders["pixels-dark_mean"].table("pixels.parquet", 0)
    assert set(table["dark_mean_batch"].to_pylist()) == {64}, "a batch is always full"
    shard = folders["pack"].table("shards/00000000.parquet", 0)
    assert {"vowels_a", "first_of", "red_half", "dark_mean"} <= set(shard.column_names)
    assert shard["vowels_a"].to_pylist() == [3] * 5
    page = store.read(folders["report"].file("index.html")).decode()
    assert "vowels_a" in page
    said = curate("explain", store.url, shard["uid"][0].as_py(), path=installed).stdout
    assert all(name in said for name in ("vowels_a", "first_of", "red_half", "dark_mean"))
    # Another key of one computes that one, and what follows.
    before = set(store.folders())
    again = curate(
        "run", recipe, "--engine", "local", "--until", "select", "--set", "pixels.reds.half.above=9", path=installed
    )
    assert again.returncode == 0, again.stderr
    assert {name.rpartition("-")[0] for name in set(store.folders()) - before} == {"pixels-red_half", "select"}


def test_a_package_that_is_not_installed_is_one_line(recipe):
    done = curate("run", recipe, "--engine", "local")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "unknown key 'signals.firsts' in the recipe" in done.stderr
    assert "is a package that brings it not installed?" in done.stderr


def test_a_package_that_cannot_be_loaded_is_one_line(recipe, installed):
    (installed / "stranger.py").write_text("import nothing_of_the_kind\n")
    done = curate("run", recipe, "--engine", "local", path=installed)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "stranger-things 1.2" in done.stderr
