"""Steps of duplicates by one kind and by all of several, against the definition in plain Python."""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from helpers.near_pairs import InMemory, put_near
from helpers.select_run import Image, Row, run_select, step, write_inputs
from hypothesis import given
from hypothesis import strategies as st

from curate import schema
from curate.dedup.kinds.phash import Phash
from curate.duplicates import likeness
from curate.errors import RecipeError
from curate.near import Dense
from curate.prepare import near_searches_of, steps_of
from curate.recipe import Recipe, parse
from curate.select.database import connect
from curate.select.decisions import decisions
from curate.select.funnel import Funnel
from curate.select.rows import PartRows
from curate.select.steps.registry import read as read_steps
from curate.store import Folder, Inputs, Store

DIGESTS = [f"{number:064x}" for number in range(5)]
COSINES = [0.9, 0.949999, 0.95, 0.97, 1.0]
BITS = [0, 4, 5, 6, 7]
KINDS = ("image_embedding", "phash")
Near = dict[frozenset[str], float]
"""Similarity by pair of digests."""

Run = tuple[list[Row], dict[str, Near], list[str], str]

EMBEDDING, PHASH = {"by": "image_embedding", "above": 0.95}, {"by": "phash", "within": 5}
STEPS: dict[str, dict[str, Any]] = {
    "same": {"by": "sha256"},
    "cosine": EMBEDDING,
    "bits": PHASH,
    "both": {"all": [EMBEDDING, PHASH]},
    "both_wide": {"all": [{"by": "phash", "within": 6}, {"by": "image_embedding", "above": 0.9}]},
    "both_close": {"all": [{"by": "image_embedding", "above": 0.97}, {"by": "phash", "within": 4}]},
}


@st.composite
def runs(draw: st.DrawFn) -> Run:
    """Rows of few images and captions, near pairs by kind, the names of steps, and their `keep`."""
    rows = [
        Row(
            Image(f"http://x/{number}", sha256=draw(st.sampled_from(DIGESTS))),
            draw(st.sampled_from(["a cat", "a dog", "a Cat"])),
            similarity=draw(st.sampled_from([None, 0.1, 0.2, 0.3])),
        )
        for number in range(draw(st.integers(1, 20)))
    ]
    cosines, shares = st.sampled_from([None, *COSINES]), st.sampled_from([None, *(1 - bits / 64 for bits in BITS)])
    likeness = {frozenset(pair): draw(st.tuples(cosines, shares)) for pair in itertools.combinations(DIGESTS, 2)}
    near = {
        kind: {pair: values[place] for pair, values in likeness.items() if values[place] is not None}
        for place, kind in enumerate(KINDS)
    }
    names = draw(st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=3, unique=True))
    return rows, near, names, draw(st.sampled_from(["best", "all_captions"]))


def threshold(kind: dict[str, Any]) -> float:
    return float(kind["above"]) if kind["by"] == "image_embedding" else 1 - kind["within"] / 64


def near_by(name: str, near: dict[str, Near], a: Row, b: Row) -> float | None:
    """The similarity of two images with different digests by a step that counts them as duplicates; else None."""
    keys = STEPS[name]
    kinds = keys.get("all", [] if keys.get("by") == "sha256" else [keys])
    found = [near[kind["by"]].get(frozenset((a.image.sha256 or "", b.image.sha256 or "")), 0.0) for kind in kinds]
    reached = [similarity >= threshold(kind) for similarity, kind in zip(found, kinds, strict=True)]
    return found[0] if found and all(reached) else None


def rank(row: Row) -> tuple[bool, float, bytes]:
    return (row.similarity is None, -(row.similarity or 0.0), row.pair_id)


