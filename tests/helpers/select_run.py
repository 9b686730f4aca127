"""Small runs for select: tables as the passes before it write them, and the pass called on them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from curate import schema
from curate.columns import describe
from curate.runs.sample import Sample
from curate.select.worker import open_worker
from curate.store import WHOLE, Folder, Inputs, Store
from helpers.near_pairs import put_near

SIGNALS = {"caption": {"caption_words": pa.int32()}, "concept_cat": {"concept_cat": pa.float32()}}
PLAN = pa.schema([*schema.PLAN, ("source_Price", pa.float64())])
COLUMNS = describe(PLAN, {"a": False, "b": True}, SIGNALS)


@dataclass(frozen=True)
class Image:
    """A URL and what became of it."""

    url: str
    error_class: str | None = None
    decoded: bool | None = True
    sha256: str | None = None
    width: int = 100


@dataclass(frozen=True)
class Row:
    """A row of the source with what was measured of its pair."""

    image: Image
    caption: str
    part: int = 0
    similarity: float | None = None
    words: int | None = None
    cat: float | None = None
    price: float | None = None
    uid: bytes | None = None

    @property
    def pair_id(self) -> bytes:
        return self.uid or schema.pair_id(self.image.url, self.caption)


def step(drop: str, **kind: Any) -> dict[str, Any]:
    """A step as the recipe dumps it."""
    duplicates = kind.get("duplicates")
    if duplicates is not None:
        duplicates = {"above": None, "prefer": "clip_similarity", **duplicates}
    keep_top = kind.get("keep_top")
    over = kind.get("over", "survivors")
    return {
        **kind,
        "drop": drop,
        "where": kind.get("where"),
        "keep_top": keep_top,
        "over": over,
        "duplicates": duplicates,
    }


def planned(rows: Sequence[Row], part: int) -> list[tuple[int, Row, bool]]:
    """The part's rows in the plan's order: number in the source, row, repeated."""
    numbered = [(number, row) for number, row in enumerate(rows) if row.part == part]
    first = {(row.pair_id, row.image.url): number for number, row in reversed(numbered)}
    ordered = sorted(numbered, key=lambda it: (schema.image_id(it[1].image.url), it[1].pair_id, it[0]))
    return [(number, row, first[row.pair_id, row.image.url] != number) for number, row in ordered]


def write_inputs(root: Path, rows: Sequence[Row], parts: int, near: Sequence[tuple[str, str, float]] = ()) -> Inputs:
    """The tables of plan, fetch, embed, signals and dedup."""
    store = Store(str(root))
    names = [
        "plan",
        "fetch",
        "pixels",
        "embed-a",
        "embed-b",
        *(f"signals-{name}" for name in SIGNALS),
        "dedup-image_embedding",
    ]
    folders = {name: Folder(store, name, "0") for name in names}

    def put(name: str, role: str, unit: int, table: pa.Table) -> None:
        out = folders[name].outputs(unit, "0")
        out.put_table(role, table)
        out.counts["parts"] = parts
        out.commit()

    for part in range(parts):
        plan = planned(rows, part)
        table = pa.table(
            {
                "pair_id": [row.pair_id for _, row, _ in plan],
                "image_id": [schema.image_id(row.image.url) for _, row, _ in plan],
                "url": [row.image.url for _, row, _ in plan],
                "caption": [row.caption for _, row, _ in plan],
                "source_row": [number for number, _, _ in plan],
                "repeated": [repeated for _, _, repeated in plan],
                "source_Price": pa.array([row.price for _, row, _ in plan], pa.float64()),
            },
            schema=PLAN,
        )
        put("plan", "pairs.parquet", part, table)
        images = {schema.image_id(row.image.url): row.image for _, row, _ in plan}
        facts = [
            {
                "image_id": image_id,
                "status": "failed" if image.error_class else schema.FETCHED,
                "error_class": image.error_class,
                "sha256": None if image.error_class else image.sha256 or image.url,
                "width": None if image.error_class else image.width,
                "height": None if image.error_class else 100,
            }
            for image_id, image in images.items()
        ]
        put("fetch", "images.parquet", part, pa.Table.from_pylist(facts, schema=schema.IMAGES))
        pixels = [
            {"image_id": image_id, "decoded": None if image.error_class else image.decoded}
            for image_id, image in images.items()
        ]
        put("pixels", "pixels.parquet", part, pa.Table.from_pylist(pixels, schema=schema.PIXELS))
        pairs = [row for _, row, repeated in plan if not repeated]
        ids = pa.array([row.pair_id for row in pairs], schema.ID)
        similarity = pa.array([row.similarity for row in pairs], pa.float32())
        put("embed-a", "pairs.parquet", part, pa.table({"pair_id": ids, "clip_similarity": similarity}))
        opposite = pa.array([None if row.similarity is None else -row.similarity for row in pairs], pa.float32())
        put(
            "embed-b",
            "pairs.parquet",
            part,
            pa.table({"pair_id": ids, "clip_similarity": opposite, "clip_similarity_mirrored": similarity}),
        )
        words = pa.array([row.words for row in pairs], pa.int32())
        put("signals-caption", "pairs.parquet", part, pa.table({"pair_id": ids, "caption_words": words}))
        cats = pa.array([row.cat for row in pairs], pa.float32())
        put("signals-concept_cat", "pairs.parquet", part, pa.table({"pair_id": ids, "concept_cat": cats}))
    put("plan", "summary.parquet", WHOLE, pa.table({}))
    folders |= put_near(folders["dedup-image_embedding"], near)
    return Inputs(folders, list(range(parts)))


def run_select(
    inputs: Inputs,
    steps: Sequence[dict[str, Any]],
    root: Path,
    threads: int | None = None,
    *,
    missing: Sequence[int] = (),
    sample: Sample | None = None,
) -> tuple[dict[str, Any], dict[int, list[dict[str, Any]]], Folder]:
    """Runs the pass: the funnel, the decisions by part, and its folder."""
    folder = Folder(Store(str(root)), "select", "0")
    scope = {"missing": list(missing), "sample": asdict(sample) if sample else None}
    settings = {"steps": steps, **COLUMNS.to_json(), "memory_limit": "200MB", **scope}
    out = folder.outputs()
    open_worker({**settings, **({"threads": threads} if threads else {})})(WHOLE, inputs, {"select": out})
    out.commit()
    decided = {part: folder.table("decisions.parquet", part).to_pylist() for part in inputs.parts}
    return folder.json("funnel.json"), decided, folder
