"""Which predicates and columns a step may name."""

import pyarrow as pa
import pytest
from helpers.select_run import step

from curate.errors import RecipeError
from curate.select.steps.registry import check, read, wanted

COLUMNS = {
    "sha256": pa.string(),
    "url": pa.string(),
    "caption": pa.string(),
    "width": pa.int32(),
    "height": pa.int32(),
    "decoded": pa.bool_(),
    "clip_similarity": pa.float32(),
    "half": pa.float32(),
    "source_boxes": pa.list_(pa.float64()),
    "source_meta": pa.struct([("score", pa.float64())]),
    "source_Taken": pa.timestamp("us"),
    "source_wide": pa.decimal256(50, 3),
}

ACCEPTED = [
    "least(width, height) < 200",
    "WIDTH < 200 OR source_taken > TIMESTAMP '2020-01-01'",
    "caption LIKE '%sale%' -- a comment",
    "caption ILIKE 'a!%' ESCAPE '!' OR caption ~ '^[0-9]+$' OR regexp_matches(caption, '(?i)stock')",
    "width / height NOT BETWEEN 0.3 AND 3",
    "clip_similarity IS NULL OR half < 0.2",
    "NOT decoded",
    "CASE WHEN width > 2 THEN decoded ELSE false END",
    "try_cast(caption AS DOUBLE) > 1 OR caption::VARCHAR IN ('a', 'b')",
    "source_boxes[1] > 2 AND source_meta.score > 0.5 AND len(source_boxes) > 1",
    "caption->>'$.a' = 'x'",
    "year(source_Taken) < 2000 AND source_Taken + INTERVAL 3 DAY > TIMESTAMP '1990-01-01'",
    "true",
    "lpad(caption, 10, 'ab') = rpad('x', 100000, 'y') OR replace(caption, 'a', 'bbb') = ''",
    "regexp_replace(lower(trim(caption)), '[^a-z]+', ' ', 'g') LIKE '%stock photo%'",
    "len(string_split(caption, ' ')) < 3 OR regexp_matches(caption, '^[0-9]{4}-[0-9]{2}-[0-9]{2}$')",
    "levenshtein(left(caption, 1000), left(url, 1000)) < 5 OR levenshtein(caption, 'a photo') < 3",
    "json_extract(json_extract(caption, 'a'), 'b')->>'c' = 'x'",
    "caption::VARCHAR || ' ' || url::VARCHAR > 'a'",
    " OR ".join(f"lower(caption) LIKE '%word {n}%'" for n in range(400)),
    "(" * 20 + "width > 1" + ")" * 20,
    "caption LIKE '%((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((%'",
]

REFUSED = {
    "widht < 3": r"no column 'widht'; did you mean 'width'\?",
    "width <": "syntax error",
    "": "syntax error",
    "width > 1 /* open": "comment",
    "width": "is a value .INTEGER., not a condition",
    "NULL": "not a condition",
    "width < 'wide'": "Could not convert string 'wide'",
    "decoded + caption > 1": "No function matches",
    "width > 1) OR (height > 1": "syntax error",
    "width > 1 ORDER BY 1": "syntax error",
    "width > 1 GROUP BY width": "syntax error",
    "width > 1 UNION SELECT 2": "one row",
    "width > 1; DROP TABLE pairs": "Only SELECT|more than one statement",
    "width > 1; SELECT 1": "more than one statement",
    "width IN (SELECT 1)": "subquery is not allowed",
    "EXISTS (SELECT 1)": "subquery is not allowed",
    "EXISTS (FROM read_csv('/etc/passwd'))": "subquery is not allowed",
    "width = ANY ([1, 2])": "subquery is not allowed",
    "count(*) > 1": "count.* is not allowed",
    "sum(width) > 1": "sum.* is not allowed",
    "row_number() OVER () > 1": "window row number is not allowed",
    "max(width) OVER () > 1": "window",
    "random() < 0.5": "random.* is not allowed",
    "uuid() = 'x'": "uuid.* is not allowed",
    "now() > source_Taken": "depends on the time",
    "current_date > DATE '2020-01-01'": "depends on the time",
    "source_Taken > 'now'::TIMESTAMP": "invalid timestamp",
    "current_setting('threads') = '1'": "not allowed",
    "getenv('HOME') = 'x'": "not allowed",
    "getvariable('x') = 1": "not allowed",
    "nextval('x') > 1": "not allowed",
    "unnest(source_boxes) > 1": "not allowed",
    "hash(url) % 2 = 0": "not allowed",
    "COLUMNS(*) > 1": "star is not allowed",
    "pairs.width > 1": "no column 'pairs'",
    "caption.lower() = 'x'": r"write lower\(caption\)",
    "list_filter(source_boxes, lambda x: x > 1) = []": "not allowed",
    "#1 > 1": "positional reference",
    "$1 > 1": "value parameter",
    "lenght(caption) > 3": r"lenght\(\) is not allowed here; did you mean 'length'\?",
    "source_wide > 3": "Decimal",
}

