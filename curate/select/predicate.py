"""Checks a `where` predicate before a run starts, so that no run fails late because of a misspelt column.

A `where` is one SQL expression over the row's own columns, in DuckDB's dialect. Only listed expressions are accepted:
those of the classes in `EXPRESSIONS`, and functions whose value depends on their arguments alone (`FUNCTIONS`).
"""

# ruff: noqa: S608 - statements are put together from our own words and from predicates that were checked

import functools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import duckdb
import pyarrow as pa

from curate.errors import RecipeError, nearest
from curate.select import predicate_size
from curate.select.database import connect, one_line
from curate.select.steps.contract import Step

MOST_CHARACTERS = 20_000
"""The length of a predicate."""

DEEPEST = 60
"""Levels of brackets in a predicate's text. DuckDB's parser takes memory that grows with their square."""

MOST_BRACKETS = 1000
"""Opening brackets in all, those in texts among them."""

DEEPEST_CALL = 100
MOST_EXPRESSIONS = 3000
"""Levels of expressions inside each other, and their number."""

EXPRESSIONS = frozenset(
    {
        "BETWEEN",
        "CASE",
        "CAST",
        "COLLATE",
        "COLUMN_REF",
        "COMPARISON",
        "CONJUNCTION",
        "CONSTANT",
        "FUNCTION",
        "OPERATOR",
        "TYPE",
    }
)
"""The accepted expression classes of DuckDB; subqueries, windows, stars, lambdas and parameters are not among them."""

_ALLOWED = """
    + - * / // % ** ^ || & | ~ << >> @
    ~~ !~~ ~~* !~~* ~~~ like_escape not_like_escape ilike_escape not_ilike_escape
    abs cbrt ceil ceiling exp floor greatest hamming isfinite isinf isnan least ln log log10 log2 mod pi pow
    power round sign sqrt trunc xor bit_count
    if ifnull nullif coalesce
    array_length ascii char_length character_length concat concat_ws contains ends_with instr lcase left len
    length lower lpad ltrim md5 ord position prefix regexp_extract regexp_full_match regexp_matches
    regexp_replace replace reverse right rpad rtrim sha256 split split_part starts_with str_split string_split
    strip_accents strlen strpos substr substring suffix translate trim ucase unicode upper
    damerau_levenshtein editdist3 jaccard jaro_similarity jaro_winkler_similarity levenshtein mismatches
    array_contains array_extract cardinality element_at list_contains list_element list_extract list_has
    list_has_all list_has_any list_max list_min list_sum list_value map_contains map_extract map_keys
    map_values row struct_extract struct_pack
    -> ->> json_array_length json_contains json_exists json_extract json_extract_path json_extract_path_text
    json_extract_string json_keys json_type json_valid
    date_diff date_part date_sub date_trunc datediff day dayofweek dayofyear epoch epoch_ms hour make_date
    minute month quarter second strptime to_days to_hours to_minutes to_months to_seconds to_weeks to_years
    try_strptime week weekday year
"""

FUNCTIONS = frozenset(_ALLOWED.split())
"""The functions and operators that a predicate may call."""

_CLOCK = frozenset(
    {
        "current_date",
        "current_time",
        "current_timestamp",
        "get_current_time",
        "get_current_timestamp",
        "localtime",
        "localtimestamp",
        "now",
        "today",
        "transaction_timestamp",
    }
)


def check(step: Step[str], columns: Mapping[str, pa.DataType]) -> None:
    """Checks a predicate against the columns that its run will have.

    Args:
        step: its keys are the predicate.
        columns: their types in predicates (`curate.columns.PairColumns.types`).

    Raises:
        RecipeError: the first thing that is wrong, in one line that names the step.
    """
    by_name = {name.lower(): name for name in columns}
    fields = {}
    for reference in references(step):
        name = by_name.get(reference.lower())
        if name is None:
            raise step.wrong(f"where: there is no column {reference!r}{nearest(reference.lower(), columns)}")
        fields[name] = columns[name]
    # One row, so that DuckDB also evaluates constants: `width < 'abc'`.
    row = {"": pa.nulls(1, pa.int64()), **{name: pa.nulls(1, kind) for name, kind in fields.items()}}
    with _database().cursor() as con:
        try:
            con.register("pairs", pa.table(row))
            asked = con.sql(f"SELECT {bracketed(step.keys)} FROM pairs")
            asked.fetchall()
        except duckdb.Error as error:
            raise step.wrong(f"where: {one_line(error)}") from error
        kind = str(asked.types[0])
    if kind != "BOOLEAN":
        raise step.wrong(f"where: {step.keys.strip()!r} is a value ({kind}), not a condition")


