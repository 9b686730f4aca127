"""A small finished run, made by hand: every folder that the report reads."""

import hashlib
import io
import tarfile
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from curate import schema
from curate.columns import describe
from curate.select.funnel import FACTS
from curate.select.steps.contract import Words
from curate.store import WHOLE, Folder, Inputs, Store
from helpers.near_pairs import put_near

SCRIPT = "<script>alert(1)</script>"
ATTRIBUTE = '"><img src=x onerror=alert(2)>'
BIDI = "safe \u202egnp.exe\u202c \u2066x\u2069"
CONTROLS = "nul \0 bell \x07 escape \x1b[31mred\x1b[0m \u2028 \x9b2J"
TEMPLATE = "{{ 7*7 }} {% raw %} </style></title><!--"
LONG = "long " * 20_000
HOSTILE = (SCRIPT, ATTRIBUTE, BIDI, CONTROLS, TEMPLATE, LONG, "שלום עולם", "", "javascript:alert(3)")

BEFORE = ("repeated", "fetch:http_4xx", "fetch:dns", "undecodable")
SMALL = "least(width, height) < 200 and '<b>' <> caption"
COSINE = {
    "by": "image_embedding",
    "near": "dedup-image_embedding",
    "measure": "cosine",
    "threshold": 0.95,
    "searched": 1_225,
}
STEPS: list[dict[str, Any]] = [
    *({"name": name, "kind": "before", "says": schema.reason_words(name)} for name in BEFORE),
    {"name": "small", "kind": "where", "says": SMALL, "is_code": True, "columns": ["width", "height", "caption"]},
    {
        "name": "watermark",
        "kind": "where",
        "says": "concept_watermark > 0.9",
        "is_code": True,
        "columns": ["concept_watermark"],
    },
    {
        "name": "mismatched",
        "kind": "keep_top",
        "says": "keeps the top 50 % of all fetched pairs by clip_similarity: clip_similarity ≥ 0.25",
        "of": "clip_similarity",
        "fraction": 0.5,
        "over": "pool",
        "threshold": 0.25,
    },
    {
        "name": "same_image",
        "kind": "duplicates",
        "says": "equal bytes; keeps the one with the highest clip_similarity",
        "by": "sha256",
        "prefer": "clip_similarity",
        "names_kept": True,
    },
    {
        "name": "near_image",
        "kind": "duplicates",
        "says": "cosine ≥ 0.95; keeps the one with the highest clip_similarity",
        "names_kept": True,
        "searches": [COSINE],
        "by": "image_embedding",
        "prefer": "clip_similarity",
    },
]
PLAN = schema.PLAN.append(pa.field("source_lang", pa.string()))
_STEP = {**FACTS, **asdict(Words("", ""))}

RECIPE = {
    "version": 1,
    "source": {"paths": ["https://user:secret@lists.example/pairs.parquet", f"/lists/{SCRIPT}.csv"]},
    "models": {"pocket": {"name": "pocket", "precision": "fp32"}},
    "select": [
        {"drop": "small", "where": "least(width, height) < 200", "keep_top": None, "over": "survivors"},
        {"drop": "mismatched", "keep_top": {"of": "clip_similarity", "fraction": 0.5}, "over": "pool"},
    ],
}


def columns_of(*models):
    """The columns of a made run with these models, as settings hold them."""
    signals = {"concept_watermark": {"concept_watermark": pa.float32()}}
    return describe(PLAN, dict.fromkeys(models, False), signals).to_json()


def settings(**changes):
    """The report's settings for a made run."""
    run = {"url": "/runs/<b>demo</b>", "engine": "local", "allow": ["127.0.0.1:8123"]}
    facts = {"pocket": {"precision": "fp32", "weights": "ab" * 32, "size": {"image": 96}, "note": SCRIPT}}
    base = {
        **columns_of("pocket"),
        "title": f"demo {SCRIPT}",
        "recipe": RECIPE,
        "facts": facts,
        "evaluation": None,
        "examples": 4,
        "run": run,
    }
    return base | changes


@dataclass
class MadeRun:
    """The run's inputs and what is true of it."""

    inputs: Inputs
    funnel: dict
    store: Store
    reasons: Counter = field(default_factory=Counter)
    captions: list[str] = field(default_factory=list)


