"""Bounds the text that a predicate makes of a row, from the predicate alone, before it is computed on any row.

DuckDB looks at its limits of time and memory between vectors of 2,048 rows, so a single call (`lpad(caption, 2e9)`)
passes them. Each expression therefore has a greatest size: `times` × the longest text of the row + `plus` characters.
Functions that make text of a given length, or of a pattern, take that argument as a constant.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MOST_TIMES = 64
"""How many times the longest text of a row the result of one expression may be."""

MOST_PLUS = 100_000
"""Characters that one expression may add to that."""

MOST_TIMES_IN_ALL = 256
"""The same of all expressions of a predicate together; equal ones count once."""

MOST_PATTERN = 1000
"""Characters of a regular expression, with its counted repetitions written out: `(ab){3}` has 6."""

MOST_COMPARED = 10_000_000
"""Product of the lengths of two texts of which a function compares every part with every other."""

LONGEST_ROW = 100_000
"""Characters of the longest text of a row, as far as comparisons of two texts are bounded: that of a caption."""

_FIXED_NAMES = """
    + - * / // % ** ^ & | ~ << >> @ ~~ !~~ ~~* !~~* ~~~ like_escape not_like_escape ilike_escape not_ilike_escape
    abs cbrt ceil ceiling exp floor hamming isfinite isinf isnan ln log log10 log2 mod pi pow power round sign sqrt
    trunc xor bit_count array_length ascii char_length character_length contains ends_with instr len length md5 ord
    position prefix regexp_full_match regexp_matches sha256 starts_with strlen strpos suffix unicode
    damerau_levenshtein editdist3 jaccard jaro_similarity jaro_winkler_similarity levenshtein mismatches
    array_contains cardinality list_contains list_has list_has_all list_has_any list_sum map_contains
    json_array_length json_contains json_exists json_type json_valid date_diff date_part date_sub date_trunc datediff
    day dayofweek dayofyear epoch epoch_ms hour make_date minute month quarter second strptime to_days to_hours
    to_minutes to_months to_seconds to_weeks to_years try_strptime week weekday year
"""

_FIXED = frozenset(_FIXED_NAMES.split())
"""Functions whose values have at most `_FIXED_SIZE` characters."""

_FIXED_SIZE = 100

_FIXED_TYPES = re.compile(
    r"(U?(TINY|SMALL|BIG|HUGE)?INT(EGER|[1248])?|LONG|SHORT|SIGNED|REAL|FLOAT[48]?|DOUBLE|NUMERIC|DECIMAL|DEC|"
    r"BOOL(EAN)?|LOGICAL|DATE|TIME|TIMESTAMP.*|DATETIME|INTERVAL|UUID).*",
    re.IGNORECASE,
)

_ESCAPED = 6
"""Characters that one character may become where a value is written as text or as JSON: `\\u0001`."""

_BINARY = 32
"""Characters that one character may become in a cast: four bytes of eight bits each, written as 0 and 1."""

_PER_PIECE = 17
"""Times the size of a text that a list of its characters takes: each text in a list has 16 bytes of its own."""

_REGULAR = frozenset({"regexp_extract", "regexp_full_match", "regexp_matches", "regexp_replace", "~"})
_QUADRATIC = frozenset({"damerau_levenshtein", "editdist3", "levenshtein"})
_SPLITTING = frozenset({"split", "str_split", "string_split"})
_JSON = frozenset({"->", "->>", *(f"json_{name}" for name in ("extract", "extract_path", "keys"))})
_JSON_TEXT = frozenset({"json_extract_path_text", "json_extract_string"})


class Refused(ValueError):
    """A predicate that could make too much of a row; one line."""


@dataclass(frozen=True)
class Size:
    """The greatest size of a value: `times` × the longest text of the row, and `plus` characters."""

    times: float
    plus: float

    def __add__(self, other: "Size") -> "Size":
        return Size(self.times + other.times, self.plus + other.plus)

    def grown(self, factor: float, plus: float = 0) -> "Size":
        """Returns the size of a value in which each character became `factor`, and `plus` were added."""
        return Size(self.times * factor, self.plus * factor + plus)

    def at_most(self, characters: float) -> "Size":
        """Returns the size of the value after a cut."""
        return Size(0, min(self.plus, characters)) if not self.times else Size(0, characters)

    @property
    def characters(self) -> float:
        """The size where the longest text of the row has `LONGEST_ROW` characters."""
        return self.times * LONGEST_ROW + self.plus


def check(tree: Any) -> None:
    """Checks an expression of DuckDB's JSON, whose classes and functions are those that `predicate` accepts.

    Raises:
        Refused: the first expression that is beyond the bounds.
    """
    sizes: dict[str, Size] = {}
    greatest(tree, sizes)
    in_all = sum(size.times for size in sizes.values())
    if in_all > MOST_TIMES_IN_ALL:
        raise Refused(
            f"its functions make {in_all:,.0f} times as much text as a row has; at most {MOST_TIMES_IN_ALL} are allowed"
        )


def children(expression: Any) -> Iterator[Any]:
    """Yields the expressions directly inside an expression of DuckDB's JSON."""
    waiting = list(expression.values()) if isinstance(expression, dict) else [expression]
    while waiting:
        value = waiting.pop(0)
        if isinstance(value, dict):
            if "class" in value:
                yield value
            else:
                waiting[:0] = value.values()
        elif isinstance(value, list):
            waiting[:0] = value