def references(step: Step[str]) -> list[str]:
    """The columns that a predicate names; checks that it is a single accepted expression.

    It is parsed with and without brackets, because text can parse in one of the two ways without being an expression
    (`a) OR (b`, `a ORDER BY b`).

    Raises:
        RecipeError: it is not a single accepted expression.
    """
    _check_text(step)
    with _database().cursor() as con:
        _parsed(con, step, step.keys)
        tree = _parsed(con, step, bracketed(step.keys))
    names = []
    for expression in _expressions(step, tree):
        kind, name = expression["class"], str(expression.get("function_name", "")).lower()
        if kind == "FUNCTION" and expression["schema"]:
            raise step.wrong(f"where: write {name}({expression['schema']}), not {expression['schema']}.{name}()")
        if kind == "FUNCTION" and name not in FUNCTIONS:
            if name in _CLOCK:
                raise step.wrong(f"where: {name}() depends on the time of the run")
            raise step.wrong(f"where: the function {name}() is not allowed here{_hint(name)}")
        if kind == "COLUMN_REF":
            reference = expression["column_names"][0]
            if reference.lower() in _CLOCK:
                raise step.wrong(f"where: {reference} depends on the time of the run")
            names.append(reference)
        elif kind not in EXPRESSIONS or expression["type"] == "GROUPING_FUNCTION":
            what = str(expression["type"]).lower().replace("_", " ")
            raise step.wrong(f"where: {what} is not allowed here: a predicate sees one row")
    try:
        predicate_size.check(tree)
    except predicate_size.Refused as error:
        raise step.wrong(f"where: {error}") from None
    return list(dict.fromkeys(names))


@functools.cache
def _database() -> duckdb.DuckDBPyConnection:
    """A database without tables, in which all predicates of a process are parsed and tried: opening one takes 20 ms."""
    return connect(threads=1)


def bracketed(where: str) -> str:
    """A predicate in brackets, as an operand of a statement."""
    # A predicate may end in a comment, so the closing bracket is on a line of its own.
    return f"(\n{where}\n)"


def _parsed(con: duckdb.DuckDBPyConnection, step: Step[str], where: str) -> Any:
    statement = f"SELECT 1 FROM pairs WHERE {where}"
    ((tree,),) = con.execute("SELECT json_serialize_sql(?)", [statement]).fetchall()
    try:
        parsed = json.loads(tree)
    except RecursionError:
        raise _too_deep(step) from None
    if parsed["error"]:
        raise step.wrong(f"where: {' '.join(parsed['error_message'].split())}")
    if len(parsed["statements"]) != 1:
        raise step.wrong("where: more than one statement")
    node = parsed["statements"][0]["node"]
    if node["type"] != "SELECT_NODE" or node.get("where_clause") is None:
        raise step.wrong("where: a set of rows is not allowed here: a predicate sees one row")
    return node["where_clause"]


def _check_text(step: Step[str]) -> None:
    """Raises RecipeError for a text that DuckDB's parser should not see."""
    # However the text quotes them, there are not enough brackets to fill the memory.
    if (number := len(re.findall(r"[(\[{]", step.keys))) > MOST_BRACKETS:
        raise step.wrong(
            f"where: it has {number:,} brackets; at most {MOST_BRACKETS:,} are allowed: write several steps"
        )
    deepest = depth = 0
    # Brackets in texts, names and comments are none.
    for sign in re.sub(r"'[^']*'|\"[^\"]*\"|--[^\n]*|/\*.*?\*/", " ", step.keys, flags=re.DOTALL):
        depth += (sign in "([{") - (sign in ")]}")
        deepest = max(deepest, depth)
    if deepest > DEEPEST:
        raise _too_deep(step)


def _too_deep(step: Step[str]) -> RecipeError:
    return step.wrong(
        f"where: more than {DEEPEST} brackets or {DEEPEST_CALL} expressions are inside each other; write several steps"
    )


def _expressions(step: Step[str], tree: Any) -> Iterator[dict[str, Any]]:
    """Yields every expression in a tree of DuckDB's JSON, each before those inside it.

    Raises:
        RecipeError: there are too many, or they are nested too deeply.
    """
    waiting, number = [(1, tree)], 0
    while waiting:
        depth, expression = waiting.pop()
        number += 1
        if depth > DEEPEST_CALL:
            raise _too_deep(step)
        if number > MOST_EXPRESSIONS:
            raise step.wrong(f"where: it has more than {MOST_EXPRESSIONS:,} expressions; write several steps")
        yield expression
        waiting += [(depth + 1, child) for child in reversed(list(predicate_size.children(expression)))]


def _hint(name: str) -> str:
    hint = nearest(name, FUNCTIONS)
    return hint if "did you mean" in hint else ""
