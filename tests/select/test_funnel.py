"""Select against a slow reference in plain Python, over random runs."""

import dataclasses
import math
import tempfile
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from helpers.select_run import Image, Row, planned, run_select, step, write_inputs
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import schema
from curate.errors import BrokenResult, RecipeError
from curate.runs.sample import Sample
from curate.select.steps.keep_top import top
from curate.store import WHOLE, Folder, Store

NUMBERS = st.sampled_from([None, math.nan, -0.0, 0.0, 0.1, 0.25, 0.5, 1.5, math.inf, -math.inf])
DIGESTS = [f"{number:064x}" for number in range(8)]

images = st.builds(
    Image,
    url=st.sampled_from([f"http://example.com/{number}.jpg" for number in range(12)]),
    error_class=st.sampled_from([None, None, None, None, "dns", "http_4xx"]),
    decoded=st.sampled_from([True, True, True, True, False]),
    sha256=st.sampled_from(DIGESTS),
    width=st.integers(1, 300),
)
STEPS = {
    "small": step("small", where="least(width, height) < 40"),
    "cats": step("cats", where="concept_cat > 0.2 AND caption_words IS NOT NULL"),
    "cheap": step("cheap", where="source_price <= 0.1 -- a comment"),
    "top": step("top", keep_top={"of": "clip_similarity", "fraction": 0.35}),
    "pool": step("pool", keep_top={"of": "source_Price", "fraction": 0.5}, over="pool"),
    "same": step("same", duplicates={"by": "sha256"}),
    "near": step("near", duplicates={"by": "image_embedding", "above": 0.95, "prefer": "caption_words"}),
    "close": step("close", duplicates={"by": "image_embedding", "above": 0.95}),
    "closer": step("closer", duplicates={"by": "image_embedding", "above": 0.99}),
}


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[Row], list[tuple[str, str, float]], list[dict[str, Any]]]:
    """Rows in up to three parts, near pairs, and a funnel; one URL is one image, in one part."""
    of_url: dict[str, Image] = {}
    rows = []
    for image in draw(st.lists(images, min_size=1, max_size=25)):
        image = of_url.setdefault(image.url, image)
        rows.append(
            Row(
                image,
                draw(st.sampled_from(["a cat", "a dog", "", " ", "x"])),
                part=hash_part(image.url),
                similarity=draw(NUMBERS),
                words=draw(st.sampled_from([None, 1, 2, 3])),
                cat=draw(NUMBERS),
                price=draw(NUMBERS),
            )
        )
    # What is measured belongs to the pair: a repeated row has what its first has.
    first = {row.pair_id: row for row in reversed(rows)}
    rows = [first[row.pair_id] for row in rows]
    pairs = st.tuples(st.sampled_from(DIGESTS), st.sampled_from(DIGESTS)).filter(lambda pair: pair[0] < pair[1])
    edges = draw(st.dictionaries(pairs, st.sampled_from([0.9, 0.949999, 0.95, 0.950001, 0.99, 1.0]), max_size=20))
    near = [(*pair, similarity) for pair, similarity in edges.items()]
    names = draw(st.lists(st.sampled_from(sorted(STEPS)), unique=True, max_size=5))
    return rows, near, [STEPS[name] for name in names]


def hash_part(url: str) -> int:
    return schema.part_of(schema.image_id(url), 0, 3)


def reference(rows, near, steps):
    """The same funnel by definition: a reason and an original for each row, and what the steps saw."""
    reasons: dict[int, str | None] = {}
    originals: dict[int, tuple[bytes, float]] = {}
    order = [entry for part in range(3) for entry in planned(rows, part)]
    for number, row, repeated in order:
        reasons[number] = (
            "repeated"
            if repeated
            else f"fetch:{row.image.error_class}"
            if row.image.error_class
            else "undecodable"
            if not row.image.decoded
            else None
            if row.caption.strip()
            else "no_caption"
        )
    pool = [(number, row) for number, row, _ in order if reasons[number] is None]
    alive = dict(pool)
    facts, true_of, fell = [], {number: set() for number in reasons}, {}
    for one in steps:
        name, before = one["drop"], dict(alive)
        said = {number: predicate(name, row) for number, row in pool} if one["where"] else {}
        if one["where"]:
            for number, verdict in said.items():
                if verdict:
                    true_of[number].add(name)
            gone = {number for number in alive if said[number]}
            nulls = sum(said[number] is None for number in alive)
        elif one["keep_top"]:
            value = (lambda row: clean(row.similarity)) if name == "top" else (lambda row: clean(row.price))
            among = pool if one["over"] == "pool" else list(alive.items())
            ranked = sorted(
                ((-value(row), row.pair_id, number) for number, row in among if value(row) is not None),
            )
            exact = Fraction(str(one["keep_top"]["fraction"])) * len(ranked)
            best = {number for _, _, number in ranked[: math.floor(exact + Fraction(1, 2))]}
            gone = set(alive) - best
            nulls = sum(value(row) is None for row in alive.values())
        else:
            at = steps.index(one)
            if not follows(steps, at):
                together = [one]
                while at + 1 < len(steps) and follows(steps, at + 1):
                    together.append(steps[at := at + 1])
                fell = greedy(alive, near, together)
            gone = {number for number, (step_name, _, _) in fell.items() if step_name == name}
            originals |= {number: fell[number][1:] for number in gone}
            nulls = 0
        for number in gone:
            reasons[number] = name
            del alive[number]
        facts.append((name, len(before), len(gone), nulls, sum(map(bool, said.values())) if one["where"] else None))
    return order, reasons, originals, facts, true_of


