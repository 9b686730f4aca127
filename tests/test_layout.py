"""What changes a fingerprint, and what columns a recipe brings."""

from dataclasses import replace

import pyarrow as pa
import pytest

from curate import prepare
from curate.embed.model.facts import ModelFacts
from curate.embed.target_files import TargetImage
from curate.errors import RecipeError
from curate.layout import lay_out
from curate.prepare import Prepared, columns_of
from curate.recipe import parse
from curate.remembered import Remembered
from curate.signals.registry import scorers
from curate.store import Store

FACTS = ModelFacts("w", "c", 8, 77, (224, 224), 100.0, None, {})


def folders(tmp_path, embed=None, signals=None, digest="0", **model):
    recipe = parse(
        {
            "version": 1,
            "source": {"paths": ["list.csv"]},
            "output": str(tmp_path),
            "models": {"a": {"name": "pocket", **model}, "b": {"name": "pocket"}},
            "embed": embed or {},
            "signals": signals or {},
        }
    )
    asked = [
        replace(one, learned={"sha256": digest, "index": 0} if one.kind.name == "heads" else {})
        for one in scorers(recipe.signals, "a")
    ]
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(prepare, "find_targets", lambda *_: [TargetImage("x.jpg", digest)])
    directions = prepare._directions(asked, Remembered())
    monkeypatch.undo()
    prepared = Prepared(recipe, Store(str(tmp_path)), {}, {"a": FACTS, "b": FACTS}, "", (), asked, *directions)
    return {name: pass_.folder.fingerprint for name, pass_ in lay_out(prepared, 1).passes.items()}


def changed(before, after):
    return {name for name in before if before[name] != after[name]}


def test_what_changes_an_embedding_changes_its_folder_and_what_follows(tmp_path):
    usual = folders(tmp_path)
    # Pixel columns are a function of the picture alone.
    assert "pixels" not in changed(usual, folders(tmp_path, {"decode": "exact"}))
    assert {"embed-a", "embed-b", "select"} <= changed(usual, folders(tmp_path, {"decode": "exact"}))
    mirrored = changed(usual, folders(tmp_path, mirror=True))
    assert "embed-a" in mirrored
    assert not mirrored & {"embed-b", "pixels", "fetch"}
    assert changed(usual, folders(tmp_path, {"device": "cpu", "decoders": 3})) == set()


SIGNALS = {
    "concepts": {"mark": ["a watermark", "a photo"]},
    "classes": {"kind": {"labels": ["cat", "dog"]}},
    "heads": {"taste": {"path": "one.pth"}},
    "targets": {"good": {"images": ["x.jpg"]}},
}


def test_a_signal_is_a_column_by_itself(tmp_path):
    whole = folders(tmp_path, signals=SIGNALS)
    downstream = {"select", "pack", "report"}
    for left_out in SIGNALS:
        fewer = folders(tmp_path, signals={kind: of for kind, of in SIGNALS.items() if kind != left_out})
        assert {name for name in fewer if fewer[name] != whole[name]} <= downstream
    for kind, signal, scorer in (
        ("concepts", {"mark": [["a watermark", "a logo"], "a photo"]}, "concept_mark"),
        ("concepts", {"mark": {"prompts": ["a watermark", "a photo"], "model": "b"}}, "concept_mark"),
        ("classes", {"kind": {"labels": ["cat", "dog"], "templates": ["the {}"]}}, "class_kind"),
        ("heads", {"taste": {"path": "one.pth", "activation": "relu"}}, "head_taste"),
        ("targets", {"good": {"images": ["x.jpg"], "model": "b"}}, "target_good"),
    ):
        other = changed(whole, folders(tmp_path, signals={**SIGNALS, kind: signal}))
        assert {name for name in other if name.startswith("signals-")} == {f"signals-{scorer}"}
    # What lies in a head's file, or is seen on a target, counts; the path does not.
    other = folders(tmp_path, signals=SIGNALS, digest="1")
    assert {name for name in changed(whole, other) if name not in downstream} == {
        "targets-target_good",
        "signals-target_good",
        "signals-head_taste",
    }
    moved = {**SIGNALS, "heads": {"taste": {"path": "elsewhere/one.pth"}}}
    assert not {name for name in changed(whole, folders(tmp_path, signals=moved)) if name.startswith("signals-")}


def test_columns_of_signals_may_be_named_in_steps():
    recipe = parse({"version": 1, "source": {"paths": ["x"]}, "output": "o", "signals": SIGNALS})
    columns = columns_of(recipe, pa.schema([])).types()
    wanted = {"concept_mark": pa.float32(), "class_kind": pa.string(), "class_kind_probability": pa.float32()}
    assert {**wanted, "head_taste": pa.float32(), "target_good": pa.float32()}.items() <= columns.items()


def test_mirrored_columns_are_there_where_they_are_asked_for():
    least = {"version": 1, "source": {"paths": ["x"]}, "output": "o"}

    def names(**models):
        recipe = parse({**least, "models": {name: {"name": "pocket", "mirror": on} for name, on in models.items()}})
        return {name for name in columns_of(recipe, pa.schema([])).types() if name.startswith("clip_")}

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
