"""Every key of a recipe has bounds, and a value beyond them is one line that names key, value and what is allowed.

The recipe's own JSON schema generates the cases: of each key, a value of each wrong sort.
"""

import copy
import json
import math
import re
from collections import Counter
from typing import Any

import pytest

from curate.errors import RecipeError
from curate.recipe import Recipe, parse

SCHEMA: dict[str, Any] = Recipe.model_json_schema()

EXAMPLE: dict[str, Any] = {
    "version": 1,
    "source": {"paths": ["list.csv"], "uid": "uid", "keep_columns": ["a"]},
    "output": "run",
    "fetch": {
        "allow": ["127.0.0.1:80"],
        "blocklists": ["bad.txt"],
        "phash_blocklists": ["near.txt"],
        "known_results": ["earlier"],
    },
    "models": {
        "pocket": {"name": "pocket"},
        "other": {"name": "pocket"},
        "eye": {
            "name": "eye.pt",
            "torchscript": {"trust": True, "size": [32, 32], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
        },
    },
    "dedup": {"floors": {"eye": 0.8}, "text_floors": {"other": 0.9}},
    "signals": {
        "concepts": {"mark": {"prompts": ["a", ["b", "c"]]}},
        "classes": {
            "kind": {"labels": {"x": ["y"], "z": ["w"]}},
            "listed": {"labels": ["a", "b"], "templates": ["a {}"]},
        },
        "heads": {"taste": {"path": "x.pt", "activation": ["none"]}},
        "phrases": {"bad": {"phrases": ["a"], "file": "words.txt"}},
        "targets": {"good": {"images": ["x.jpg"]}},
    },
    "against": {
        "val": {"image_embedding": ["a.npy"], "pdq": ["b.txt"], "phash": ["c.txt"], "sha256": ["d.txt"]},
        "last": {"result": "earlier"},
        "pictures": {"images": ["folder"]},
    },
    "select": [
        {"drop": "small", "where": "width < 3"},
        {"drop": "top", "keep_top": {"of": "width", "fraction": 0.5}, "over": "pool"},
        {"drop": "draw", "keep_random": {"fraction": 0.5}},
        {"drop": "seen", "matches": {"set": "pictures", "by": "sha256"}},
        {"drop": "leak", "matches": {"set": "val", "by": "pdq", "within": 31}},
        {
            "drop": "again",
            "matches": {"set": "last", "all": [{"by": "image_embedding", "above": 0.95}, {"by": "phash", "within": 3}]},
        },
        {"drop": "near", "duplicates": {"by": "image_embedding", "above": 0.95}},
        {"drop": "alike", "duplicates": {"by": "phash", "within": 3}},
        {"drop": "looking_alike", "duplicates": {"by": "pdq", "within": 31}},
        {
            "drop": "all_alike",
            "duplicates": {"all": [{"by": "image_embedding", "above": 0.95}, {"by": "phash", "within": 3}]},
        },
    ],
    "pack": {"layouts": ["webdataset"]},
    "workers": {"fetch": {"count": 1}},
    "storage": {"endpoint": "http://127.0.0.1:9000"},
}
EXAMPLE |= {section: {} for section in Recipe.model_fields if section not in ("seed", "part_size", *EXAMPLE)}


def resolved(schema):
    while "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    return schema


def options(schema):
    """The branches of a union, however deep; a schema that is none is its only branch."""
    schema = resolved(schema)
    return [branch for inner in schema["anyOf"] for branch in options(inner)] if "anyOf" in schema else [schema]


def keys(schema, path=()):
    """Every place in a recipe with its schema: keys, entries of lists ([]) and of mappings (<name>)."""
    for branch in options(schema):
        inside = [(name, inner) for name, inner in branch.get("properties", {}).items()]
        named = [*branch.get("patternProperties", {}).values(), branch.get("additionalProperties")]
        inside += [("<name>", inner) for inner in named if isinstance(inner, dict)]
        if isinstance(branch.get("items"), dict):
            inside.append(("[]", branch["items"]))
        for name, inner in inside:
            yield (*path, name), inner
            yield from keys(inner, (*path, name))


KEYS = dict(keys(SCHEMA))


def places(content, path):
    """The places of the example that a path names, each as the words that lead there, and whether the key is there."""
    if not path:
        yield (), True
        return
    word, *rest = path
    if word == "[]":
        inside = list(enumerate(content)) if isinstance(content, list) else []
    elif word == "<name>":
        inside = list(content.items()) if isinstance(content, dict) else []
    elif not isinstance(content, dict):
        inside = []
    elif word in content:
        inside = [(word, content[word])]
    else:
        inside = []
        if not rest:
            yield (word,), False
    for name, inner in inside:
        for place, is_there in places(inner, rest):
            yield (name, *place), is_there


def place_of(path):
    """The place in the example that a path names, one that holds a value where there is one; None where none is."""
    found = sorted(places(EXAMPLE, path), key=lambda place: not place[1])
    return found[0][0] if found else None


def with_value(place, value):
    content = copy.deepcopy(EXAMPLE)
    at = content
    for word in place[:-1]:
        at = at[word]
    at[place[-1]] = value
    return content


def wrong_values(schema):
    """Values of each wrong sort, by the sort's name."""
    branches = options(schema)
    kinds = {branch.get("type") for branch in branches}
    numbers = [branch for branch in branches if branch.get("type") in ("integer", "number") and "enum" not in branch]
    texts = [branch for branch in branches if branch.get("type") == "string" and "enum" not in branch]
    if not kinds & {"array", "object"}:
        yield "a list", [[1]]
        yield "a mapping", {"a": {"b": 1}}
    deep: Any = 1
    for _ in range(25):
        deep = [deep]
    yield "nested", deep
    yield "not a number", math.nan
    yield "infinite", math.inf
    yield "huge", 10**30
    if "boolean" not in kinds:
        yield "a truth value", True
    if "null" not in kinds:
        yield "null", None
    if not numbers:
        yield "a number", 13.5
    elif "integer" in kinds and "number" not in kinds:
        yield "a fraction", 13.5
    if numbers:
        lowest = min(b.get("minimum", b.get("exclusiveMinimum", 0)) - ("minimum" in b) for b in numbers)
        highest = max(b.get("maximum", b.get("exclusiveMaximum", 0)) + ("maximum" in b) for b in numbers)
        yield "below", lowest
        yield "above", highest
        if highest < 1e13:
            yield "far above", 1e13
    yield "control characters", "a\x00b"
    yield "other digits", "٣٣\x1b"
    yield "a line end at its end", "a\x07\n"
    yield "too long", "x" * (max([branch.get("maxLength", 0) for branch in texts], default=0) + 1)
    patterns = [branch.get("pattern", "").replace(r"\p{Cc}", r"\x00-\x1f\x7f-\x9f") for branch in texts]
    if not any(re.search(pattern, " ") for pattern in patterns):
        yield "blank", " "


CASES = [
    pytest.param(place, sort, value, id=f"{'.'.join(map(str, place))}: {sort}")
    for path, schema in KEYS.items()
    if (place := place_of(path))
    for sort, value in wrong_values(schema)
]


def test_every_key_has_bounds():
    for path, schema in KEYS.items():
        for branch in options(schema):
            if "enum" in branch or "const" in branch:
                continue
            kind, where = branch.get("type"), ".".join(path)
            if kind in ("integer", "number"):
                assert {"minimum", "exclusiveMinimum"} & set(branch), f"{where} has no least value"
                assert {"maximum", "exclusiveMaximum"} & set(branch), f"{where} has no greatest value"
            elif kind == "string":
                assert "maxLength" in branch, f"{where} has no greatest length: use a type of curate.keys, such as Text"
                assert "allowed" in branch, f"{where} does not say what is allowed: see curate.keys.Allowed"
            elif kind == "array":
                assert "maxItems" in branch, f"{where} has no greatest number of entries"
            elif kind == "object" and "properties" not in branch:
                assert "maxProperties" in branch or not branch.get("patternProperties"), f"{where} has no most keys"
            else:
                assert kind in ("boolean", "null", "object"), f"{where} takes anything"


def test_the_example_is_right_and_reaches_every_key():
    parse(copy.deepcopy(EXAMPLE))
    missed = {".".join(path) for path in KEYS if place_of(path) is None}
    assert not missed
    sorts = Counter(case.values[1] for case in CASES)
    assert len(CASES) > 900
    assert sorts["below"] == sorts["above"] > 30
    assert sorts["blank"] > 20


@pytest.mark.parametrize(("place", "sort", "value"), CASES)
def test_a_wrong_value_is_one_line_that_names_its_key(place, sort, value):
    with pytest.raises(RecipeError) as caught:
        parse(with_value(place, copy.deepcopy(value)))
    said = str(caught.value)
    assert len(said) < 700
    assert said.isprintable()
    key = next(str(word) for word in reversed(place) if not isinstance(word, int))
    assert key in said or "select step" in said
    allowed = r"write |at least|(none|neither) may be empty|a list of these|only|allowed|not in|not address"
    assert re.search(allowed, said), said


@pytest.mark.parametrize("name", ["Fetch", "a b", "", "a" * 101, "a\n", "ä", "1a", 7, None, "a.b", "\x00"])
@pytest.mark.parametrize("section", ["models", "workers", "signals.concepts"])
def test_names_of_entries_have_bounds(section, name):
    content = copy.deepcopy(EXAMPLE)
    *path, last = section.split(".")
    at = content[path[0]] if path else content
    at[last] = {name: next(iter(at[last].values()))}
    with pytest.raises(RecipeError, match=f"recipe: {section}: ") as caught:
        parse(content)
    assert str(caught.value).isprintable()


def test_signals_may_be_left_as_they_were():
    """Types with bounds change no stored recipe."""
    recipe = parse(copy.deepcopy(EXAMPLE))
    assert parse(json.loads(recipe.model_dump_json())) == recipe


def test_an_unknown_key_may_look_like_a_word_of_pydantic():
    with pytest.raises(RecipeError, match=r"unknown key 'source\.\[key\]' in the recipe"):
        parse({"version": 1, "source": {"paths": ["a.csv"], "[key]": 1}, "output": "run"})