def by_definition(rows: Sequence[Row], near: dict[str, Near], names: Sequence[str], keep: str) -> dict[bytes, Any]:
    """By pair: None where it stays, else the step, the kept pair and the similarity, decided in the order of rank."""
    kept: list[Row] = []
    decided: dict[bytes, Any] = {}
    for row in sorted(rows, key=rank):
        matches = []
        for number, name in enumerate(names):
            for place, other in enumerate(kept):
                same = row.image.sha256 == other.image.sha256
                if same and keep == "all_captions" and row.caption != other.caption:
                    continue
                similarity = 1.0 if same else near_by(name, near, row, other)
                if similarity is not None:
                    matches.append((number, -similarity, place))
        if matches:
            number, similarity, place = min(matches)
            decided[row.pair_id] = (names[number], kept[place].pair_id, -similarity)
        else:
            decided[row.pair_id] = None
            kept.append(row)
    return decided


def listed(near: Near) -> list[tuple[str, str, float]]:
    return sorted((min(pair), max(pair), similarity) for pair, similarity in near.items())


def decided_of(tables: Iterable[pa.Table]) -> dict[bytes, Any]:
    """Decisions in the form of `by_definition`."""
    rows = [row for table in tables for row in table.to_pylist()]
    assert len({row["pair_id"] for row in rows}) == len(rows), "a pair has two decisions"
    names = ("reason", "duplicate_of", "duplicate_similarity")
    return {row["pair_id"]: None if row["kept"] else tuple(row[name] for name in names) for row in rows}


def in_memory(kind: str, near: Near, dense: list[str]) -> InMemory:
    """What a search found, in two tables; pairs of dense digests are not stored, but compared."""

    def similarity(left: np.ndarray, right: np.ndarray) -> float:
        return near.get(frozenset((DIGESTS[int(left[0])], DIGESTS[int(right[0])])), 0.0)

    class Compared(Phash):
        def similarities(self, left: Any, right: Any) -> Any:
            return np.array([[similarity(a, b) for b in right] for a in left]).reshape(len(left), len(right))

        def each_similarity(self, left: Any, right: Any) -> Any:
            return np.array([similarity(a, b) for a, b in zip(left, right, strict=True)])

    stored = [(*sorted(pair), value) for pair, value in near.items() if not pair <= set(dense)]
    places = {name: place for place, name in enumerate(DIGESTS)}
    a, b = (np.array([places[str(pair[side])] for pair in stored], np.int64) for side in (0, 1))
    similarities = np.array([pair[2] for pair in stored], np.float64)
    nodes = np.array(sorted(places[name] for name in dense), np.int64)
    crowd = Dense(Compared(), nodes, nodes[:, None]) if dense else None
    tables = [(a[some], b[some], similarities[some]) for some in (slice(3, None), slice(3))]
    return InMemory(DIGESTS, tables, crowd)


def decide(
    rows: Sequence[Row], near: dict[str, Near], steps: Sequence[dict[str, Any]], dense: dict[str, list[str]]
) -> dict[bytes, Any]:
    """Decides without files."""
    funnel_steps = read_steps(steps)
    columns = pa.table(
        {
            "clip_similarity": pa.array([row.similarity for row in rows], pa.float64()),
            "sha256": [row.image.sha256 for row in rows],
            "decoded": [True] * len(rows),
            "phash": ["0" * 16] * len(rows),
            "caption": [row.caption for row in rows],
        }
    )
    ids = pa.array([row.pair_id for row in rows], schema.ID)
    part = PartRows(ids, pa.chunked_array([range(len(rows))]), pa.nulls(len(rows), pa.string()), columns)
    searches = {f"dedup-{kind}": in_memory(kind, found, dense[kind]) for kind, found in near.items()}
    with connect(threads=1) as con:
        funnel = Funnel(con, funnel_steps, columns.column_names)
        funnel.add(0, part)
        funnel.run(searches.__getitem__)
        return decided_of(decisions(verdicts, funnel_steps) for verdicts in funnel.verdicts())


