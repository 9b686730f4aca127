import numpy as np
import pytest

from curate.embed import prompts as prompts_module
from curate.embed.prompts import open_worker
from curate.errors import RecipeError
from curate.store import WHOLE, Folder, Inputs, Store


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_prompts_are_embedded_with_the_scale_of_the_weights(precision, tiny, tmp_path):
    made = tiny("sigmoid")
    concepts = {"watermark": ["a photo with a watermark", "a photo"], "other": ["a", "b", "c"]}
    settings = {
        "models": {"m": {**made.settings, "precision": precision}},
        "sets": {
            f"prompts-{name}": {
                "model": "m",
                "where": f"signals.concepts.{name}",
                "names": prompts,
                "prompts": [[prompt] for prompt in prompts],
            }
            for name, prompts in concepts.items()
        },
        "device": "cpu",
        "endpoint": None,
    }
    folder = Folder(Store(str(tmp_path)), "prompts-watermark", "x")
    outputs = {"prompts-watermark": folder.outputs()}
    open_worker(settings)(WHOLE, Inputs({}, []), outputs)
    outputs["prompts-watermark"].commit()
    table = folder.table("prompts.parquet")
    assert table["prompt"].to_pylist() == concepts["watermark"]
    expected = np.stack([made.embed_text(prompt) for prompt in concepts["watermark"]])
    found = np.array(table["embedding"].to_pylist())
    np.testing.assert_allclose(found, expected, atol=1e-6 if precision == "fp32" else 0.02)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    scale = folder.json("model.json")
    assert scale["logit_scale"] == pytest.approx(1 / 0.07, rel=1e-6)
    assert scale["logit_bias"] == -10
    assert folder.marker().counts == {"prompts": 2}


@pytest.mark.parametrize(
    ("where", "names", "said"),
    [
        (
            "signals.classes.kind",
            ["dog", "A  Cat", "bird", "a cat"],
            "signals.classes.kind: the model 'm' gives 'A  Cat' and 'a cat'",
        ),
        # What stands behind the last token that a tower takes is not read.
        (
            "signals.concepts.mark",
            ["a dog " * 12, "a dog " * 12 + "on a hill", "x"],
            "signals.concepts.mark: the model 'm' gives",
        ),
    ],
)
@pytest.mark.parametrize("block", [1, 2, 1024])
def test_directions_that_the_model_does_not_tell_apart_are_refused(
    where, names, said, block, tiny, tmp_path, monkeypatch
):
    monkeypatch.setattr(prompts_module, "_BLOCK", block)
    settings = {
        "models": {"m": tiny("vit").settings},
        "sets": {"prompts": {"model": "m", "where": where, "names": names, "prompts": [[name] for name in names]}},
        "device": "cpu",
        "endpoint": None,
    }
    outputs = {"prompts": Folder(Store(str(tmp_path)), "prompts", "x").outputs()}
    with pytest.raises(RecipeError) as caught:
        open_worker(settings)(WHOLE, Inputs({}, []), outputs)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_prompts_that_are_cut_are_counted(tiny, tmp_path):
    made = tiny("sigmoid")
    long = "b" * 120_000
    prompts = ["a photo", long]
    chosen = {"model": "m", "where": "signals.concepts.x", "names": ["a", "b"], "prompts": [[text] for text in prompts]}
    settings = {"models": {"m": made.settings}, "sets": {"prompts-x": chosen}, "device": "cpu", "endpoint": None}
    folder = Folder(Store(str(tmp_path)), "prompts-x", "x")
    outputs = {"prompts-x": folder.outputs()}
    open_worker(settings)(WHOLE, Inputs({}, []), outputs)
    outputs["prompts-x"].commit()
    assert folder.marker().counts == {"prompts": 2, "shortened": 1}
    assert folder.marker().notes[0].startswith("1 prompt cut before tokenizing")
    found = np.array(folder.table("prompts.parquet")["embedding"].to_pylist())
    np.testing.assert_allclose(found[1], made.embed_text(long[:1000]), atol=1e-6)