def draw(number):
    """A picture that differs from number to number."""
    rng = np.random.default_rng(number)
    tile = rng.integers(0, 255, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(tile).resize((200, 150), Image.Resampling.NEAREST)


def jpeg(picture):
    """Its bytes."""
    sink = io.BytesIO()
    picture.save(sink, "JPEG", quality=85)
    return sink.getvalue()


def make_run(root, parts=3, rows=60, picture=draw, captions=HOSTILE, models=("pocket",), missing=(), sample=None):
    """Writes the folders of a run of `parts` parts of `rows` rows, each with every reason in it.

    Row by row the reasons go round: all steps' names, then kept, so that each is there `rows / 12` times.
    """
    store = Store(str(root))
    names = ["plan", "fetch", "pixels", *(f"embed-{model}" for model in models)]
    names += ["signals-concept_watermark", "dedup-image_embedding", "select", "pack"]
    folders = {name: Folder(store, name, "0123abcd") for name in names}
    cycle = [step["name"] for step in STEPS] + [None] * 3
    made = MadeRun(Inputs(folders, list(range(parts))), {}, store)
    everything = [_rows(part, rows, cycle, captions, models) for part in range(parts)]
    kept_ids = [row["pair_id"] for part in everything for row in part if row["reason"] is None]
    rng = np.random.default_rng(5)
    for part, listed in enumerate(everything):
        for row in listed:
            made.captions.append(row["caption"])
            if row["reason"] in ("same_image", "near_image"):
                row["duplicate_of"] = kept_ids[int(rng.integers(len(kept_ids)))]
                row["duplicate_similarity"] = 1.0 if row["reason"] == "same_image" else 0.96
        made.reasons.update(row["reason"] for row in listed)
        _write_part(folders, part, listed, picture, models)
    for part in missing:
        out = folders["plan"].outputs(part)
        out.counts.update(rows=rows)
        out.commit()
    made.funnel = _funnel(made.reasons) | {"missing_parts": list(missing), "sample": sample}
    near = [("0" * 64, "1" * 64, similarity) for similarity in (0.91, 0.95, 0.96)]
    folders |= put_near(folders["dedup-image_embedding"], near)
    select = folders["select"].outputs(WHOLE)
    select.put_json("funnel.json", made.funnel)
    select.counts.update(planned=made.funnel["planned"], kept=made.funnel["kept"])
    select.commit()
    shard = folders["pack"].outputs(0)
    shard.counts.update(samples=made.funnel["kept"], bytes=123_456)
    shard.notes.append(f"a note {SCRIPT}")
    shard.commit()
    folders["pack"].outputs(WHOLE).commit()
    return made


def _rows(part, rows, cycle, captions, models):
    listed = []
    for number in range(rows):
        reason = cycle[number % len(cycle)]
        caption = captions[(part * rows + number) % len(captions)]
        url = f"http://host{number % 5}.example/{part}/{number}.jpg?q={ATTRIBUTE}"
        rng = np.random.default_rng((part, number))
        similarity = rng.uniform(0.25, 0.6) if reason is None else rng.uniform(0.26, 0.5)
        if reason == "mismatched":
            similarity = rng.uniform(-0.1, 0.2499)
        listed.append(
            {
                "pair_id": schema.pair_id(url, caption),
                "image_id": schema.image_id(url),
                "url": url,
                "caption": caption,
                "source_row": part * rows + number,
                "source_lang": "en",
                "repeated": reason == "repeated",
                "reason": reason,
                "kept": reason is None,
                "reasons": [],
                "duplicate_of": None,
                "duplicate_similarity": None,
                "similarity": similarity,
            }
        )
    return _with_firsts(listed)


def _with_firsts(listed):
    """Gives every repeated row the first row that it repeats: the next lower row that was not one itself."""
    singles = [row for row in listed if not row["repeated"]]
    repeats = [row for row in listed if row["repeated"]]
    for repeat, first in zip(repeats, singles, strict=False):
        for name in ("pair_id", "image_id", "url", "caption"):
            repeat[name] = first[name]
    key = lambda row: (row["image_id"], row["pair_id"], row["repeated"])  # noqa: E731
    return sorted(listed, key=key)


def _write_part(folders, part, listed, picture, models):
    _put(folders["plan"], part, "pairs.parquet", _table(listed, PLAN), rows=len(listed))
    by_image = {row["image_id"]: row for row in reversed(listed)}
    images, pixels, failed = [], [], Counter()
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as opened:
        for number, (image, row) in enumerate(sorted(by_image.items())):
            reason = row["reason"] or ""
            error = reason.removeprefix("fetch:") if reason.startswith("fetch:") else None
            host = "dead.example" if error == "dns" else f"host{number % 3}.example"
            known = dict.fromkeys(schema.IMAGES.names) | {"image_id": image, "host": host}
            if error:
                failed[f"error:{error}"] += 1
                http = 404 if error == "http_4xx" else None
                images.append(
                    known | {"status": "failed", "error_class": error, "error": f"no {SCRIPT}", "http_status": http}
                )
                pixels.append({"image_id": image})
                continue
            broken = reason == "undecodable"
            data = b"\xff\xd8broken" if broken else jpeg(picture(row["source_row"]))
            name = f"{image.hex()}.jpg"
            info = tarfile.TarInfo(name)
            info.size = len(data)
            opened.addfile(info, io.BytesIO(data))
            digest = hashlib.sha256(data).hexdigest()
            images.append(known | {"status": "success", "width": 200, "height": 150, "sha256": digest, "file": name})
            pixels.append({"image_id": image, "decoded": not broken, "brightness": 100.0})
    fetch = folders["fetch"].outputs(part)
    fetch.put("images.tar", tar.getvalue())
    fetch.put_table("images.parquet", pa.Table.from_pylist(images, schema.IMAGES))
    fetch.counts.update(images=len(images), success=len(images) - failed.total(), failed=failed.total(), bytes=1000)
    fetch.counts.update(failed)
    fetch.commit()
    _put(folders["pixels"], part, "pixels.parquet", pa.Table.from_pylist(pixels, schema.PIXELS), images=len(images))
    distinct = [row for row in listed if not row["repeated"]]
    ids = pa.array([row["pair_id"] for row in distinct], schema.ID)
    lost = {row["pair_id"] for row in distinct if (row["reason"] or "").startswith(("fetch:", "undecodable"))}
    values = [None if row["pair_id"] in lost else row["similarity"] for row in distinct]
    for model in models:
        table = pa.table({"pair_id": ids, "clip_similarity": pa.array(values, pa.float32())})
        _put(folders[f"embed-{model}"], part, "pairs.parquet", table, images=len(images), pairs=len(distinct))
    marks = pa.array([None if value is None else 0.5 for value in values], pa.float32())
    table = pa.table({"pair_id": ids, "concept_watermark": marks})
    _put(folders["signals-concept_watermark"], part, "pairs.parquet", table, pairs=len(distinct))
    kept = sum(row["kept"] for row in listed)
    _put(folders["select"], part, "decisions.parquet", _table(listed, schema.DECISIONS), planned=len(listed), kept=kept)


def _table(rows, of):
    return pa.Table.from_pylist([{name: row[name] for name in of.names} for row in rows], of)


def _put(folder, part, role, table, **counts):
    out = folder.outputs(part)
    out.put_table(role, table)
    out.counts.update(counts)
    out.commit()


def _funnel(reasons):
    planned = seen = reasons.total()
    steps = []
    for step in STEPS:
        dropped = reasons[step["name"]]
        steps.append({**_STEP, **step, "seen": seen, "dropped": dropped})
        seen -= dropped
    return {"planned": planned, "kept": reasons[None], "parts": 3, "missing_parts": [], "sample": None, "steps": steps}


def evaluation(funnel):
    """An evaluation as the demo's truth gives it, in its JSON form."""
    steps = {
        step["name"]: {
            "dropped": step["dropped"],
            "right": step["dropped"] - 1,
            "wrong": 1,
            "may": 0,
            "by_kind": {"wrong_caption": step["dropped"]},
        }
        for step in funnel["steps"]
        if step["dropped"]
    }
    dropped = funnel["planned"] - funnel["kept"]
    return {
        "rows": funnel["planned"],
        "undecided": 0,
        "kept_right": funnel["kept"] - 2,
        "kept_wrong": 2,
        "kept_may": 0,
        "must_keep": funnel["kept"] - 2 + len(steps),
        "must_drop": dropped - len(steps) + 2,
        "missed": {"watermark": 2},
        "groups": 7,
        "groups_without": 1,
        "groups_with_several": 2,
        "steps": steps,
    }
