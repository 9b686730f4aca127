"""Reads YAML text into plain values: mappings, lists, texts, numbers, true, false and null, with bounds on their size.

Dates and numbers of base 60 (`1:30`) are texts, as in YAML 1.2: a recipe has none, and an impossible date is no error
of Python then. A key that appears twice is an error, because the first of the two values would be lost.
"""

import re
from typing import Any

import yaml

from curate.credentials import redacted
from curate.errors import counted, shortened

MOST_CHARACTERS = 4_000_000
DEEPEST = 30
MOST_VALUES = 200_000
"""Bounds of one text: its characters, how deep values are nested, and values with those that `*alias` repeats."""

_PLAIN = ("null", "bool", "int", "float", "str", "seq", "map", "merge")
_PREFIX = "tag:yaml.org,2002:"
_NUMBERS = {
    "int": re.compile(r"(?:[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*))\Z"),
    "float": re.compile(
        r"(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
    ),
}
"""The forms of numbers, as PyYAML has them, but for those of base 60."""


class Fault(ValueError):
    """The text is not YAML, or is beyond the bounds; one line, without the text itself, which may hold a secret."""


def read(text: str) -> Any:
    """Returns the value of one YAML document.

    Raises:
        Fault: it is not YAML, has tags other than those of plain values, or is beyond the bounds.
    """
    if len(text) > MOST_CHARACTERS:
        raise Fault(f"it has {len(text):,} characters; at most {MOST_CHARACTERS:,} are read")
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader with fewer constructors
    except yaml.YAMLError as error:
        raise Fault(_said(error)) from None


def _said(error: yaml.YAMLError) -> str:
    """Returns the fault and its place, without the line of the text that PyYAML quotes."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return shortened(str(error))
    mark, said = error.problem_mark, [part for part in (error.context, error.problem) if part]
    return f"{shortened(redacted(', '.join(said)))} (line {mark.line + 1}, column {mark.column + 1})"


class _Loader(yaml.SafeLoader):
    """Composes nodes up to the bounds, and makes plain values of them."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._values = 0
        # For each composed node, how many values are in it and how many levels; a list that holds itself has none yet.
        self._sizes: dict[yaml.Node, tuple[int, int]] = {}
        self._deepest_below = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Composes the next node. Raises ComposerError where a bound is passed."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        mark = event.start_mark
        if self._depth >= DEEPEST:
            raise yaml.composer.ComposerError(None, None, f"more than {DEEPEST} levels are nested", mark)
        before, below, self._deepest_below = self._values, self._deepest_below, 0
        is_alias = isinstance(event, yaml.AliasEvent)
        self._depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias:
            if node not in self._sizes:
                raise yaml.composer.ComposerError(None, None, f"the alias *{event.anchor} is inside of itself", mark)
            values, levels = self._sizes[node]
        else:
            values, levels = self._values - before + 1, self._deepest_below + 1
            self._values = before
            if node is not None:
                self._sizes[node] = values, levels
        self._values += values
        self._deepest_below = max(below, levels)
        if self._values > MOST_VALUES:
            raise yaml.composer.ComposerError(None, None, f"more than {MOST_VALUES:,} values, with aliases", mark)
        if self._depth + levels > DEEPEST:
            raise yaml.composer.ComposerError(None, None, f"more than {DEEPEST} levels are nested", mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Composes a mapping. Raises ComposerError where a key appears twice."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    fault = f"the key {shortened(key.value)!r} appears twice in one mapping"
                    raise yaml.composer.ComposerError(None, None, fault, key.start_mark)
                seen.add((key.tag, key.value))
        return node

    def construct_scalar_value(self, node: yaml.ScalarNode) -> Any:
        """Makes a number or a truth value. Raises ConstructorError where a tag (`!!int x`) does not fit the text."""
        construct = yaml.SafeLoader.yaml_constructors[node.tag]
        try:
            return construct(self, node)
        except (ValueError, KeyError, IndexError, OverflowError):
            kind = node.tag.removeprefix(_PREFIX)
            fault = f"{counted(len(node.value), 'character')} that cannot be read as {kind}"
            raise yaml.constructor.ConstructorError(None, None, fault, node.start_mark) from None


# PyYAML's constructors and resolvers are tables of the class.
_Loader.yaml_constructors = {
    tag: made for tag, made in yaml.SafeLoader.yaml_constructors.items() if tag in [_PREFIX + name for name in _PLAIN]
}
_Loader.yaml_constructors[None] = yaml.SafeLoader.construct_undefined
for _name in ("bool", "int", "float"):
    _Loader.add_constructor(_PREFIX + _name, _Loader.construct_scalar_value)
_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, _NUMBERS.get(tag.removeprefix(_PREFIX), pattern))
        for tag, pattern in resolvers
        if tag.removeprefix(_PREFIX) in _PLAIN
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
