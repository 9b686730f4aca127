"""What changes a fingerprint, and what columns a recipe brings."""

import pyarrow as pa
import pytest

from curate.embed.model import ModelFacts
from curate.errors import RecipeError
from curate.layout import Prepared, lay_out, visible_columns
from curate.recipe import parse
from curate.store import Store

FACTS = ModelFacts("w", "c", 8, 77, (224, 224), 100.0, None, {})


def folders(tmp_path, embed=None, **model):
    recipe = parse(
        {
            "version": 1,
            "source": {"paths": ["list.csv"]},
            "output": str(tmp_path),
            "models": {"a": {"name": "pocket", **model}, "b": {"name": "pocket"}},
            "embed": embed or {},
        }
    )
    prepared = Prepared(recipe, Store(str(tmp_path)), {}, {"a": FACTS, "b": FACTS})
    return {name: pass_.folder.fingerprint for name, pass_ in lay_out(prepared, 1).passes.items()}


def changed(before, after):
    return {name for name in before if before[name] != after[name]}


def test_what_changes_an_embedding_changes_its_folder_and_what_follows(tmp_path):
    usual = folders(tmp_path)
    # Pixel columns are a function of the picture alone.
    assert "pixels" not in changed(usual, folders(tmp_path, {"decode": "scaled"}))
    assert {"embed-a", "embed-b", "select"} <= changed(usual, folders(tmp_path, {"decode": "scaled"}))
    mirrored = changed(usual, folders(tmp_path, mirror=True))
    assert "embed-a" in mirrored
    assert not mirrored & {"embed-b", "pixels", "fetch"}
    assert changed(usual, folders(tmp_path, {"processes": 4, "device": "cpu"})) == set()


def test_mirrored_columns_are_there_where_they_are_asked_for():
    least = {"version": 1, "source": {"paths": ["x"]}, "output": "o"}

    def names(**models):
        recipe = parse({**least, "models": {name: {"name": "pocket", "mirror": on} for name, on in models.items()}})
        return {name for name in visible_columns(recipe, pa.schema([])) if name.startswith("clip_")}

    assert names(a=False, b=False) == {"clip_similarity", "clip_similarity_a", "clip_similarity_b"}
    assert names(a=True) == {
        "clip_similarity",
        "clip_similarity_a",
        "clip_similarity_mirrored",
        "clip_similarity_mirrored_a",
    }
    assert "clip_similarity_mirrored_b" in names(a=False, b=True)
    assert "clip_similarity_mirrored" not in names(a=False, b=True)
    with pytest.raises(RecipeError, match="choose another name"):
        names(mirrored_a=True)
