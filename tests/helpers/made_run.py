"""A small run made by hand: the committed folders of every pass before pack, without running any of them."""

import datetime as dt
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from curate import schema
from curate.columns import describe
from curate.pack import card, worker
from curate.select import funnel
from curate.store import WHOLE, Folder, Inputs, Store

DIMS = {"small": 8, "big": 12}
SIGNALS = {
    "caption": {"caption_words": pa.int64(), "caption_language": pa.string()},
    "concept_mark": {"concept_mark": pa.float32()},
}
SOURCE = {
    "source_when": pa.timestamp("us", "UTC"),
    "source_raw": pa.binary(),
    "source_score": pa.float64(),
    "source_tags": pa.list_(pa.string()),
}
PLAN = pa.schema([*schema.PLAN, *SOURCE.items()])
COLUMNS = describe(PLAN, {"small": False, "big": True}, SIGNALS)
SETTINGS = {"shard_size": 5, "layouts": ["webdataset"], **COLUMNS.to_json()}
FACTS = {name: {"weights_sha256": name * 8, "embed_dim": dim} for name, dim in DIMS.items()}
RECIPE = {
    "fetch": {"image_size": 512, "resize": "keep_ratio_largest", "format": "jpg", "quality": 95},
    "models": {"small": {"precision": "fp32"}, "big": {"precision": "bf16"}},
}
CAPTIONS = ["a red ball", "ein gelber Hund | mit Hut", "", 'emoji 😀 and "quotes"', "two\nlines", "<script>x</script>"]


@dataclass
class MadeRun:
    """A run folder, with the truth about its kept pairs in the result's order."""

    store: Store
    inputs: Inputs
    kept: list[dict] = field(default_factory=list)

    def folder(self, name: str) -> Folder:
        return Folder(self.store, name, "f" * 8)


def make_run(root: Path, *, parts: int = 3, images: int = 10, keep_none_in: int | None = 1) -> MadeRun:
    """Parts with failed and undecodable images, second captions, repeats, and a part that keeps nothing."""
    store = Store(str(root))
    names = ["plan", "fetch", "pixels", *(f"embed-{m}" for m in DIMS), *(f"signals-{s}" for s in SIGNALS), "select"]
    run = MadeRun(store, Inputs({name: Folder(store, name, "f" * 8) for name in names}, range(parts)))
    totals, dropped, summary = {"rows": 0, "images": 0, "repeated": 0}, {}, []
    for part in range(parts):
        decisions = _make_part(run, part, images, keep_nothing=part == keep_none_in, totals=totals)
        reasons = [row["reason"] for row in decisions if row["reason"]]
        for reason in reasons:
            dropped[reason] = dropped.get(reason, 0) + 1
        summary.append({"part": part, "planned": len(decisions), "kept": len(decisions) - len(reasons)})
    plan = run.folder("plan").outputs(WHOLE)
    plan.counts.update(parts=parts, **totals)
    plan.commit()
    select = run.folder("select").outputs(WHOLE)
    fields = [("part", pa.int32()), ("planned", pa.int64()), ("kept", pa.int64())]
    select.put_table("parts.parquet", pa.Table.from_pylist(summary, schema=pa.schema(fields)))
    select.put_json("funnel.json", _funnel(totals["rows"], len(run.kept), parts, dropped))
    select.commit()
    return run


def pack(run: MadeRun, root: Path | None = None, settings: dict = SETTINGS) -> Folder:
    """Packs all shards and the card, into another store where `root` is given."""
    folder = Folder(Store(str(root)), "pack", "f" * 8) if root else run.folder("pack")
    shards = worker.n_shards(run.inputs["select"], settings["shard_size"])
    pack_shard = worker.open_worker(settings)
    for shard in range(shards):
        out = folder.outputs(shard)
        pack_shard(shard, run.inputs, {"pack": out})
        out.commit()
    out = folder.outputs(WHOLE)
    card.open_worker({**settings, "recipe": RECIPE, "facts": FACTS})(WHOLE, run.inputs, {"pack": out})
    out.commit()
    return folder