DEEP = "(more than 60 brackets or 100 expressions are inside each other|Max expression depth)"
TOO_MUCH = "could make .* times the text of a row and .* characters; at most 64 times and 100,000 characters"

# What would hold a worker: text, time or memory out of proportion to the row.
TOO_LARGE = {
    "lpad('a', 2000000000) = ''": r"lpad\(\): the length has to be a number that is written out, at most 100,000",
    "rpad(caption, 100001, 'x') = ''": r"rpad\(\): the length has to be",
    "lpad('a', width * 1000000) = ''": r"lpad\(\): the length has to be",
    "lpad('a', 2e9::BIGINT) = ''": r"lpad\(\): the length has to be",
    "lpad('a', 1e9) = ''": r"lpad\(\): the length has to be",
    "lpad(caption, length(caption) * 9999) = ''": r"lpad\(\): the length has to be",
    "replace(caption, 'a', caption) = ''": r"replace\(\): the text to put in has to be written out",
    "replace(caption, '', url) = ''": r"replace\(\): the text to put in has to be written out",
    "replace(" * 8 + "caption" + ", 'a', 'aa')" * 8 + " = ''": TOO_MUCH,
    f"replace(caption, 'a', '{'b' * 65}') = ''": TOO_MUCH,
    "regexp_replace(caption, caption, 'x') = ''": r"regexp_replace\(\): the regular expression has to be written out",
    "regexp_replace(caption, '.', caption) = ''": r"regexp_replace\(\): the text to put in has to be written out",
    "regexp_replace(" * 4 + "caption" + r", '.*', '\\0\\0', 'g')" * 4 + " = ''": TOO_MUCH,
    "caption ~ url": r"regexp_matches\(\): the regular expression has to be written out",
    "regexp_matches(caption, '(a{100}){11}')": "the regular expression has 1,100 characters with its repetitions",
    "regexp_matches(caption, '((a|b)(a|b|c){0,300}){0,3}z')": "characters with its repetitions written out",
    f"regexp_matches(caption, '{'a' * 1001}')": "the regular expression has 1,001 characters",
    " || ".join(["caption"] * 70) + " = ''": TOO_MUCH,
    f"concat({', '.join(['caption'] * 70)}) = ''": TOO_MUCH,
    f"concat_ws(caption{', url' * 60}) = ''": TOO_MUCH,
    f"[{', '.join(['caption'] * 70)}] = []": TOO_MUCH,
    "caption::BLOB::BIT::VARCHAR = ''": TOO_MUCH,
    "[[caption]::VARCHAR]::VARCHAR = ''": TOO_MUCH,
    "string_split(string_split(caption, '')[1], '')::VARCHAR = ''": TOO_MUCH,
    " AND ".join(f"replace(caption, 'a', '{'b' * 60}{n}') = ''" for n in range(5)): "text as a row has; at most 256",
    "levenshtein(caption, url) < 3": "compares every character with every other; cut its texts",
    "damerau_levenshtein(lower(caption), repeat) < 3": "compares every character with every other",
    "lower(" * 500 + "caption" + ")" * 500 + " = ''": DEEP,
    "(" * 20000: "it has 20,000 brackets; at most 1,000 are allowed",
    "(" * 61 + "true" + ")" * 61: DEEP,
    "[" * 61 + "]" * 61 + " = []": DEEP,
    "width" + "[1]" * 900 + " = 1": DEEP,
    "width" + " + 1" * 200 + " > 1": DEEP,
    "width" + " + 1" * 4000 + " > 1": DEEP,
    "CASE WHEN true THEN " * 200 + "true" + " END" * 200: DEEP,
    "width" + "::INTEGER" * 150 + " > 1": DEEP,
    "NOT " * 500 + "true": "(syntax error|inside each other|Max expression depth)",
    "width > 1" + " OR width > 1" * 1300: "it has more than 3,000 expressions",
    "'" + "(" * 1001 + "' = caption": "it has 1,001 brackets; at most 1,000 are allowed",
}


