import json
import typing
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from curate import __version__
from curate.errors import RecipeError
from curate.recipe import Recipe, load, parse
from curate.store import Store

LEAST = {"version": 1, "source": {"paths": ["list.parquet"]}, "output": "run"}
DOCS = Path(__file__).parents[1] / "docs" / "recipes.md"


def with_(**keys):
    return {**LEAST, **keys}


def keys_of(model, prefix=""):
    """Every key of a recipe, dotted, with its field."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}", field
        found = inner_model(field.annotation)
        if found:
            inner, suffix = found
            yield from keys_of(inner, f"{prefix}{name}{suffix}.")


def inner_model(annotation):
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ""
    suffix = {dict: ".<name>", list: "[]"}.get(typing.get_origin(annotation), "")
    for argument in typing.get_args(annotation):
        found = inner_model(argument)
        if found:
            return found[0], suffix + found[1]
    return None


def test_every_key_is_documented_with_its_default():
    rows = {line.split("`")[1]: line for line in DOCS.read_text().splitlines() if line.startswith("| `")}
    keys = dict(keys_of(Recipe))
    assert len(keys) > 50
    for key, field in keys.items():
        assert key in rows, f"docs/recipes.md does not explain {key}"
        default = field.default
        if default is PydanticUndefined:
            assert "| required |" in rows[key]
        elif not isinstance(default, BaseModel | dict) or default == {}:
            shown = json.dumps(default).replace(f"curate/{__version__} ", "curate/VERSION ")
            assert f"| `{shown}` |" in rows[key], f"docs/recipes.md has another default for {key}"
    assert set(rows) == set(keys), "docs/recipes.md explains keys that there are not"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (with_(fetch={"imagesize": 3}), "unknown key 'fetch.imagesize' in the recipe; did you mean 'image_size'?"),
        ({**LEAST, "source": {"path": ["x"]}}, "unknown key 'source.path' in the recipe; did you mean 'paths'?"),
        (with_(selects=[]), "unknown key 'selects' in the recipe; did you mean 'select'?"),
        (
            with_(select=[{"drop": "a", "wher": "x"}]),
            "unknown key 'wher' in select step 'a'; did you mean 'where'?",
        ),
        (with_(models={"l": {"nam": "x"}}), "unknown key 'models.l.nam' in the recipe; did you mean 'name'?"),
        (
            with_(select=[{"drop": "a", "keep_top": {"of": "x", "fractoin": 1}}]),
            "unknown key 'keep_top.fractoin' in select step 'a'; did you mean 'fraction'?",
        ),
        (with_(fetch={"processes": 3}), "'fetch.processes' in the recipe is now 'workers.fetch.count'"),
        (with_(embed={"processes": 3}), "'embed.processes' in the recipe is now 'workers.embed.count'"),
        (
            with_(workers={"fecth": {"count": 3}}),
            "recipe: workers: no pass with workers is named 'fecth'; did you mean 'fetch'?",
        ),
        (
            with_(workers={"fetch": {"counts": 3}}),
            "unknown key 'workers.fetch.counts' in the recipe; did you mean 'count'?",
        ),
        (
            with_(workers={"embed": {"gpus": 1}}, embed={"device": "cpu"}),
            "recipe: workers.embed.gpus: embed.device is cpu, so no GPU would be used",
        ),
        ({"version": 1, "output": "x"}, "the recipe lacks 'source'"),
        (with_(version=2), "recipe: version: 2 is not allowed; write 1"),
        (
            with_(select=[{"drop": "repeated", "where": "x"}]),
            "recipe: select step 'repeated': 'repeated' is a built-in reason",
        ),
        (
            with_(select=[{"drop": "fetch:dns", "where": "x"}]),
            "recipe: select step 'fetch:dns': drop: 'fetch:dns' is not allowed; write a name of at most 100",
        ),
        (with_(select=[{"drop": "a", "keep_top": {"of": "x"}}]), "select step 'a' lacks 'keep_top.fraction'"),
        (with_(select=[{"where": "x"}]), "the recipe lacks 'select.0.drop'"),
        (with_(select=["a"]), "recipe: select.0: "),
        (
            with_(select=[{"drop": "a"}]),
            "recipe: select step 'a': a step has exactly one of: duplicates, keep_random, keep_top, matches, where",
        ),
        (with_(select=[{"drop": "a", "where": "x"}] * 2), "recipe: select: two steps are named 'a'"),
        (
            with_(select=[{"drop": "a", "duplicates": {"by": "image_embedding", "above": 0.5}}]),
            "recipe: select step 'a': above 0.5 is below dedup.floor 0.9; lower dedup.floor to 0.5",
        ),
        (
            with_(select=[{"drop": "a", "duplicates": {"by": "image_embedding"}}]),
            "recipe: select step 'a': duplicates: by: image_embedding or text_embedding needs `above`, and no other",
        ),
        (
            with_(select=[{"drop": "a", "keep_top": {"of": "x", "fraction": 1.5}}]),
            "recipe: select step 'a': keep_top.fraction: 1.5 is not allowed; write a number from 0 to 1",
        ),
        (
            with_(select=[{"drop": "a", "duplicates": {"by": "sha256"}}, {"drop": "b", "where": "width < 3"}]),
            "recipe: select step 'b' comes after 'a', which drops duplicates in favour of pairs that 'b' may drop",
        ),
        (
            with_(
                select=[
                    {"drop": "a", "duplicates": {"by": "sha256"}},
                    {"drop": "b", "duplicates": {"by": "image_embedding", "above": 0.97, "prefer": "width"}},
                ]
            ),
            "recipe: select step 'b' prefers width, but 'a' prefers clip_similarity; steps with `duplicates` are",
        ),
        (with_(signals={"concepts": {"mark": ["one"]}}), "recipe: signals.concepts.mark.prompts: at least two prompts"),
        (
            with_(signals={"concepts": {"mark": ["one", []]}}),
            "recipe: signals.concepts.mark.prompts.1: a prompt is a t",
        ),
        (
            with_(signals={"concepts": {"mark": ["one", ["a", ""]]}}),
            "recipe: signals.concepts.mark.prompts.1: a prompt",
        ),
        (with_(signals={"concepts": {"mark": ["one", " "]}}), "recipe: signals.concepts.mark.prompts.1"),
        (
            with_(signals={"concepts": {"m": {"prompts": ["a", "b"], "model": "l14"}}}),
            "recipe: signals.concepts.m: there is no model 'l14'",
        ),
        (
            with_(signals={"concepts": {"m": {"prompt": ["a", "b"]}}}),
            "unknown key 'signals.concepts.m.prompt' in the recipe; did you mean 'prompts'?",
        ),
        (with_(signals={"classes": {"kind": {"labels": ["a"]}}}), "recipe: signals.classes.kind.labels"),
        (
            with_(signals={"classes": {"kind": {"labels": ["a", "a "]}}}),
            "recipe: signals.classes.kind.labels: the label 'a' appears twice",
        ),
        (
            with_(signals={"classes": {"kind": {"labels": ["a", ""]}}}),
            "recipe: signals.classes.kind.labels: write a list of texts",
        ),
        (
            with_(signals={"classes": {"kind": {"labels": {"a": ["x"], "b": []}}}}),
            "recipe: signals.classes.kind.labels: write a list of texts",
        ),
        (
            with_(signals={"classes": {"kind": {"labels": {"a": ["x"], "b": ["y"]}, "templates": ["{}"]}}}),
            "recipe: signals.classes.kind: labels with prompts of their own need no templates",
        ),
        (
            with_(signals={"heads": {"taste": {"path": "x.pt", "activation": ["relu", "rel"]}}}),
            "recipe: signals.heads.taste.activation: write none, relu, gelu or tanh, or a list",
        ),
        (
            with_(signals={"classes": {"kind": {"labels": {"a": ["x  y", "z"], "b": ["z", "x y"]}}}}),
            "recipe: signals.classes.kind: two labels have the prompt 'x y / z'",
        ),
        (
            with_(signals={"concepts": {"mark": ["a", "b", ["a "]]}}),
            "recipe: signals.concepts.mark.prompts: the prompt 'a' appears twice",
        ),
        (
            with_(signals={"classes": {"kind": {"labels": ["a", "b"], "templates": ["a photo"]}}}),
            "recipe: signals.classes.kind: a template has exactly one {}",
        ),
        (with_(signals={"heads": {"taste": {"path": "x.pt", "index": -1}}}), "recipe: signals.heads.taste.index"),
        (with_(signals={"targets": {"good": {"images": []}}}), "recipe: signals.targets.good.images"),
        (
            with_(source={"kind": "samples", "paths": ["a.tar"], "url": 0}),
            "recipe: source: url and caption are keys of the samples' json; numbers need kind: urls",
        ),
        (with_(models={"l14": {"name": "ViT-L-14"}}), "recipe: models.l14: pretrained is missing"),
        (with_(fetch={"allow": ["localhost"]}), "recipe: fetch.allow.0: 'localhost' is not address:port"),
        (with_(models={}), "recipe: models: a mapping of 0 keys is not allowed; write a mapping of 1 to 16 keys"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_it(content, message):
    with pytest.raises(RecipeError) as caught:
        parse(content)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("- a\n- b\n", "is not a mapping"), ("a: [", "is not YAML"), ("\x00", "is not YAML"), ("", "is not a mapping")],
)
def test_a_file_that_is_no_recipe(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(RecipeError, match="cannot be read: No such file"):
        load(tmp_path / "other.yaml")


def test_set_changes_one_key(tmp_path):
    path = tmp_path / "recipe.yaml"
    steps = [{"drop": "a", "where": "width < 3"}, {"drop": "top", "keep_top": {"of": "bytes", "fraction": 0.5}}]
    path.write_text(yaml.safe_dump(with_(select=steps)))
    recipe = load(path, ["pack.shard_size=7", "select.top.keep_top.fraction=0.2", "select.0.where=width < 9", "seed=3"])
    assert recipe.pack.shard_size == 7
    assert recipe.seed == 3
    assert recipe.select[1].keep_top.fraction == 0.2
    assert recipe.select[0].where == "width < 9"
    for wrong, message in {
        "pack": "write key=value",
        "select.tpo.where=x": "no step 'tpo'; did you mean 'top'",
        "pack.shardsize=3": "did you mean 'shard_size'",
        "seed.x=3": "seed holds a value, not keys",
        "select.7.where=x": "no step '7'",
    }.items():
        with pytest.raises(RecipeError, match=message):
            load(path, [wrong] if wrong != "seed.x=3" else ["seed=1", wrong])


def test_models_are_frozen_and_round_trip():
    recipe = parse(LEAST)
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 3  # type: ignore[misc]
    assert parse(recipe.model_dump(mode="json")) == recipe


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(Recipe.model_fields)), json_values)
def test_any_value_anywhere_is_a_recipe_or_one_line(key, value):
    try:
        parse({**LEAST, key: value})
    except RecipeError as error:
        assert str(error)  # noqa: PT017 - either outcome is right, an empty line is not


def test_a_recipe_is_read_back_as_it_was_dumped():
    """As `curate retry-failed` does, from the run's folder."""
    signals = {
        "concepts": {"mark": ["a", ["b", "c"]]},
        "classes": {"kind": {"labels": {"a": ["x"], "b": ["y"]}}, "of": {"labels": ["a", "b"]}},
        "heads": {"taste": {"path": "x.pt", "activation": ["relu", "none"]}},
        "targets": {"good": {"images": ["x.jpg"]}},
    }
    recipe = parse(with_(signals=signals))
    assert parse(recipe.model_dump(mode="json")) == recipe


