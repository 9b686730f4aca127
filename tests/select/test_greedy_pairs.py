"""Steps of duplicates that compare captions, alone and with images, against the definition in plain Python."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
from helpers.near_pairs import InMemory
from helpers.select_run import Image, Row, step
from hypothesis import given
from hypothesis import strategies as st

from curate import schema
from curate.captions import normal_form
from curate.dedup.kinds.phash import Phash
from curate.duplicates import CAPTION
from curate.near import Dense
from curate.select import greedy_pairs
from curate.select.database import connect
from curate.select.decisions import decisions
from curate.select.funnel import Funnel
from curate.select.relations import Found, Listing, Rule, Side
from curate.select.rows import PartRows
from curate.select.steps.registry import read as read_steps

DIGESTS = [f"{number:064x}" for number in range(4)]
CAPTIONS = ["a cat", "A cat.", "a dog", "a  dog", "a bird"]
COSINES = [0.9, 0.949999, 0.95, 0.97, 1.0]
SHARES = [1 - bits / 64 for bits in (0, 4, 5, 6)]
Near = dict[frozenset[str], float]
"""Similarity by pair of images, by digest, or of captions."""

IMAGE, BITS = {"by": "image_embedding", "above": 0.95}, {"by": "phash", "within": 5}
TEXT, CAPTION_STEP = {"by": "text_embedding", "above": 0.95}, {"by": "caption"}
STEPS: dict[str, dict[str, Any]] = {
    "same": {"by": "sha256"},
    "cosine": IMAGE,
    "caption": CAPTION_STEP,
    "text": TEXT,
    "text_wide": TEXT | {"above": 0.9},
    "same_pair": {"all": [{"by": "sha256"}, CAPTION_STEP]},
    "image_caption": {"all": [IMAGE, CAPTION_STEP]},
    "caption_bits": {"all": [CAPTION_STEP, BITS]},
    "image_text": {"all": [IMAGE, TEXT]},
    "text_image": {"all": [TEXT | {"above": 0.97}, IMAGE | {"above": 0.9}]},
    "images_caption": {"all": [IMAGE | {"above": 0.9}, BITS, CAPTION_STEP]},
    "everything": {"all": [BITS, TEXT, IMAGE, CAPTION_STEP]},
    "captions": {"all": [CAPTION_STEP, TEXT]},
}
NEAR_KINDS = {"image_embedding": DIGESTS, "phash": DIGESTS, "text_embedding": CAPTIONS}

Run = tuple[list[Row], dict[str, Near], list[str], dict[str, list[str]]]


@st.composite
def runs(draw: st.DrawFn) -> Run:
    """Rows of few images and captions, near pairs by kind, the names of steps, and dense nodes by kind."""
    rows = [
        Row(
            Image(f"http://x/{number}", sha256=draw(st.sampled_from([*DIGESTS, None]))),
            draw(st.sampled_from(CAPTIONS)),
            similarity=draw(st.sampled_from([None, 0.1, 0.2, 0.3])),
        )
        for number in range(draw(st.integers(1, 16)))
    ]
    near: dict[str, Near] = {}
    for kind, nodes in NEAR_KINDS.items():
        values = st.sampled_from([None, *(SHARES if kind == "phash" else COSINES)])
        drawn = {frozenset(pair): draw(values) for pair in itertools.combinations(nodes, 2)}
        near[kind] = {pair: value for pair, value in drawn.items() if value is not None}
    names = draw(st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=4, unique=True))
    dense = {kind: draw(st.lists(st.sampled_from(nodes), unique=True)) for kind, nodes in NEAR_KINDS.items()}
    return rows, near, names, dense


def by_kind(keys: Mapping[str, Any], near: Mapping[str, Near], a: Row, b: Row) -> float | None:
    """How alike two pairs are by a kind that counts them as duplicates; else None."""
    kind = keys["by"]
    if kind == "caption":
        return 1.0 if normal_form(a.caption) == normal_form(b.caption) else None
    one, other = (a.caption, b.caption) if kind == "text_embedding" else (a.image.sha256, b.image.sha256)
    if one is None or other is None:
        return None
    if one == other:
        return 1.0
    similarity = near.get(kind, {}).get(frozenset((one, other)), 0.0)
    least = 1 - keys["within"] / 64 if kind == "phash" else keys.get("above", 2.0)
    return similarity if similarity >= least else None


def alike(name: str, near: Mapping[str, Near], a: Row, b: Row) -> float | None:
    """How alike two pairs are by a step that counts them as duplicates, by its first kind with a search; else None."""
    kinds = STEPS[name].get("all", [STEPS[name]])
    found = [by_kind(kind, near, a, b) for kind in kinds]
    if None in found:
        return None
    return next((value for kind, value in zip(kinds, found, strict=True) if kind["by"] in NEAR_KINDS), 1.0)


def rank(row: Row) -> tuple[bool, float, bytes]:
    return (row.similarity is None, -(row.similarity or 0.0), row.pair_id)


def by_definition(rows: Sequence[Row], near: Mapping[str, Near], names: Sequence[str]) -> dict[bytes, Any]:
    """By pair: None where it stays, else the step, the kept pair and the similarity, decided in the order of rank."""
    kept: list[Row] = []
    decided: dict[bytes, Any] = {}
    for row in sorted(rows, key=rank):
        matches = [
            (number, -similarity, place)
            for number, name in enumerate(names)
            for place, other in enumerate(kept)
            if (similarity := alike(name, near, row, other)) is not None
        ]
        if matches:
            number, similarity, place = min(matches)
            decided[row.pair_id] = (names[number], kept[place].pair_id, -similarity)
        else:
            decided[row.pair_id] = None
            kept.append(row)
    return decided


def in_memory(nodes: list[str], near: Near, dense: list[str], digests: list[str]) -> InMemory:
    """What a search found, in two tables; pairs of dense nodes are not stored, but compared."""

    def similarity(left: Any, right: Any) -> float:
        return near.get(frozenset((nodes[int(left[0])], nodes[int(right[0])])), 0.0)

    class OfNodes(Phash):
        def similarities(self, left: Any, right: Any) -> Any:
            return np.array([[similarity(a, b) for b in right] for a in left]).reshape(len(left), len(right))

        def each_similarity(self, left: Any, right: Any) -> Any:
            return np.array([similarity(a, b) for a, b in zip(left, right, strict=True)])

    stored = [
        (*sorted(nodes.index(one) for one in pair), value) for pair, value in near.items() if not pair <= set(dense)
    ]
    a, b = (np.array([pair[side] for pair in stored], np.int64) for side in (0, 1))
    similarities = np.array([pair[2] for pair in stored], np.float64)
    places = np.array(sorted(nodes.index(name) for name in dense), np.int64)
    crowd = Dense(OfNodes(), places, places[:, None]) if dense else None
    tables = [(a[some], b[some], similarities[some]) for some in (slice(3, None), slice(3))]
    return InMemory(digests, tables, crowd)


def decide(
    rows: Sequence[Row], near: Mapping[str, Near], names: Sequence[str], dense: Mapping[str, list[str]]
) -> dict[bytes, Any]:
    """Decides without files."""
    steps = read_steps([step(name, duplicates=STEPS[name]) for name in names])
    columns = pa.table(
        {
            "clip_similarity": pa.array([row.similarity for row in rows], pa.float64()),
            "sha256": pa.array([row.image.sha256 for row in rows], pa.string()),
            "decoded": [True] * len(rows),
            "phash": ["0" * 16] * len(rows),
            "caption": [row.caption for row in rows],
        }
    )
    ids = pa.array([row.pair_id for row in rows], schema.ID)
    part = PartRows(ids, pa.chunked_array([range(len(rows))]), pa.nulls(len(rows), pa.string()), columns)
    digests = {"text_embedding": CAPTION.digests_of(pa.chunked_array([CAPTIONS])).to_pylist()}
    searches = {
        f"dedup-{kind}": in_memory(nodes, near[kind], dense[kind], digests.get(kind, nodes))
        for kind, nodes in NEAR_KINDS.items()
    }
    with connect(threads=1) as con:
        funnel = Funnel(con, steps, columns.column_names)
        funnel.add(0, part)
        funnel.run(searches.__getitem__)
        decided = [row for verdicts in funnel.verdicts() for row in decisions(verdicts, steps).to_pylist()]
    assert len({row["pair_id"] for row in decided}) == len(rows), "a pair has two decisions"
    fates = ("reason", "duplicate_of", "duplicate_similarity")
    return {row["pair_id"]: None if row["kept"] else tuple(row[name] for name in fates) for row in decided}


@given(runs(), st.sampled_from([(1 << 22, 1 << 10), (4, 4), (1, 1)]))
def test_what_stays_and_what_goes_is_by_definition(run: Run, sizes: tuple[int, int]) -> None:
    rows, near, names, dense = run
    listed, fewest = sizes
    with patch.multiple(greedy_pairs, _LISTED=listed, _FEWEST=fewest):
        decided = decide(rows, near, names, dense)
    assert decided == by_definition(rows, near, names)
    # The guarantees, apart from the order in which the definition decides.
    of = {row.pair_id: row for row in rows}
    kept = [of[pair] for pair, fate in decided.items() if fate is None]
    for a, b in itertools.combinations(kept, 2):
        assert all(alike(name, near, a, b) is None for name in names)
    for pair, fate in decided.items():
        if fate is not None:
            name, original, similarity = fate
            assert decided[original] is None
            assert rank(of[original]) < rank(of[pair])
            assert similarity == alike(name, near, of[original], of[pair])


def listed_pairs(rules: Sequence[Rule], codes: Mapping[str, Any]) -> tuple[Any, int]:
    """Decides rows by code; returns which are kept, and how many pairs of rows were looked at."""
    looked_at = 0
    listing = Listing._pairs

    def counted(self: Listing, *args: Any) -> Any:
        nonlocal looked_at
        found = listing(self, *args)
        looked_at += len(found[0])
        return found

    with patch.object(Listing, "_pairs", counted):
        kept = greedy_pairs.decided(rules, codes)
        named = sum(len(table) for table in greedy_pairs._named(rules, codes, kept))
    assert named == np.count_nonzero(~kept)
    return kept, looked_at


def test_many_pairs_of_one_caption_or_of_one_image_are_not_compared_with_each_other() -> None:
    n = 100_000
    own, one = np.arange(n), np.zeros(n, np.int64)
    image, caption = Side("image"), Side("caption")
    both, alone = Rule(0, [image, caption]), Rule(1, [caption])
    # Only pairs of the same image and the same caption are duplicates.
    for codes in ({"image": own, "caption": one}, {"image": one, "caption": own}):
        kept, looked_at = listed_pairs([both], codes)
        assert kept.all()
        assert looked_at == 0
    kept, looked_at = listed_pairs([both], {"image": own // 2, "caption": one})
    assert kept.tolist() == [True, False] * (n // 2)
    assert looked_at < 10 * n
    # All but the first are duplicates of it, by either rule.
    for rules in ([both], [alone], [both, alone]):
        kept, looked_at = listed_pairs(rules, {"image": one, "caption": one})
        assert np.flatnonzero(kept).tolist() == [0]
        assert looked_at < 60 * n


def test_many_near_images_of_one_caption_are_not_compared_with_each_other() -> None:
    n = 20_000
    images = np.arange(n)
    # A hub that is near all others, of which each is near the next.
    hub = (np.zeros(n - 1, np.int64), images[1:], np.full(n - 1, 0.99))
    chain = (images[1:-1], images[2:], np.full(n - 2, 0.98))
    pairs = tuple(np.concatenate(columns) for columns in zip(hub, chain, strict=True))
    near = Side("image", [(Found.of(n, pairs), 0.95)])  # type: ignore[arg-type]
    for caption, expected in ((np.zeros(n, np.int64), 1), (images, n)):
        rule = Rule(0, [near, Side("caption")], similarity=0)
        kept, looked_at = listed_pairs([rule], {"image": images, "caption": caption})
        assert np.count_nonzero(kept) == expected
        assert looked_at < 60 * n