@pytest.mark.parametrize("where", ACCEPTED)
def test_accepted(where):
    check(read([step("this", where=where)]), COLUMNS)


@pytest.mark.parametrize("where", list(TOO_LARGE), ids=lambda where: where[:40])
def test_what_would_make_too_much_is_refused(where):
    with pytest.raises(RecipeError, match=TOO_LARGE[where]) as error:
        check(read([step("this", where=where)]), COLUMNS)
    assert str(error.value).startswith("select step 'this': where: ")
    assert str(error.value).isprintable()


@pytest.mark.parametrize("where", list(REFUSED))
def test_refused_in_one_line_that_names_the_step(where):
    with pytest.raises(RecipeError, match=REFUSED[where]) as error:
        check(read([step("fine", where="width < 3"), step("this", where=where)]), COLUMNS)
    assert str(error.value).startswith("select step 'this': where: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ({"keep_top": {"of": "clip_similarty", "fraction": 0.3}}, "keep_top.of: .*did you mean 'clip_similarity'"),
        ({"keep_top": {"of": "caption", "fraction": 0.3}}, "keep_top.of: caption is string, not a number"),
        ({"keep_top": {"of": "decoded", "fraction": 0.3}}, "not a number"),
        ({"duplicates": {"by": "sha256", "prefer": "clip"}}, "duplicates.prefer: there is no column 'clip'"),
        ({"duplicates": {"by": "sha256", "prefer": "source_boxes"}}, "which has no order"),
    ],
)
def test_columns_to_rank_by(kind, message):
    with pytest.raises(RecipeError, match=f"select step 'this': .*{message}"):
        check(read([step("this", **kind)]), COLUMNS)
    steps = [step("this", keep_top={"of": "half", "fraction": 0.3}), step("that", duplicates={"by": "sha256"})]
    check(read(steps), COLUMNS)


def test_wanted_columns_are_spelt_as_they_are_stored():
    steps = [
        step("a", where="WIDTH < 3 AND Source_taken IS NULL AND source_meta.score > 1"),
        step("b", keep_top={"of": "half", "fraction": 0.5}),
        step("c", duplicates={"by": "sha256", "prefer": "height"}),
    ]
    assert wanted(read(steps), list(COLUMNS)) == ["half", "height", "sha256", "source_Taken", "source_meta", "width"]


def test_verdicts_on_one_row():
    steps = [
        step("small", where="least(width, height) < 200"),
        step("wide", where="width > 200 -- a comment"),
        step("french", where="caption_language = 'fr'"),
        step("dear", where="source_price * 2 > 3"),
        step("flagged", where="source_flag"),
        step("unknown", where="concept_cat > 0.5"),
        step("this", where="pair_id = '00ff'"),
    ]
    row = pa.table(
        {
            "width": pa.array([150], pa.int32()),
            "height": pa.array([None], pa.int32()),
            "caption_language": pa.array([None], pa.string()),
            "source_Price": [2],
            "source_flag": pa.array([None], pa.bool_()),
            "concept_cat": pa.array([None], pa.float32()),
            "pair_id": ["00ff"],
            "source_wide": pa.array([None], pa.decimal256(50, 3)),
        }
    )
    drops, passes, no_value = "drops it", "lets it pass", "has no value, lets it pass"
    said = {"small": drops, "wide": passes, "french": no_value, "dear": drops, "flagged": no_value, "unknown": no_value}
    assert {one.name: one.kind.of_pair(one, {}, row, None) for one in read(steps)} == {**said, "this": drops}