@pytest.mark.parametrize(
    ("keys", "booked", "device"),
    [
        ({}, (None, None, None, None), "auto"),
        ({"embed": {"device": "cuda"}}, (None, None, 1.0, None), "cuda"),
        ({"embed": {"device": "cpu"}}, (None, None, 0.0, None), "cpu"),
        ({"workers": {"embed": {"gpus": 0}}}, (None, None, 0.0, None), "cpu"),
        ({"workers": {"embed": {"count": 8, "cpus": 4, "gpus": 0.5, "memory": 16}}}, (8, 4.0, 0.5, 16.0), "auto"),
    ],
)
def test_what_workers_reserve(keys, booked, device):
    recipe = parse(with_(**keys))
    count, booking = recipe.booking("embed", uses_gpu=True)
    assert (count, booking.cpus, booking.gpus, booking.memory) == booked
    assert recipe.device("embed") == device
    assert recipe.booking("fetch")[1].gpus == 0.0


def test_the_recipe_that_a_run_stores_is_a_recipe(tmp_path):
    stored = parse(dict(LEAST)).as_stored().model_dump(mode="json")
    Store(str(tmp_path)).put_json("recipe.json", stored, sort_keys=False)
    assert load(tmp_path / "recipe.json").as_stored().model_dump(mode="json") == stored
    edited = (tmp_path / "recipe.json").read_text().replace('"seed": 0', '"seed": 7')
    (tmp_path / "recipe.json").write_text(edited)
    assert load(tmp_path / "recipe.json").seed == 7