@given(runs(), st.fixed_dictionaries({kind: st.lists(st.sampled_from(DIGESTS), unique=True) for kind in KINDS}))
def test_what_stays_and_what_goes_is_by_definition(run: Run, dense: dict[str, list[str]]) -> None:
    rows, near, names, keep = run
    decided = decide(rows, near, [step(name, duplicates={**STEPS[name], "keep": keep}) for name in names], dense)
    assert decided == by_definition(rows, near, names, keep)
    # The guarantees, apart from the order in which the definition decides.
    of = {row.pair_id: row for row in rows}
    kept = [of[pair] for pair, fate in decided.items() if fate is None]
    for a, b in itertools.combinations(kept, 2):
        assert not any(near_by(name, near, a, b) for name in names)
        assert a.image.sha256 != b.image.sha256 or (keep == "all_captions" and a.caption != b.caption)
    for pair, fate in decided.items():
        if fate is not None:
            name, original, similarity = fate
            assert decided[original] is None
            assert rank(of[original]) < rank(of[pair])
            same = of[original].image.sha256 == of[pair].image.sha256
            assert not same or keep == "best" or of[original].caption == of[pair].caption
            assert similarity == (1.0 if same else near_by(name, near, of[original], of[pair]))


def pairs_of(*names: str) -> list[Row]:
    """A pair for each image, the first one best; the digest of image `a` is that of 0."""
    return [
        Row(Image(f"http://x/{name}", sha256=DIGESTS["abcde".index(name)]), "a", similarity=1 - number / 10)
        for number, name in enumerate(names)
    ]


def between(a: str, b: str) -> frozenset[str]:
    return frozenset((DIGESTS["abcde".index(a)], DIGESTS["abcde".index(b)]))


def test_only_images_that_are_near_by_every_kind_are_duplicates(tmp_path: Path) -> None:
    rows = pairs_of("a", "b", "c", "d")
    near = {
        "image_embedding": {between("a", "b"): 0.96, between("a", "c"): 0.99},
        # c cannot be compared with a by phash, and d is near a by phash alone.
        "phash": {between("a", "b"): 1 - 3 / 64, between("a", "d"): 1.0},
    }
    inputs = write_inputs(tmp_path, rows, 1)
    folders = {f"dedup-{kind}": Folder(Store(str(tmp_path)), f"dedup-{kind}", "1") for kind in near}
    for kind, found in near.items():
        folders |= put_near(folders[f"dedup-{kind}"], listed(found))
    steps = [step("near", duplicates=STEPS["both"])]
    funnel, _, out = run_select(Inputs({**inputs.folders, **folders}, inputs.parts), steps, tmp_path / "run")
    a, b, c, d = (row.pair_id for row in rows)
    assert decided_of([out.table("decisions.parquet", 0)]) == {a: None, b: ("near", a, 0.96), c: None, d: None}
    facts = funnel["steps"][-1]
    assert facts["searches"] == [
        {
            "by": "image_embedding",
            "near": "dedup-image_embedding",
            "compares": "image",
            "threshold": 0.95,
            "measure": "cosine",
            "searched": 1_225,
            "dense": 0,
        },
        {
            "by": "phash",
            "near": "dedup-phash",
            "compares": "image",
            "threshold": 1 - 5 / 64,
            "measure": "share of equal bits",
            "searched": 1_225,
            "dense": 0,
        },
    ]
    assert facts["by"] is None
    assert facts["says"] == (
        "cosine ≥ 0.95, and at most 5 of 64 bits of phash differ; keeps the one with the highest clip_similarity"
    )
    assert facts["rule"] == (
        "all but one of each set of duplicates by `image_embedding` and `phash` (cosine ≥ 0.95, and at most 5 of 64 "
        "bits of phash differ), best `clip_similarity` kept"
    )
    # The made run's pixels have no hash.
    assert facts["without"] == "4 without a value stay"


