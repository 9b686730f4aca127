"""benchmarks/copies.py with few pictures: every step is measured on every set, and the shipped recipe is among them."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from curate.demo.scenes import draw_scene, sample_scene

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "copies.py"


@pytest.fixture
def copies(monkeypatch):
    spec = importlib.util.spec_from_file_location("copies_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_every_step_is_measured_on_every_set(copies, tmp_path, capsys):
    rng = copies.random.Random(5)
    for number in range(4):
        draw_scene(sample_scene(rng), (200, 150)).save(tmp_path / f"{number}.jpg")
    copies.main(["--scenes", "2", "--photos", str(tmp_path)])
    sets = json.loads(capsys.readouterr().out.splitlines()[-1])["sets"]
    assert {name: (found["pictures"], found["copies"]) for name, found in sets.items()} == {
        "scenes": (2, 14),
        "photos": (2, 14),
        "halves": (4, 28),
    }
    for found in sets.values():
        assert list(found["steps"]) == [*copies.candidates(), "last shipped", "shipped"]
        for row in found["steps"].values():
            assert row["left"] == sum(row["left_by_edit"].values()) <= found["copies"]
            assert row["lost"] <= found["pictures"]
        # Another encoding of the same pixels is near by every measure: else the copies are not those of the pictures.
        assert found["steps"]["shipped"]["left_by_edit"]["jpeg"] == 0
        # More steps leave no more copies.
        assert found["steps"]["shipped"]["left"] <= found["steps"]["last shipped"]["left"]


def test_errors_are_counted_by_picture_and_by_copy(copies):
    off = -np.inf
    pictures = {
        "cosine": np.array([[off, 0.97, 0.2], [0.97, off, 0.1], [0.2, 0.1, off]]),
        "phash": np.array([[np.inf, 20, 2], [20, np.inf, 9], [2, 9, np.inf]]),
    }
    made = {"cosine": np.array([[0.99, 0.5], [0.96, 0.96], [0.99, 0.99]]), "phash": np.array([[1, 1], [9, 3], [4, 30]])}
    likeness = copies.Likeness(pictures, made)

    def counted(*steps):
        left, lost = copies.counted(likeness, steps)
        return left.tolist(), lost

    assert counted((("cosine", 0.95),)) == ([0, 1], 2)
    assert counted((("phash", 4),)) == ([1, 1], 2)
    assert counted((("cosine", 0.95), ("phash", 4))) == ([1, 2], 0)
    assert counted((("cosine", 0.95), ("phash", 4)), (("phash", 1),)) == ([1, 1], 0)
    assert copies.chosen(likeness, [(("cosine", 0.95),), (("cosine", 0.98),)]) == (("cosine", 0.98),)


def test_the_shipped_steps_are_those_of_the_recipe(copies):
    assert copies.shipped() == [(("pdq", 31),), (("cosine", 0.93), ("phash", 12))]


def test_a_look_alike_has_a_shape_at_another_place(copies):
    rng = copies.random.Random(7)
    scene = next(scene for scene in iter(lambda: sample_scene(rng), None) if scene.groups[0].count == 1)
    assert not copies.is_elsewhere(scene, scene)
    (place,) = scene.groups[0].places
    apart = copies.replace(place, x=place.x + copies.ELSEWHERE if place.x < 0.5 else place.x - copies.ELSEWHERE)
    first = copies.replace(scene.groups[0], places=(apart,))
    assert copies.is_elsewhere(scene, copies.replace(scene, groups=(first, *scene.groups[1:])))
