"""What a step may say: checked before a run starts, so that no run ends in a misspelt column.

A `where` is one SQL expression over the row's own columns, in DuckDB's dialect. What is allowed is listed,
not what is refused: expressions of the kinds in `EXPRESSIONS` and functions whose value depends on their
arguments alone (`FUNCTIONS`).
"""

# ruff: noqa: S608 - statements are put together from our own words and from predicates that were checked

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from curate.errors import RecipeError, nearest
from curate.select.database import connect, one_line

Step = Mapping[str, Any]
"""A step as the recipe dumps it: drop, where, keep_top, over, duplicates."""

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
"""DuckDB's expression classes that read a row; subqueries, windows, stars, lambdas and parameters are none."""

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


def check(steps: Sequence[Step], columns: Mapping[str, pa.DataType]) -> None:
    """Checks a funnel against the columns that its run will have.

    Args:
        steps: the funnel.
        columns: the types in which predicates see them (`curate.columns.PairColumns.types`).

    Raises:
        RecipeError: the first thing that is wrong, in one line that names the step.
    """
    with connect() as con:
        for step in steps:
            if step["where"] is not None:
                _check_where(con, step, columns)
            elif step["keep_top"] is not None:
                kind = _known(step, "keep_top.of", step["keep_top"]["of"], columns)
                if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
                    raise _wrong(step, f"keep_top.of: {step['keep_top']['of']} is {kind}, not a number")
            else:
                kind = _known(step, "duplicates.prefer", step["duplicates"]["prefer"], columns)
                if pa.types.is_nested(kind):
                    raise _wrong(step, f"duplicates.prefer: {step['duplicates']['prefer']} is {kind}, without order")


def wanted(steps: Sequence[Step], columns: Sequence[str]) -> list[str]:
    """The columns that the steps name, as they are spelt in `columns`, sorted."""
    by_name = {name.lower(): name for name in columns}
    names: set[str] = set()
    with connect() as con:
        for step in steps:
            if step["where"] is not None:
                names |= {by_name[name.lower()] for name in _references(con, step)}
            elif step["keep_top"] is not None:
                names.add(step["keep_top"]["of"])
            else:
                names.add(step["duplicates"]["prefer"])
    return sorted(names)


def verdicts(steps: Sequence[Step], row: pa.Table) -> dict[str, bool | None]:
    """What each `where` step by itself says of one row.

    Args:
        steps: the funnel; steps of other kinds are passed over.
        row: one row with the columns of the run, as predicates see them (`curate.columns.predicate_view`).

    Returns:
        By step: True (it drops the row), False, or None (it has no value).
    """
    said: dict[str, bool | None] = {}
    with connect() as con:
        for step in steps:
            if step["where"] is not None:
                # Only what it names: a source may have columns of types that DuckDB does not know.
                names = {name.lower() for name in _references(con, step)}
                named = row.select([name for name in row.column_names if name.lower() in names])
                con.register("pairs", named.append_column("", pa.array([0])))
                ((said[step["drop"]],),) = con.execute(_asked(step)).fetchall()
    return said


def _check_where(con: duckdb.DuckDBPyConnection, step: Step, columns: Mapping[str, pa.DataType]) -> None:
    by_name = {name.lower(): name for name in columns}
    fields = {}
    for reference in _references(con, step):
        name = by_name.get(reference.lower())
        if name is None:
            raise _wrong(step, f"where: there is no column {reference!r}{nearest(reference.lower(), columns)}")
        fields[name] = columns[name]
    try:
        # One row, so that constants are looked at: `width < 'abc'`.
        con.register("pairs", pa.table({"": [0], **{name: pa.nulls(1, kind) for name, kind in fields.items()}}))
        asked = con.sql(_asked(step))
        asked.fetchall()
    except duckdb.Error as error:
        raise _wrong(step, f"where: {one_line(error)}") from error
    kind = str(asked.types[0])
    if kind != "BOOLEAN":
        raise _wrong(step, f"where: {step['where'].strip()!r} is a value ({kind}), not a condition")


def _asked(step: Step) -> str:
    # The predicate may end in a comment, so its bracket stands on a line of its own.
    return f"SELECT (\n{step['where']}\n) FROM pairs"


def _references(con: duckdb.DuckDBPyConnection, step: Step) -> list[str]:
    """The columns that a predicate names, after it was found to be one allowed expression.

    It is parsed with and without brackets, as either alone lets text through that is no expression by itself
    (`a) OR (b`, `a ORDER BY b`).
    """
    where = step["where"]
    _parsed(con, step, where)
    tree = _parsed(con, step, f"(\n{where}\n)")
    names = []
    for expression in _expressions(tree):
        kind, name = expression["class"], str(expression.get("function_name", "")).lower()
        if kind == "FUNCTION" and expression["schema"]:
            raise _wrong(step, f"where: write {name}({expression['schema']}), not {expression['schema']}.{name}()")
        if kind == "FUNCTION" and name not in FUNCTIONS:
            if name in _CLOCK:
                raise _wrong(step, f"where: {name}() depends on the time of the run")
            raise _wrong(step, f"where: the function {name}() is not allowed here{_hint(name)}")
        if kind == "COLUMN_REF":
            reference = expression["column_names"][0]
            if reference.lower() in _CLOCK:
                raise _wrong(step, f"where: {reference} depends on the time of the run")
            names.append(reference)
        elif kind not in EXPRESSIONS or expression["type"] == "GROUPING_FUNCTION":
            what = str(expression["type"]).lower().replace("_", " ")
            raise _wrong(step, f"where: {what} is not allowed here: a predicate sees one row")
    return list(dict.fromkeys(names))


def _parsed(con: duckdb.DuckDBPyConnection, step: Step, where: str) -> Any:
    statement = f"SELECT 1 FROM pairs WHERE {where}"
    ((tree,),) = con.execute("SELECT json_serialize_sql(?)", [statement]).fetchall()
    parsed = json.loads(tree)
    if parsed["error"]:
        raise _wrong(step, f"where: {' '.join(parsed['error_message'].split())}")
    if len(parsed["statements"]) != 1:
        raise _wrong(step, "where: more than one statement")
    node = parsed["statements"][0]["node"]
    if node["type"] != "SELECT_NODE" or node.get("where_clause") is None:
        raise _wrong(step, "where: a set of rows is not allowed here: a predicate sees one row")
    return node["where_clause"]


def _expressions(tree: Any) -> Iterator[dict[str, Any]]:
    """Every expression in a tree of DuckDB's own JSON, each before what it holds."""
    if isinstance(tree, dict):
        if "class" in tree:
            yield tree
        for value in tree.values():
            yield from _expressions(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _expressions(value)


def _known(step: Step, key: str, name: str, columns: Mapping[str, pa.DataType]) -> pa.DataType:
    if name not in columns:
        raise _wrong(step, f"{key}: there is no column {name!r}{nearest(name, columns)}")
    return columns[name]


def _hint(name: str) -> str:
    hint = nearest(name, FUNCTIONS)
    return hint if "did you mean" in hint else ""


def _wrong(step: Step, what: str) -> RecipeError:
    return RecipeError(f"select step {step['drop']!r}: {what}")