def test_all_captions_of_the_best_image_stay(tmp_path: Path) -> None:
    first, again, near_one, near_again = (Image(f"http://x/{n}", sha256=DIGESTS[n // 2]) for n in range(4))
    rows = [
        Row(first, "a cat", similarity=0.9),
        Row(near_one, "a cat", similarity=0.8),
        Row(first, "a dog", similarity=0.7),
        # The same bytes from another place, with a caption that is there already, and with one that is not.
        Row(again, "a cat", similarity=0.6),
        Row(again, "a Cat", similarity=None),
        Row(near_one, "a bird", similarity=0.5),
        Row(near_again, "a bird", similarity=0.4),
    ]
    inputs = write_inputs(tmp_path, rows, 1, [(DIGESTS[0], DIGESTS[1], 0.97)])
    keep = {"keep": "all_captions"}
    steps = [
        step("same", duplicates={"by": "sha256", **keep}),
        step("near", duplicates=EMBEDDING | keep),
    ]
    funnel, _, out = run_select(inputs, steps, tmp_path / "run")
    cat, other, dog, repeat, spelt, bird, last = (row.pair_id for row in rows)
    assert decided_of([out.table("decisions.parquet", 0)]) == {
        cat: None,
        other: ("near", cat, 0.97),
        dog: None,
        repeat: ("same", cat, 1.0),
        spelt: None,
        bird: ("near", cat, 0.97),
        last: ("near", cat, 0.97),
    }
    facts = funnel["steps"][-2]
    assert facts["keep"] == "all_captions"
    assert facts["says"] == "equal bytes; keeps the image with the highest clip_similarity, with all its captions"
    assert facts["rule"] == (
        "all but one image of each set of duplicates by `sha256` (equal bytes), best `clip_similarity` kept with all "
        "its captions"
    )


def recipe(*duplicates: dict[str, Any]) -> Recipe:
    steps = [{"drop": f"near_{number}", "duplicates": keys} for number, keys in enumerate(duplicates)]
    return parse({"version": 1, "source": {"paths": ["x"]}, "output": "o", "select": steps})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"by": "sha256", "all": [EMBEDDING, PHASH]}, ": write either `by`, with a kind of duplicate, or `all`, with"),
        ({}, ": write either `by`, with a kind of duplicate, or `all`, with a list of several"),
        ({"all": []}, ".all: a list of 0 entries is not allowed; write a list of 2 to"),
        ({"all": [PHASH]}, ".all: a list of 1 entry is not allowed; write a list of 2 to"),
        ({"all": [PHASH, {"by": "phash", "within": 3}]}, ".all: phash is named twice; write each kind once"),
        (
            {"all": [PHASH, {"by": "sha256"}]},
            ".all: equal bytes are duplicates by phash, too; leave one of the two out",
        ),
        ({"all": [PHASH, {"by": "md5"}]}, ".all.1.by: 'md5' is not allowed; write caption or image_embedding or"),
        ({"by": "caption", "keep": "all_captions"}, ": keep: all_captions keeps captions of one image, but caption"),
        ({"all": [PHASH, {"by": "caption"}], "keep": "all_captions"}, "but caption drops captions; keep best"),
        ({"by": "text_embedding", "above": 0.9}, ": above 0.9 is below dedup.text_floor 0.95; lower dedup.text_floor"),
        ({"by": "text_embedding"}, ": by: image_embedding or text_embedding needs `above`, and no other kind"),
        ({"by": "caption", "above": 0.9}, ": by: image_embedding or text_embedding needs `above`, and no other kind"),
        ({"all": [PHASH, {}]}, "lacks 'duplicates.all.1.by'"),
        ({"all": [EMBEDDING, PHASH], "above": 0.95}, ": `above` needs `by` beside it; with `all`, write it in an"),
        (
            {"all": [EMBEDDING, PHASH | {"by": "image_embedding"}]},
            ".all.1: by: image_embedding or text_embedding needs",
        ),
        ({"all": [EMBEDDING | {"above": 1.5}, PHASH]}, ".all.0.above: 1.5 is not allowed; write a number above 0, at"),
        ({"all": [EMBEDDING, PHASH | {"within": 17}]}, ".all.1.within: 17 is not allowed; write a whole number from 0"),
        ({"all": [EMBEDDING, PHASH | {"prefer": "width"}]}, "unknown key 'duplicates.all.1.prefer' in select step"),
        ({"all": [EMBEDDING, PHASH | {"within": 9}]}, ".all.1: within 9 is more than dedup.phash_bits 8; raise dedup"),
        ({"all": [EMBEDDING | {"above": 0.5}, PHASH]}, ".all.0: above 0.5 is below dedup.floor 0.9; lower dedup.floor"),
    ],
)
def test_a_wrong_list_of_kinds_is_one_line(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe(keys)
    assert message in str(caught.value)
    assert "select step 'near_0'" in str(caught.value)
    assert "\n" not in str(caught.value)


MODELS = {"small": {"name": "pocket"}, "large": {"name": "pocket"}}


def of_models(*duplicates: dict[str, Any], **dedup: Any) -> Recipe:
    steps = [{"drop": f"near_{number}", "duplicates": keys} for number, keys in enumerate(duplicates)]
    content = {"version": 1, "source": {"paths": ["x"]}, "output": "o", "models": MODELS, "select": steps}
    return parse(content | {"dedup": dedup})


def test_each_model_that_is_named_has_its_own_search() -> None:
    large, small = EMBEDDING | {"model": "large"}, EMBEDDING | {"model": "small"}
    asked = of_models(large, small, {"all": [EMBEDDING, large]}, EMBEDDING)
    assert near_searches_of(asked) == {"image_embedding", "image_embedding-large"}
    assert [step.kind.near(step) for step in steps_of(asked)] == [
        ["image_embedding-large"],
        ["image_embedding"],
        ["image_embedding", "image_embedding-large"],
        ["image_embedding"],
    ]
    # The first model by its name is the default: the same step, in fingerprints, too.
    assert asked.select[1].duplicates == asked.select[3].duplicates
    assert of_models({"all": [small, PHASH]}) == of_models({"all": [EMBEDDING, PHASH]})


def test_steps_by_two_models_read_the_near_pairs_of_each(tmp_path: Path) -> None:
    rows = pairs_of("a", "b", "c", "d")
    near = {
        "image_embedding": {between("a", "b"): 0.99, between("a", "c"): 0.99},
        "image_embedding-large": {between("a", "b"): 0.8, between("a", "d"): 0.9},
    }
    inputs = write_inputs(tmp_path, rows, 1)
    folders = {f"dedup-{name}": Folder(Store(str(tmp_path)), f"dedup-{name}", "1") for name in near}
    for name, found in near.items():
        folders |= put_near(folders[f"dedup-{name}"], listed(found))
    large = {"by": "image_embedding", "model": "large"}
    steps = [
        step("both", duplicates={"all": [EMBEDDING, large | {"above": 0.75}]}),
        step("large", duplicates=large | {"above": 0.85}),
    ]
    funnel, _, out = run_select(Inputs({**inputs.folders, **folders}, inputs.parts), steps, tmp_path / "run")
    a, b, c, d = (row.pair_id for row in rows)
    decided = decided_of([out.table("decisions.parquet", 0)])
    assert decided == {a: None, b: ("both", a, 0.99), c: None, d: ("large", a, 0.9)}
    searches = funnel["steps"][-1]["searches"]
    assert [(one["by"], one["near"]) for one in searches] == [
        ("image_embedding-large", "dedup-image_embedding-large"),
    ]
    assert "by `image_embedding` and `image_embedding-large` (cosine" in funnel["steps"][-2]["rule"]
    assert likeness(funnel["steps"][-1], 0.9) == "cosine 0.9000"


def test_a_model_has_a_floor_of_its_own() -> None:
    large = {"by": "image_embedding", "model": "large", "above": 0.6}
    asked = of_models(large, EMBEDDING, floors={"large": 0.5})
    kinds = {step.drop: step.duplicates.kind for step in asked.select}
    assert kinds["near_0"].depends(asked.dedup) == {"floor": 0.5}
    assert kinds["near_0"].settings(asked) | {"floor": 0.5, "model": "large"} == kinds["near_0"].settings(asked)
    assert kinds["near_1"].depends(asked.dedup) == {"floor": 0.9}
    assert kinds["near_0"].reads(["small", "large"]) == ["fetch", "embed-large"]


@pytest.mark.parametrize(
    ("keys", "dedup", "message"),
    [
        ({"model": "lage"}, {}, "select step 'near_0': there is no model 'lage'; did you mean 'large'?"),
        ({"above": 0.5, "model": "large"}, {}, "above 0.5 is below dedup.floor 0.9; set dedup.floors.large"),
        (
            {"above": 0.5, "model": "large"},
            {"floors": {"large": 0.6}},
            "above 0.5 is below dedup.floors.large 0.6; lower dedup.floors.large",
        ),
        ({}, {"floors": {"lage": 0.6}}, "dedup.floors.lage: there is no model 'lage'; did you mean 'large'?"),
        ({}, {"floors": {"small": 0.6}}, "dedup.floors.small: small is the first model, whose floor is dedup.floor"),
        ({}, {"floors": {"large": 1.5}}, "dedup.floors.large: 1.5 is not allowed; write a number above 0, below 1"),
        (
            {"by": "phash", "within": 3, "above": None, "model": "large"},
            {},
            "takes `model`, and no other kind takes it",
        ),
    ],
)
def test_a_wrong_model_is_one_line(keys: dict[str, Any], dedup: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        of_models(EMBEDDING | keys, **dedup)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_is_named_once_in_a_list() -> None:
    small = EMBEDDING | {"model": "small"}
    for twice in ([EMBEDDING, small], [small, small]):
        with pytest.raises(RecipeError, match="image_embedding is named twice; write each kind once, or once for each"):
            of_models({"all": twice})


def test_steps_agree_on_what_stays() -> None:
    keeps = {"by": "sha256", "keep": "all_captions"}
    with pytest.raises(RecipeError, match=r"'near_1' keeps best, but 'near_0' keeps all_captions; steps with `dup"):
        recipe(keeps, EMBEDDING)
    recipe(keeps, EMBEDDING | {"keep": "all_captions"})
    with pytest.raises(RecipeError, match=r"'near_0': duplicates\.keep: 'all' is not allowed; write best or all_cap"):
        recipe({"by": "sha256", "keep": "all"})


def test_captions_are_read_where_they_are_compared() -> None:
    (asked,) = steps_of(recipe({"by": "sha256", "keep": "all_captions"}))
    assert asked.kind.columns(asked, []) == ["clip_similarity", "sha256", "caption"]
    columns = {"clip_similarity": pa.float32(), "sha256": pa.string()}
    with pytest.raises(RecipeError, match=r"select step 'near_0': duplicates\.keep: there is no column 'caption'"):
        asked.kind.check(asked, columns)


def test_all_kinds_of_a_step_are_searched_and_their_columns_read() -> None:
    asked = recipe({"all": [EMBEDDING, {"by": "pdq", "within": 31}]}, {"by": "sha256"})
    assert near_searches_of(asked) == {"image_embedding", "pdq"}
    first = steps_of(asked)[0]
    assert first.kind.columns(first, []) == ["clip_similarity", "sha256", "decoded", "pdq"]
    # As fingerprints and settings have it, and back.
    assert asked.select[0].model_dump(mode="json", exclude_defaults=True) == {
        "drop": "near_0",
        "duplicates": {"all": [EMBEDDING, {"by": "pdq", "within": 31}]},
    }