def write_manifest(run: MadeRun, folder: Folder, settings: dict = SETTINGS, **changed: object) -> None:
    infos = [vars(info) for unit in folder.units() for info in folder.marker(unit).files.values()]
    manifest = {
        "version": 1,
        "n_parts": len(run.inputs.parts),
        "parts": len(run.inputs.parts),
        "missing_parts": [],
        "folders": {name: made.path for name, made in run.inputs.folders.items()} | {"pack": folder.path},
        "pack": folder.path,
        "layouts": settings["layouts"],
        "shard_size": settings["shard_size"],
        "samples": len(run.kept),
        "embeddings": COLUMNS.embeddings(),
        "result": sorted(infos, key=lambda info: info["name"]),
    }
    run.store.put("run.json", json.dumps({"columns": {"uid": None}, "source": []}).encode())
    run.store.put("manifest.json", json.dumps(manifest | changed).encode())
    for name in ("recipe.json", "decided.json", *(f"{path}/pass.json" for path in manifest["folders"].values())):
        run.store.put_json(name, {})


def _make_part(run: MadeRun, part: int, images: int, *, keep_nothing: bool, totals: dict) -> list[dict]:
    rng = np.random.default_rng(part)
    urls = sorted((f"http://host/{part}/{n}" for n in range(images)), key=schema.image_id)
    state = {url: ("failed", "broken", "good", "good", "good", "good")[n % 6] for n, url in enumerate(urls)}
    rows = []
    for number, url in enumerate(urls):
        for second in range(1 + number % 2):
            caption = CAPTIONS[(number + second + part) % len(CAPTIONS)]
            row: dict[str, Any] = {
                "pair_id": schema.pair_id(url, caption),
                "image_id": schema.image_id(url),
                "url": url,
            }
            row |= {"caption": caption, "source_row": 100 * part + 10 * number + second, "repeated": False}
            row |= {"source_when": dt.datetime(2024, 1, 1 + number, tzinfo=dt.UTC), "source_raw": b"\x00\xff"}
            row |= {"source_score": float("nan") if number % 2 else 0.5, "source_tags": ["a", None]}
            rows.append(row)
            if number == 3:
                rows.append(row | {"source_row": 999, "repeated": True})
    rows.sort(key=lambda row: (row["image_id"], row["pair_id"], row["source_row"]))
    pairs = [row for row in rows if not row["repeated"]]
    _commit(
        run,
        "plan",
        part,
        {"pairs.parquet": _table(rows, PLAN)},
        rows=len(rows),
    )
    totals["rows"] += len(rows)
    totals["images"] += len(urls)
    totals["repeated"] += len(rows) - len(pairs)

    fetched, pixels, tar = [], [], io.BytesIO()
    data = {}
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for number, url in enumerate(urls):
            image, ok = schema.image_id(url), state[url] != "failed"
            extension = ("jpg", "png", "webp")[number % 3]
            row = {"image_id": image, "status": "success" if ok else "failed", "milliseconds": 7}
            if ok:
                data[image] = _picture(rng, extension)
                row |= {"width": 20, "height": 10, "original_width": 40, "original_height": 20}
                row |= {"sha256": hashlib.sha256(data[image]).hexdigest(), "file": f"{image.hex()}.{extension}"}
                member = tarfile.TarInfo(row["file"])
                member.size = len(data[image])
                archive.addfile(member, io.BytesIO(data[image]))
            else:
                row["error_class"] = "dns"
            fetched.append(row)
            decoded = state[url] == "good" if ok else None
            pixels.append({"image_id": image, "decoded": decoded, "brightness": 1.5 if decoded else None})
    out = run.folder("fetch").outputs(part)
    out.put("images.tar", tar.getvalue())
    out.put_table("images.parquet", _table(fetched, schema.IMAGES))
    out.commit()
    _commit(run, "pixels", part, {"pixels.parquet": _table(pixels, schema.PIXELS)})

    vectors = {}
    for model, dim in DIMS.items():
        by_image = {schema.image_id(url): _vector(rng, dim) if state[url] == "good" else None for url in urls}
        by_pair = {row["pair_id"]: _vector(rng, dim) for row in pairs}
        vectors[model] = by_image, by_pair
        image_fields = pa.schema([("image_id", schema.ID), ("image_embedding", schema.embedding(dim))])
        image_rows = [{"image_id": image, "image_embedding": vector} for image, vector in by_image.items()]
        pair_fields = [
            ("pair_id", schema.ID),
            ("text_embedding", schema.embedding(dim)),
            ("clip_similarity", pa.float32()),
        ]
        pair_rows = [
            {
                "pair_id": row["pair_id"],
                "text_embedding": by_pair[row["pair_id"]],
                "clip_similarity": _cosine(by_image[row["image_id"]], by_pair[row["pair_id"]]),
            }
            for row in pairs
        ]
        if model == "big":
            pair_fields.append(("clip_similarity_mirrored", pa.float32()))
            pair_rows = [row | {"clip_similarity_mirrored": row["clip_similarity"]} for row in pair_rows]
        tables = {
            "images.parquet": _table(image_rows, image_fields),
            "pairs.parquet": _table(pair_rows, pa.schema(pair_fields)),
        }
        _commit(run, f"embed-{model}", part, tables)
    ids = [row["pair_id"] for row in pairs]
    words = [len(row["caption"].split()) for row in pairs]
    caption = pa.table(
        {"pair_id": pa.array(ids, schema.ID), "caption_words": words, "caption_language": ["en"] * len(ids)}
    )
    concept = pa.table({"pair_id": pa.array(ids, schema.ID), "concept_mark": pa.array([0.5] * len(ids), pa.float32())})
    _commit(run, "signals-caption", part, {"pairs.parquet": caption})
    _commit(run, "signals-concept_mark", part, {"pairs.parquet": concept})

    decisions = []
    for number, row in enumerate(rows):
        reason = {"failed": "fetch:dns", "broken": "undecodable", "good": None}[state[row["url"]]]
        if row["repeated"]:
            reason = "repeated"
        if reason is None and (keep_nothing or number % 5 == 4):
            reason = "mismatched"
        decisions.append({"pair_id": row["pair_id"], "kept": reason is None, "reason": reason})
        if reason is None:
            of = {
                model: (by_image[row["image_id"]], by_pair[row["pair_id"]])
                for model, (by_image, by_pair) in vectors.items()
            }
            run.kept.append({**row, "bytes": data[row["image_id"]], "vectors": of})
    _commit(run, "select", part, {"decisions.parquet": _table(decisions, schema.DECISIONS)})
    return decisions


