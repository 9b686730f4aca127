"""Writes the one line for a wrong recipe: the key, its value, and what is allowed, from the models' own schema."""

import functools
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from curate.credentials import redacted
from curate.errors import counted, nearest
from curate.store import Json

_OWN_WORDS = ("value_error", "assertion_error")
"""Kinds of pydantic's errors whose text comes from a validator of ours."""

_LONGEST_VALUE, _LONGEST_KEY = 80, 200


def first(error: ValidationError, content: Mapping[str, Any], model: type[BaseModel], moved: Mapping[str, str]) -> str:
    """Returns one line for the first fault; for an unknown key, with the nearest known one.

    Args:
        error: from the model.
        content: what was read.
        model: the recipe's.
        moved: keys of earlier recipes, with those that replace them.
    """
    faults = error.errors(include_url=False)
    # A misspelt key may also be reported as missing: the misspelling is the fault to name.
    fault = next((fault for fault in faults if fault["type"] == "extra_forbidden"), faults[0])
    root = _schema(model)
    words, schema = _at(root, fault["loc"], is_unknown=fault["type"] == "extra_forbidden")
    step = _step_at(words, content)
    place = f"select step {step!r}" if step else "the recipe"
    where = _cut(".".join(map(str, words[2 if step else 0 :])), _LONGEST_KEY)
    if fault["type"] == "extra_forbidden":
        if where in moved:
            return f"{where!r} in the recipe is now {moved[where]!r}"
        # The keys of these sections depend on the installed packages.
        missing = "; is a package that brings it not installed?" if words[:-1] in (["signals"], ["pixels"]) else ""
        known = _properties(root, schema)
        return f"unknown key {where!r} in {place}{nearest(str(words[-1])[:_LONGEST_KEY], known)}{missing}"
    if fault["type"] == "missing":
        return f"{place} lacks {where!r}"
    if fault["type"] in _OWN_WORDS:
        message = fault["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    else:
        message = f"{shown(fault['input'])} is not allowed; write {allowed(root, schema)}"
    return ": ".join(("recipe", *([place] if step else []), *([where] if where else []), message))


@functools.cache
def _schema(model: type[BaseModel]) -> Json:
    return model.model_json_schema()


def shown(value: Any) -> str:
    """Returns a value for a message, short, on one line and without credentials."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return f"a mapping of {counted(len(value), 'key')}"
    if isinstance(value, list | tuple):
        return f"a list of {counted(len(value), 'entry', 'entries')}"
    if isinstance(value, int) and value.bit_length() > 200:
        return f"a number of {value.bit_length():,} bits"
    text = repr(redacted(value) if isinstance(value, str) else value)
    return _cut(text.encode("ascii", "backslashreplace").decode() if not text.isprintable() else text, _LONGEST_VALUE)


def allowed(root: Json, schema: Json) -> str:
    """Returns the description of the values that a part of a JSON schema takes.

    Args:
        root: the whole schema, with the definitions.
        schema: the part.
    """
    schema = _resolved(root, schema)
    if "allowed" in schema:
        return str(schema["allowed"])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(allowed(root, option) for option in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return " or ".join(str(value) for value in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type")
    if kind in ("integer", "number"):
        return _range("a whole number" if kind == "integer" else "a number", schema)
    if kind == "string":
        return f"text of at most {schema['maxLength']:,} characters" if "maxLength" in schema else "text"
    if kind == "array":
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        size = f" of {least:,} to {most:,} entries" if most else ""
        return f"a list{size}, each {allowed(root, schema.get('items', {}))}"
    if kind == "object":
        most = schema.get("maxProperties")
        return f"a mapping of {schema.get('minProperties', 0):,} to {most:,} keys" if most else "a mapping of keys"
    return {"boolean": "true or false", "null": "null"}.get(str(kind), "another value")


def _range(noun: str, schema: Json) -> str:
    least, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    most, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    if least is not None and most is not None:
        return f"{noun} from {least:,g} to {most:,g}" if noun == "a number" else f"{noun} from {least:,} to {most:,}"
    low = f"above {above:,}" if above is not None else f"from {least:,}" if least is not None else ""
    high = f"below {below:,}" if below is not None else f"at most {most:,}" if most is not None else ""
    return f"{noun} {', '.join(filter(None, (low, high)))}".strip()


def _at(root: Json, location: tuple[int | str, ...], *, is_unknown: bool) -> tuple[list[int | str], Json]:
    """Returns the keys of an error's location, and the schema there; of an unknown key, the section's schema.

    pydantic's locations also name the branch of a union that was tried (`url.int`); these words are left out.
    """
    words: list[int | str] = []
    at = root
    for number, word in enumerate(location):
        is_last = number == len(location) - 1
        if is_last and is_unknown:
            return [*words, word], at
        if location[number + 1 :] == ("[key]",) and not is_unknown:
            # The name of an entry is wrong, and not its value.
            return words, {"allowed": _key_words(root, at)}
        inner = _inside(root, at, word)
        if inner is not None:
            words.append(word)
            at = inner
    return words, at


def _inside(root: Json, schema: Json, word: int | str) -> Json | None:
    """Returns the schema of a key or an entry below a schema; None where it takes no such key."""
    schema = _resolved(root, schema)
    for option in schema.get("anyOf", []):
        inner = _inside(root, option, word)
        if inner is not None:
            return inner
    if isinstance(word, int):
        items: Json | None = schema.get("items")
        return items
    named: Json | None = schema.get("properties", {}).get(word)
    if named is not None:
        return named
    for entries in (*schema.get("patternProperties", {}).values(), schema.get("additionalProperties")):
        if isinstance(entries, dict):
            return entries
    return None


def _key_words(root: Json, schema: Json) -> str:
    names = _resolved(root, schema).get("propertyNames")
    return (
        allowed(root, names) if names else "a name of at most 100 lower-case letters, digits and _, the first a letter"
    )


def _properties(root: Json, schema: Json) -> list[str]:
    """The keys that a schema takes; of a union, those of its last section."""
    schema = _resolved(root, schema)
    found = [_properties(root, option) for option in schema.get("anyOf", [])]
    return [*schema.get("properties", {}), *next((names for names in reversed(found) if names), [])]


def _resolved(root: Json, schema: Json) -> Json:
    """A schema, or the definition that it refers to."""
    while "$ref" in schema:
        schema = {
            **root["$defs"][schema["$ref"].rpartition("/")[2]],
            **{k: v for k, v in schema.items() if k != "$ref"},
        }
    return schema


def _step_at(where: list[int | str], content: Mapping[str, Any]) -> str | None:
    """The name of the step that a location in the recipe belongs to; None where there is none."""
    if where[:1] != ["select"] or len(where) < 2:
        return None
    step = content["select"][where[1]]
    name = step.get("drop") if isinstance(step, dict) else None
    return name if isinstance(name, str) and len(name) <= 100 and name.isprintable() else None


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
