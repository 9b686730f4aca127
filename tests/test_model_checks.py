"""The check of a model: a line is printed where it takes seconds; a wrong name or tag is one line, the error."""

import threading
from dataclasses import asdict

import pytest

from curate import prepare
from curate.commands.main import main
from curate.embed.model import describe
from curate.embed.model.facts import ModelFacts
from curate.errors import Exit, ModelError
from curate.recipe import Model
from curate.remembered import Remembered

FACTS = ModelFacts("w", "c", 8, 77, (224, 224), 100.0, None, {})
MODEL = Model(name="ViT-B-32", pretrained="laion2b_s34b_b79k")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("{name: ViT-B-33, pretrained: openai}", "open_clip knows no model 'ViT-B-33'; did you mean"),
        ("{name: ViT-B-32, pretrained: opennai}", "has no weights 'opennai'"),
        ("{name: ViT-B-32, pretrained: nope/weights.pt}", "nope/weights.pt"),
    ],
)
def test_a_wrong_model_is_one_line(tmp_path, capfd, monkeypatch, model, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.csv").write_text("url,caption\nhttp://a/b.jpg,c\n")
    recipe = f"{{version: 1, source: {{paths: [list.csv]}}, output: run, models: {{l14: {model}}}}}"
    (tmp_path / "recipe.yaml").write_text(recipe)
    assert main(["run", "recipe.yaml", "--dry-run"]) == Exit.WRONG
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("curate: ")
    assert said in line


@pytest.mark.parametrize("is_right", [True, False])
def test_a_slow_check_says_what_it_checks(monkeypatch, is_right):
    """The check ends only once the line was printed, so no clock decides."""
    printed, lines = threading.Event(), []

    def tell(line):
        lines.append(line)
        printed.set()

    def slow(origin):
        assert printed.wait(60)
        if not is_right:
            raise ModelError("its weights do not fit")
        return FACTS

    monkeypatch.setattr(prepare, "SLOW_CHECK", 0.01)
    monkeypatch.setattr(describe, "facts_of", slow)
    if is_right:
        assert asdict(prepare._facts("l14", MODEL, Remembered(), tell)) == asdict(FACTS)
    else:
        with pytest.raises(ModelError):
            prepare._facts("l14", MODEL, Remembered(), tell)
    assert lines == ["models.l14: checking ViT-B-32"]


def test_a_quick_check_says_nothing(monkeypatch):
    lines = []
    monkeypatch.setattr(prepare, "SLOW_CHECK", 600.0)
    monkeypatch.setattr(describe, "facts_of", lambda origin: FACTS)
    prepare._facts("l14", MODEL, Remembered(), lines.append)
    assert lines == []
    assert [thread.name for thread in threading.enumerate() if thread.name == "slow check"] == []