def _commit(run: MadeRun, name: str, part: int, tables: dict[str, pa.Table], **counts: int) -> None:
    out = run.folder(name).outputs(part)
    for role, table in tables.items():
        out.put_table(role, table)
    out.counts.update(counts)
    out.commit()


def _table(rows: list[dict], fields: pa.Schema) -> pa.Table:
    return pa.table([pa.array([row.get(f.name) for row in rows], f.type) for f in fields], schema=fields)


def _vector(rng: np.random.Generator, dim: int) -> np.ndarray:
    vector = rng.standard_normal(dim)
    return (vector / np.linalg.norm(vector)).astype(np.float16)


def _cosine(image: np.ndarray | None, text: np.ndarray) -> float | None:
    return None if image is None else float(image.astype(np.float32) @ text.astype(np.float32))


def _picture(rng: np.random.Generator, extension: str) -> bytes:
    encoded = io.BytesIO()
    pixels = rng.integers(0, 255, (10, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(encoded, {"jpg": "jpeg"}.get(extension, extension))
    return encoded.getvalue()


def _funnel(planned: int, kept: int, parts: int, dropped: dict[str, int]) -> dict:
    steps, seen = [], planned
    for name in ("repeated", "fetch:dns", "undecodable", "mismatched"):
        step: dict[str, Any] = {
            **funnel.FACTS,
            "name": name,
            "kind": "before",
            "seen": seen,
            "dropped": dropped.get(name, 0),
        }
        if name == "mismatched":
            rule = "all but the top 30 % of all fetched pairs by `clip_similarity`: `clip_similarity` ≥ 0.21"
            step |= {"kind": "keep_top", "of": "clip_similarity", "threshold": 0.21, "rule": rule}
        else:
            step |= {"rule": schema.reason_words(name)}
        steps.append(step)
        seen -= dropped.get(name, 0)
    return {"planned": planned, "kept": kept, "parts": parts, "missing_parts": [], "sample": None, "steps": steps}