def greatest(expression: Any, sizes: dict[str, Size]) -> Size:
    """Returns the greatest size of an expression's value, and adds it and those inside it to `sizes`.

    Raises:
        Refused: an expression is beyond the bounds of one.
    """
    inner = [greatest(child, sizes) for child in children(expression)]
    kind = expression["class"]
    if kind == "COLUMN_REF":
        return Size(1, 0)
    if kind == "CONSTANT":
        return Size(0, len(_text(expression)))
    if kind == "FUNCTION":
        name = str(expression["function_name"]).lower()
        size = _of_function(name, list(children(expression)), inner)
    elif kind == "CAST":
        size = _of_cast(expression, inner)
    elif kind == "CASE" or (kind == "OPERATOR" and expression["type"] == "OPERATOR_COALESCE"):
        # One of them is the value; each is computed.
        size = Size(max(one.times for one in inner), max(one.plus for one in inner))
    elif kind in ("COMPARISON", "CONJUNCTION", "BETWEEN") or (
        kind == "OPERATOR" and not str(expression["type"]).startswith(("ARRAY", "STRUCT"))
    ):
        size = Size(0, _FIXED_SIZE)
    else:
        size = sum(inner, Size(0, 0))
    if size.times > MOST_TIMES or size.plus > MOST_PLUS:
        what = f"{expression['function_name']}()" if kind == "FUNCTION" else kind.lower()
        raise Refused(
            f"{what} could make {size.times:,.0f} times the text of a row and {size.plus:,.0f} characters; at most "
            f"{MOST_TIMES} times and {MOST_PLUS:,} characters are allowed"
        )
    # Equal expressions are computed once.
    sizes[json.dumps(_without_places(expression), sort_keys=True)] = size
    return size


def _of_function(name: str, arguments: list[Any], sizes: list[Size]) -> Size:
    _check_patterns(name, arguments)
    if name in _QUADRATIC:
        compared = math.prod(size.characters for size in sizes)
        if compared > MOST_COMPARED:
            raise Refused(
                f"{name}() compares every character with every other; cut its texts, as in "
                f"{name}(left(caption, 1000), left(url, 1000))"
            )
    if name in _FIXED:
        return Size(0, _FIXED_SIZE)
    if name in ("lpad", "rpad"):
        return Size(0, _length(name, arguments[1:2]))
    if name in ("left", "right", "substr", "substring"):
        length = _constant(arguments[-1:]) if len(arguments) > (1 if name in ("left", "right") else 2) else None
        is_cut = length is not None and re.fullmatch(r"[0-9]{1,9}", length)
        return sizes[0].at_most(int(str(length))) if is_cut else sizes[0]
    if name == "replace":
        return sizes[0].grown(max(1, len(_needed(name, arguments[2:3], "the text to put in"))))
    if name == "regexp_replace":
        put_in = _needed(name, arguments[2:3], "the text to put in")
        repeated = len(re.findall(r"\\[0-9]", put_in))
        return sizes[0].grown(1 + repeated + len(put_in), len(put_in))
    if name in _SPLITTING:
        return sizes[0].grown(_PER_PIECE, _PER_PIECE)
    if name in _JSON or name in _JSON_TEXT:
        is_json = arguments and str(arguments[0].get("function_name", "")).lower() in _JSON
        return sizes[0].grown(1 if is_json else _ESCAPED, _FIXED_SIZE)
    if name == "concat_ws" and sizes:
        return sum(sizes[1:], Size(0, 0)) + sizes[0].grown(len(sizes))
    return sum(sizes, Size(0, _PER_PIECE * len(sizes)))