def clean(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def predicate(name: str, row: Row) -> bool | None:
    cat, price = clean(row.cat), clean(row.price)
    if name == "small":
        return min(row.image.width, 100) < 40
    if name == "cats":
        known = row.words is not None
        return False if not known else None if cat is None else cat > 0.2
    return None if price is None else price <= 0.1


def follows(steps, at):
    """Whether the step above is one of duplicates, too, that prefers the same column."""
    one, above = steps[at]["duplicates"], steps[at - 1]["duplicates"] if at else None
    return bool(one and above and one["prefer"] == above["prefer"])


def greedy(alive, near, together):
    """One by one in rank order, as the guarantee is worded; of what goes: the step, the kept one, how similar."""
    hows = {one["drop"]: one["duplicates"]["above"] or 1.0 for one in together}
    thresholds = [one["duplicates"]["above"] for one in together if one["duplicates"]["above"]]
    similar = {frozenset(pair[:2]): pair[2] for pair in near if thresholds and pair[2] >= min(thresholds)}
    prefer = together[0]["duplicates"]["prefer"]
    value = (lambda row: row.words) if prefer == "caption_words" else (lambda row: clean(row.similarity))
    order = sorted(
        alive.items(),
        key=lambda it: (value(it[1]) is None, -(value(it[1]) or 0) if value(it[1]) is not None else 0, it[1].pair_id),
    )
    kept: list[Row] = []
    fell = {}
    for number, row in order:
        matches = []
        for rank, other in enumerate(kept):
            same = row.image.sha256 == other.image.sha256
            similarity = 1.0 if same else similar.get(frozenset((row.image.sha256, other.image.sha256)))
            if similarity is not None:
                matches.append((-similarity, rank, same, other.pair_id))
        if matches:
            similarity, _, same, original = min(matches)
            # Only equal digests, not near ones at 1.0, reach a step by sha256.
            reached = [
                one["drop"]
                for one in together
                if same or (one["duplicates"]["above"] and -similarity >= hows[one["drop"]])
            ]
            fell[number] = (reached[0], original, -similarity)
        else:
            kept.append(row)
    return fell


@given(runs())
@settings(max_examples=settings.default.max_examples // 2)
def test_decisions_and_funnel_are_those_of_the_definition(run):
    rows, near, steps = run
    order, reasons, originals, facts, true_of = reference(rows, near, steps)
    with tempfile.TemporaryDirectory() as scratch:
        inputs = write_inputs(Path(scratch), rows, 3, near)
        funnel, decided, _ = run_select(inputs, steps, Path(scratch) / "run")
    flat = [row for part in range(3) for row in decided[part]]
    names = [one["drop"] for one in steps]
    for (number, row, _), decision in zip(order, flat, strict=True):
        original, similarity = originals.get(number, (None, None))
        reason = reasons[number]
        wanted = [name for name in names if name in true_of[number] or name == reason]
        assert decision == {
            "pair_id": row.pair_id,
            "kept": reason is None,
            "reason": reason,
            "reasons": wanted or ([reason] if reason else []),
            "duplicate_of": original,
            "duplicate_similarity": similarity,
        }
    assert funnel["planned"] == len(rows) == funnel["kept"] + sum(one["dropped"] for one in funnel["steps"])
    counted = Counter(reasons.values())
    assert funnel["kept"] == counted.pop(None, 0)
    assert {one["name"]: one["dropped"] for one in funnel["steps"] if one["dropped"]} == counted
    said = [
        (one["name"], one["seen"], one["dropped"], one["nulls"], one["would_drop"])
        for one in funnel["steps"]
        if one["kind"] != "before"
    ]
    assert said == facts
    over = {one["name"]: one["over"] for one in funnel["steps"] if one["kind"] == "keep_top"}
    assert over == {one["drop"]: one["over"] for one in steps if one["keep_top"]}


@pytest.mark.parametrize("names", [["near"], ["same", "close"], ["closer", "same", "close"]], ids=" ".join)
@given(run=runs())
@settings(max_examples=settings.default.max_examples // 5)
def test_no_two_kept_are_duplicates_and_a_duplicate_names_a_kept_better_one(names, run):
    rows, near, _ = run
    steps = [STEPS[name] for name in names]
    with tempfile.TemporaryDirectory() as scratch:
        inputs = write_inputs(Path(scratch), rows, 3, near)
        _, decided, _ = run_select(inputs, steps, Path(scratch) / "run")
    of = {row.pair_id: row for row in rows}
    flat = [decision for part in decided.values() for decision in part]
    kept = {decision["pair_id"] for decision in flat if decision["kept"]}
    similar = {frozenset(pair[:2]): pair[2] for pair in near}
    digests = [of[pair].image.sha256 for pair in kept]
    assert len(set(digests)) == len(digests)
    assert not [pair for pair, value in similar.items() if value >= 0.95 and pair <= set(digests)]

    def rank(pair):
        value = of[pair].words if names == ["near"] else clean(of[pair].similarity)
        return (value is None, -(value or 0), pair)

    for decision in flat:
        if decision["reason"] in names:
            original, pair = decision["duplicate_of"], decision["pair_id"]
            assert original in kept
            assert rank(original) < rank(pair)
            threshold = STEPS[decision["reason"]]["duplicates"]["above"]
            assert decision["duplicate_similarity"] >= (threshold or 1.0)
            if threshold is None:
                assert of[original].image.sha256 == of[pair].image.sha256


def many_rows() -> tuple[list[Row], list[tuple[str, str, float]]]:
    """Many ties: 600 rows in three parts, few values."""
    rows = []
    for number in range(600):
        url = f"http://example.com/{number}.jpg"
        image = Image(url, sha256=f"{number % 150:064x}", width=number % 7 * 30)
        rows.append(Row(image, f"c{number % 3}", hash_part(url), number % 5 / 10, number % 3, number % 4 / 4, 0.5))
    near = [(f"{a:064x}", f"{a + 1:064x}", 0.95 + a % 3 / 100) for a in range(149)]
    return rows, near


def test_decisions_do_not_depend_on_threads_or_the_order_of_parts(tmp_path: Path):
    rows, near = many_rows()
    inputs = write_inputs(tmp_path, rows, 3, near)
    steps = list(STEPS.values())
    files = []
    for threads, parts in ((1, [0, 1, 2]), (4, [2, 0, 1])):
        root = tmp_path / f"run{threads}"
        _, _, folder = run_select(dataclasses.replace(inputs, parts=parts), steps, root, threads)
        units = [*range(3), WHOLE]
        files.append([{role: info.sha256 for role, info in folder.marker(unit).files.items()} for unit in units])
    assert files[0] == files[1]


def test_a_pair_that_another_part_has_already_is_repeated(tmp_path: Path):
    uid = bytes(range(16))
    rows = [
        Row(Image("http://b/1"), "b", 1, uid=uid),
        Row(Image("http://a/0"), "a", 0, uid=uid),
        Row(Image("http://a/2"), "c", 0),
    ]
    funnel, decided, _ = run_select(write_inputs(tmp_path, rows, 2), [], tmp_path / "run")
    assert [decision["reason"] for decision in decided[1]] == [None]
    assert {decision["pair_id"]: decision["reason"] for decision in decided[0]} == {
        uid: "repeated",
        rows[2].pair_id: None,
    }
    assert funnel["steps"][0] | {"name": "repeated", "dropped": 1} == funnel["steps"][0]


@pytest.mark.parametrize("parts", [(0, 0, 0), (0, 1, 0), (1, 0, 2)])
@pytest.mark.parametrize(
    ("ends", "stays"),
    [
        (("dns", None, None), 1),
        (("dns", "http_4xx", None), 2),
        ((None, "dns", None), 0),
        (("dns", "http_4xx", "dns"), 0),
        (("broken", None, "dns"), 1),
        (("broken", "dns", "broken"), 0),
    ],
)
def test_of_a_pair_with_several_images_the_first_that_came_stays(tmp_path: Path, parts, ends, stays):
    """Only a list's own `uid` gives one pair several URLs."""
    uid = bytes(range(16))
    rows = []
    for number, (part, end) in enumerate(zip(parts, ends, strict=True)):
        image = Image(f"http://a/{number}", None if end == "broken" else end, end != "broken")
        rows.append(Row(image, "a", part, similarity=number / 10, words=number + 1, uid=uid))
    rows.append(Row(Image("http://b"), "a", 0))
    # What is measured goes with the row: no other one's words may stand for it.
    steps = [step("others", where=f"caption_words <> {stays + 1}")]
    funnel, decided, _ = run_select(write_inputs(tmp_path, rows, 3), steps, tmp_path / "run")
    reasons = {}
    for part in range(3):
        for (number, row, _), decision in zip(planned(rows, part), decided[part], strict=True):
            assert decision["pair_id"] == row.pair_id
            reasons[number] = decision["reason"]
    own = {None: None, "broken": "undecodable"}.get(ends[stays], f"fetch:{ends[stays]}")
    assert reasons == {number: own if number == stays else "repeated" for number in range(3)} | {3: None}
    assert funnel["planned"] == 4 == funnel["kept"] + sum(one["dropped"] for one in funnel["steps"])


def test_missing_parts_are_named_and_not_counted(tmp_path: Path):
    rows, near = many_rows()
    inputs = write_inputs(tmp_path, rows, 3, near)
    covered = dataclasses.replace(inputs, parts=[0, 2])
    funnel, _, folder = run_select(covered, list(STEPS.values()), tmp_path / "run", missing=[1])
    assert (funnel["parts"], funnel["missing_parts"]) == (2, [1])
    assert funnel["planned"] == sum(row.part != 1 for row in rows)
    parts = folder.table("parts.parquet").to_pydict()
    assert parts["part"] == [0, 2]
    assert sum(parts["planned"]) == funnel["planned"]
    assert sum(parts["kept"]) == funnel["kept"] == folder.marker(0).counts["kept"] + folder.marker(2).counts["kept"]


@given(run=runs(), share=st.sampled_from([0.01, 0.3, 0.5, 0.77, 1.0]))
@settings(max_examples=settings.default.max_examples // 2)
def test_a_sample_decides_on_its_rows_as_if_there_were_no_others(run, share):
    rows, near, steps = run
    sample = Sample.of(share, [len(planned(rows, part)) for part in range(3)])
    covered = [entry for part in range(sample.parts) for entry in planned(rows, part)]
    own, beyond = covered[: sample.rows], covered[sample.rows :]
    numbers = {number for number, _, _ in own}
    _, reasons, _, facts, _ = reference([row for number, row in enumerate(rows) if number in numbers], near, steps)
    with tempfile.TemporaryDirectory() as scratch:
        inputs = dataclasses.replace(write_inputs(Path(scratch), rows, 3, near), parts=range(sample.parts))
        funnel, decided, _ = run_select(inputs, steps, Path(scratch) / "run", sample=sample)
    found = [row["reason"] for part in range(sample.parts) for row in decided[part]]
    # The reference counts the rows of the sample anew, in the order of the list.
    place = {number: at for at, number in enumerate(sorted(numbers))}
    assert found[: sample.rows] == [reasons[place[number]] for number, _, _ in own]
    assert found[sample.rows :] == ["not_sampled"] * len(beyond)
    assert funnel["planned"] == len(covered) == funnel["kept"] + sum(one["dropped"] for one in funnel["steps"])
    assert funnel["missing_parts"] == []
    said = [(one["name"], one["seen"], one["dropped"]) for one in funnel["steps"] if one["kind"] != "before"]
    assert said == [fact[:3] for fact in facts]


def test_a_row_beyond_the_sample_takes_no_pairs_place(tmp_path: Path):
    uid = bytes(range(16))
    urls = sorted((f"http://a/{number}" for number in range(3)), key=schema.image_id)
    # The first of the list stands last in its part, and is not sampled; the one that is has no image.
    rows = [Row(Image(urls[2]), "a", uid=uid), Row(Image(urls[0], "dns"), "a", uid=uid), Row(Image(urls[1]), "a")]
    inputs = write_inputs(tmp_path, rows, 1)
    _, decided, _ = run_select(inputs, [], tmp_path / "run", sample=Sample.of(0.66, [3]))
    assert [decision["reason"] for decision in decided[0]] == ["fetch:dns", None, "not_sampled"]


def test_the_threshold_is_the_lowest_kept_value(tmp_path: Path):
    rows = [Row(Image(f"http://a/{n}"), "a", similarity=n / 100) for n in range(10)]
    steps = [step("top", keep_top={"of": "clip_similarity_b", "fraction": 0.25})]
    funnel, decided, _ = run_select(write_inputs(tmp_path, rows, 1), steps, tmp_path / "run")
    assert funnel["steps"][-1]["threshold"] == pytest.approx(-0.02)
    assert sum(decision["kept"] for decision in decided[0]) == 3


@pytest.mark.parametrize(
    ("values", "fraction", "kept"),
    [(10, 0.35, 4), (10, 0.25, 3), (100, 0.285, 29), (3, 0.5, 2), (7, 1.0, 7), (7, 0.0, 0), (0, 0.3, 0), (1, 1e-9, 0)],
)
def test_halves_are_rounded_up_of_the_fraction_as_it_is_written(values, fraction, kept):
    assert top(values, fraction) == kept


def test_a_predicate_that_cannot_be_computed_names_its_step(tmp_path: Path):
    rows = [Row(Image("http://a/0"), "12"), Row(Image("http://a/1"), "twelve")]
    steps = [step("fine", where="width < 3"), step("number", where="caption::INTEGER > 3")]
    with pytest.raises(RecipeError, match=r"select step 'number': where: .*'twelve'.*try_cast"):
        run_select(write_inputs(tmp_path, rows, 1), steps, tmp_path / "run")


def test_division_by_zero_is_null_and_drops_nothing(tmp_path: Path):
    rows = [Row(Image("http://a/0", width=0), "a")]
    steps = [step("wide", where="height / width > 3"), step("odd", where="0.0 / width > 1")]
    funnel, decided, _ = run_select(write_inputs(tmp_path, rows, 1), steps, tmp_path / "run")
    assert decided[0][0]["kept"]
    assert [one["nulls"] for one in funnel["steps"][-2:]] == [1, 1]


def test_tables_of_other_rows_are_refused(tmp_path: Path):
    rows = [Row(Image("http://a/0"), "a"), Row(Image("http://a/1"), "b")]
    inputs = write_inputs(tmp_path / "one", rows, 1)
    other = write_inputs(tmp_path / "other", rows[:1], 1)
    for name in ("fetch", "pixels", "embed-a"):
        mixed = dataclasses.replace(inputs, folders={**inputs.folders, name: other[name]})
        with pytest.raises(BrokenResult, match="does not have the plan's rows"):
            run_select(mixed, [STEPS["top"]], tmp_path / f"run-{name}")


def test_ids_are_hex_text_to_a_predicate(tmp_path: Path):
    rows = [Row(Image("http://a/0"), "a"), Row(Image("http://a/1"), "b")]
    steps = [step("this", where=f"pair_id = '{rows[0].pair_id.hex()}'")]
    _, decided, _ = run_select(write_inputs(tmp_path, rows, 1), steps, tmp_path / "run")
    assert {decision["pair_id"]: decision["kept"] for decision in decided[0]} == {
        rows[0].pair_id: False,
        rows[1].pair_id: True,
    }


def test_decisions_have_the_schema_and_an_empty_part_has_none(tmp_path: Path):
    rows = [Row(Image("http://a/0"), "a", part=1)]
    _, decided, folder = run_select(write_inputs(tmp_path, rows, 3), list(STEPS.values()), tmp_path / "run")
    assert [len(decided[part]) for part in range(3)] == [0, 1, 0]
    for part in range(3):
        assert folder.table("decisions.parquet", part).schema == schema.DECISIONS
    assert isinstance(folder.table("parts.parquet"), pa.Table)
    assert Folder(Store(str(tmp_path / "run")), "select", "0").units() == {0, 1, 2, WHOLE}


def test_the_mirrored_similarity_is_a_column_of_the_models_that_have_it(tmp_path: Path):
    rows = [Row(Image(f"http://a/{n}"), "a", similarity=n / 100) for n in range(10)]
    inputs = write_inputs(tmp_path, rows, 1)
    steps = [step("fooled", where="clip_similarity_mirrored_b - clip_similarity_b > 0.105")]
    funnel, _, _ = run_select(inputs, steps, tmp_path / "run")
    # The other model's is the negative: 2n / 100 is more than 0.105 from the sixth on.
    assert funnel["steps"][-1]["dropped"] == 4
