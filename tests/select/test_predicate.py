"""Which predicates and columns a step may name."""

import pyarrow as pa
import pytest
from helpers.select_run import step

from curate.errors import RecipeError
from curate.select.steps.registry import check, read, wanted

COLUMNS = {
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


@pytest.mark.parametrize("where", ACCEPTED)
def test_accepted(where):
    check(read([step("this", where=where)]), COLUMNS)


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
