"""Accepted predicates make no more text than their bound says, on rows of the longest captions."""

import json

import duckdb
import pyarrow as pa
import pytest
from helpers.select_run import step
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curate.errors import RecipeError
from curate.select import predicate_size
from curate.select.database import BATCH_BYTES, connect, in_batches
from curate.select.predicate import references
from curate.select.predicate_size import LONGEST_ROW, MOST_PLUS, MOST_TIMES, written_out
from curate.select.steps.registry import check, read

COLUMNS = {"caption": pa.string(), "url": pa.string(), "width": pa.int64(), "source_words": pa.list_(pa.string())}

TEXTS = {
    "a's": "a" * LONGEST_ROW,
    "quotes": "'" * LONGEST_ROW,
    "signs that grow": "ŉ" * (LONGEST_ROW // 2) + "\ufb03" * (LONGEST_ROW // 2),
    "json": "[" + "1e9," * (LONGEST_ROW // 4 - 2) + "1]",
    "escapes": '"' + "\\u0001" * (LONGEST_ROW // 6 - 1) + '"',
    "words": "ab " * (LONGEST_ROW // 3),
}

numbers = st.sampled_from(["0", "1", "3", "1000", "100000", "-2"])
constants = st.sampled_from(["''", "'a'", "' '", "'bb'", r"'\0\0'", "'x''y'"])
patterns = st.sampled_from(["'a'", "'.'", "'.*'", "'(a)(a)'", "'[^b]{2,5}'", "''"])


def calls(inner):
    return st.one_of(
        st.builds("lpad({}, {}, 'xy')".format, inner, numbers),
        st.builds("rpad({}, {}, {})".format, inner, numbers, constants),
        st.builds("left({}, {})".format, inner, numbers),
        st.builds("substring({}, 2, {})".format, inner, numbers),
        st.builds("replace({}, {}, {})".format, inner, constants, constants),
        st.builds("regexp_replace({}, {}, {}, 'g')".format, inner, patterns, constants),
        st.builds("regexp_extract({}, {})".format, inner, patterns),
        st.builds("({} || {})".format, inner, inner),
        st.builds("concat({}, {}, {})".format, inner, inner, inner),
        st.builds("concat_ws({}, {}, {}, 'z')".format, inner, inner, inner),
        st.builds(
            "{}({})".format, st.sampled_from(["upper", "lower", "trim", "reverse", "strip_accents", "md5"]), inner
        ),
        st.builds("translate({}, 'a', {})".format, inner, constants),
        st.builds("string_split({}, {})[1]".format, inner, constants),
        st.builds("string_split({}, {})::VARCHAR".format, inner, constants),
        st.builds("[{}, {}]::VARCHAR".format, inner, inner),
        st.builds("try_cast({} AS BLOB)::VARCHAR".format, inner),
        st.builds("CASE WHEN width > 1 THEN {} ELSE {} END".format, inner, inner),
        st.builds("greatest({}, {})".format, inner, inner),
        st.builds("if(json_valid({0}), json_extract({0}, '$')::VARCHAR, {1})".format, inner, inner),
        st.builds("struct_pack(a := {}, b := {})::VARCHAR".format, inner, inner),
    )


texts = st.recursive(st.sampled_from(["caption", "caption", "width::VARCHAR", "'ab'"]), calls, max_leaves=6)


def bound_of(expression):
    """The greatest size of an expression of text, by `predicate_size`; None where it is refused."""
    try:
        references(read([step("this", where=f"{expression} = ''")])[0])
    except RecipeError:
        return None
    with duckdb.connect() as con:
        ((tree,),) = con.execute("SELECT json_serialize_sql(?)", [f"SELECT 1 FROM t WHERE {expression}"]).fetchall()
    return predicate_size.greatest(json.loads(tree)["statements"][0]["node"]["where_clause"], {})


def longest(expression, rows):
    """The characters of the longest value of an expression; None where DuckDB cannot compute it."""
    with connect(threads=1, memory_limit="8GB") as con:
        con.register("pairs", in_batches(rows))
        try:
            ((found,),) = con.execute(f"SELECT max(length({expression})) FROM pairs").fetchall()
        except duckdb.Error:
            return None
    return found


def rows_of(text, number=1):
    return pa.table({"caption": [text] * number, "url": ["u"] * number, "width": [3] * number})


@pytest.mark.parametrize("name", list(TEXTS))
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(expression=texts)
def test_no_accepted_expression_makes_more_than_its_bound(name, expression):
    size = bound_of(expression)
    if size is None:
        return
    assert size.times <= MOST_TIMES
    assert size.plus <= MOST_PLUS
    text = TEXTS[name][: LONGEST_ROW // 10]
    found = longest(expression, rows_of(text))
    assert found is None or found <= size.times * len(text) + size.plus


def test_a_vector_of_the_longest_captions_is_computed_in_small_batches():
    """2,048 rows of 100 kB in one vector would be 13 GB of text."""
    rows = in_batches(rows_of("a" * LONGEST_ROW, 2048))
    where = f"length(replace(caption, 'a', '{'b' * MOST_TIMES}')) = 1"
    check(read([step("this", where=where)]), COLUMNS)
    assert max(batch.num_rows for batch in rows.to_batches()) == BATCH_BYTES // (LONGEST_ROW + 1)
    with connect(threads=1, memory_limit="2GB") as con:
        con.register("pairs", rows.slice(0, 200))
        assert con.execute(f"SELECT count(*) FROM pairs WHERE {where}").fetchall() == [(0,)]


def test_batches_hold_the_same_rows():
    captions = ["a" * (n * 7919 % 300_000) for n in range(200)] + [None, "", "b" * (BATCH_BYTES + 1)]
    table = pa.table({"caption": captions, "n": list(range(len(captions)))})
    batched = in_batches(table)
    assert batched.equals(table)
    for batch in batched.to_batches():
        total = sum(len(text or "") for text in batch["caption"].to_pylist())
        assert total <= BATCH_BYTES or batch.num_rows == 1
    assert in_batches(table.slice(0, 0)).num_rows == 0


@pytest.mark.parametrize(
    ("pattern", "size"),
    [
        ("abc", 3),
        ("a{3}", 3),
        ("(ab){3}", 6),
        ("((ab){3}c){4}", 28),
        ("[a-z]{5}", 5),
        ("[]a]{2}", 2),
        (r"\d{4}-\d{2}", 7),
        ("a{2,}", 3),
        ("a{,7}", 7),
        ("a{0}", 1),
        ("a{x}", 4),
        (r"\({3}", 3),
        ("(a{10}){10}{10}", 1000),
        (")(", 1),
        ("", 0),
    ],
)
def test_repetitions_are_written_out(pattern, size):
    assert written_out(pattern) == size
