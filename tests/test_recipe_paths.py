"""A recipe's local paths, made absolute; what is no path stays."""

import pytest

from curate.recipe import parse

LEAST = {"version": 1, "source": {"paths": ["lists"]}, "output": "run"}


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_every_local_path_but_the_output(tmp_path):
    recipe = parse(
        {
            **LEAST,
            "source": {"paths": ["lists/*.csv", "../more/", "s3://bucket/x.csv", "/abs/x.csv"]},
            "fetch": {"blocklists": ["bad.txt", "s3://bucket/bad.txt"], "phash_blocklists": ["near.txt"]},
            "signals": {
                "heads": {"taste": {"path": "head.pt"}, "far": {"path": "s3://bucket/head.pt"}},
                "targets": {"good": {"images": [".", "/abs/*.jpg"]}},
                "phrases": {"bad": {"file": "words.txt"}, "few": {"phrases": ["words.txt"]}},
            },
        }
    )
    found = recipe.with_absolute_paths()
    assert found.source.paths == [
        f"{tmp_path}/lists/*.csv",
        f"{tmp_path.parent}/more",
        "s3://bucket/x.csv",
        "/abs/x.csv",
    ]
    assert found.fetch.blocklists == [f"{tmp_path}/bad.txt", "s3://bucket/bad.txt"]
    assert found.fetch.phash_blocklists == [f"{tmp_path}/near.txt"]
    assert found.signals.heads["taste"].path == f"{tmp_path}/head.pt"
    assert found.signals.heads["far"].path == "s3://bucket/head.pt"
    assert found.signals.targets["good"].images == [str(tmp_path), "/abs/*.jpg"]
    assert found.signals.phrases["bad"].file == f"{tmp_path}/words.txt"
    assert (found.signals.phrases["few"].file, found.signals.phrases["few"].phrases) == (None, ["words.txt"])
    assert found.output == "run"
    assert found.with_absolute_paths() == found
    assert parse(found.model_dump(mode="json")) == found


@pytest.mark.parametrize(
    ("name", "pretrained", "absolute"),
    [
        ("pocket", None, ("pocket", None)),
        ("ViT-B-32", "laion2b_s34b_b79k", ("ViT-B-32", "laion2b_s34b_b79k")),
        ("ViT-B/32", "laion2b_s34b_b79k", ("ViT-B/32", "laion2b_s34b_b79k")),
        ("hf-hub:owner/model", None, ("hf-hub:owner/model", None)),
        ("ViT-B-32", "weights", ("ViT-B-32", "{here}/weights")),
        ("ViT-B-32", "not-there", ("ViT-B-32", "not-there")),
        ("ViT-B-32", "sub/x.safetensors", ("ViT-B-32", "{here}/sub/x.safetensors")),
        ("config.json", "s3://bucket/x.pt", ("{here}/config.json", "s3://bucket/x.pt")),
        ("s3://bucket/config.json", "s3://bucket/weights", ("s3://bucket/config.json", "s3://bucket/weights")),
    ],
)
def test_models_are_names_or_paths(tmp_path, name, pretrained, absolute):
    (tmp_path / "weights").mkdir()
    # A tag is taken before a folder of its name, as where weights are loaded.
    (tmp_path / "laion2b_s34b_b79k").mkdir()
    recipe = parse({**LEAST, "models": {"m": {"name": name, "pretrained": pretrained}}})
    found = recipe.with_absolute_paths().models["m"]
    assert (found.name, found.pretrained) == tuple(text and text.format(here=tmp_path) for text in absolute)