def _of_cast(expression: Any, inner: list[Size]) -> Size:
    target = expression.get("type_expr") or {}
    if target.get("class") == "TYPE" and not target.get("children") and _FIXED_TYPES.fullmatch(target["type_name"]):
        return Size(0, _FIXED_SIZE)
    size = sum(inner, Size(0, 0))
    # A column of text stays what it is; the text of a list or a structure has quotes and escapes.
    to_text = str(target.get("type_name", "")).upper() in ("VARCHAR", "TEXT", "STRING", "CHAR", "BPCHAR")
    if to_text and expression["child"]["class"] == "COLUMN_REF":
        return size.grown(_ESCAPED, _FIXED_SIZE)
    return size.grown(_BINARY, _FIXED_SIZE)


def _check_patterns(name: str, arguments: list[Any]) -> None:
    if name in _REGULAR and len(arguments) > 1:
        pattern = _needed(name, arguments[1:2], "the regular expression")
        if (size := written_out(pattern)) > MOST_PATTERN:
            raise Refused(
                f"the regular expression has {size:,} characters with its repetitions written out; at most "
                f"{MOST_PATTERN:,} are allowed"
            )


def written_out(pattern: str) -> int:
    """Returns the number of characters of a regular expression in which counted repetitions are written out.

    A class counts as one character, and a repetition without an end as its least count and one more.
    """
    open_groups, last = [0], [0]
    for token in re.finditer(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]?|\{([0-9]*)(,?)([0-9]*)\}|[()]|.", pattern, re.DOTALL):
        text = token[0]
        if text == "(":
            open_groups.append(0)
            last.append(0)
        elif text == ")" and len(open_groups) > 1:
            inside = open_groups.pop()
            last.pop()
            open_groups[-1] += inside
            last[-1] = inside
        elif text.startswith("{") and len(text) > 1 and (token[1] or token[3]):
            times = max(int(token[1] or 0) + bool(token[2] and not token[3]), int(token[3] or 0), 1)
            open_groups[-1] += last[-1] * (times - 1)
            last[-1] *= times
        else:
            open_groups[-1] += 1
            last[-1] = 1
    return sum(open_groups)


def _length(name: str, argument: list[Any]) -> int:
    length = _constant(argument)
    if length is None or not re.fullmatch(r"[+-]?[0-9]{1,18}", length) or int(length) > MOST_PLUS:
        raise Refused(f"{name}(): the length has to be a number that is written out, at most {MOST_PLUS:,}")
    return max(0, int(length))


def _needed(name: str, argument: list[Any], what: str) -> str:
    text = _constant(argument)
    if text is None:
        raise Refused(f"{name}(): {what} has to be written out: its size decides the size of the result")
    return text


def _constant(argument: list[Any]) -> str | None:
    """The text of an argument that is a constant; None where it is computed."""
    return _text(argument[0]) if argument and argument[0]["class"] == "CONSTANT" else None


def _text(constant: Any) -> str:
    literal = constant.get("literal") or {}
    return str(literal.get("text", ""))


def _without_places(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _without_places(value) for key, value in tree.items() if not key.startswith("query_location")}
    return [_without_places(value) for value in tree] if isinstance(tree, list) else tree
