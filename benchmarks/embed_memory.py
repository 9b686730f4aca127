"""Measures whether the memory of an embedding worker grows with the number of parts that it embeds.

    python benchmarks/embed_memory.py [--parts 100] [--images 50]

One worker (the pocket model, CPU, pixels and embeddings, the next part read ahead) embeds one part after the other;
each part has drawn JPEGs of its own, 512 × 384. The script prints the resident memory after the 10th and after the last
part; the last line is one JSON object. Linux only.

Measured on two cores of an AMD EPYC with 50 images a part: 1,004 MB after 10 parts, 1,006 MB after 100, which is also
the maximum: +0.2 %. Four Python threads at the end: the main one, the reader and two that decode.
"""

import argparse
import gc
import io
import json
import re
import tarfile
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from curate import schema
from curate.embed.worker import open_worker
from curate.store import Folder, Inputs, Store


def main() -> None:
    """Embeds the parts and prints the memory figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parts", type=int, default=100, help="parts in all (100)")
    parser.add_argument("--images", type=int, default=50, help="images of a part (50)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="curate-bench-") as scratch:
        store = Store(scratch)
        parts = range(arguments.parts)
        folders = {name: Folder(store, name, "x") for name in ("plan", "fetch")}
        inputs = Inputs(folders, parts)
        model = {"name": "pocket", "pretrained": None, "precision": "fp32", "batch_size": 64, "threads": 2}
        worker = open_worker({"models": {"m": model}, "device": "cpu", "decode": "fast", "endpoint": None})
        resident = []
        start = time.monotonic()
        for part in parts:
            for known in {part, min(part + 1, parts[-1])}:
                if not folders["fetch"].is_done(known):
                    make_part(folders, known, arguments.images)
            outputs = {name: Folder(store, name, "x").outputs(part) for name in ("pixels", "embed-m")}
            worker(part, inputs, outputs, part + 1 if part + 1 in parts else None)
            for output in outputs.values():
                output.commit()
            del outputs
            gc.collect()
            resident.append(resident_mb())
        seconds = round(time.monotonic() - start, 1)
    growth = round(resident[-1] / resident[9] - 1, 4)
    print(f"{resident[9]} MB after 10 parts, {resident[-1]} MB after {len(parts)}, {threading.active_count()} threads")
    print(
        json.dumps(
            {
                "images": arguments.images,
                "parts": len(parts),
                "after_10_mb": resident[9],
                "after_all_mb": resident[-1],
                "largest_mb": max(resident),
                "memory_growth": growth,
                "threads": threading.active_count(),
                "seconds": seconds,
            }
        )
    )


def make_part(folders: dict[str, Folder], part: int, count: int) -> None:
    """Commits a part's plan and images."""
    rng = np.random.default_rng(part)
    urls = {schema.image_id(url): url for url in (f"https://example.com/{part}/{n}" for n in range(count))}
    ids = sorted(urls)
    captions = [f"a picture of number {n} in part {part}" for n in range(count)]
    pair_ids = [schema.pair_id(urls[ids[n]], captions[n]) for n in range(count)]
    rows: list[list[Any]] = [
        pair_ids,
        ids,
        [urls[image_id] for image_id in ids],
        captions,
        list(range(count)),
        [False] * count,
    ]
    columns = [pa.array(column, kind) for column, kind in zip(rows, schema.PLAN.types, strict=True)]
    plan = pa.table(columns, schema=schema.PLAN)
    output = folders["plan"].outputs(part)
    output.put_table("pairs.parquet", plan)
    output.commit()
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for image_id in ids:
            coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
            picture = io.BytesIO()
            coarse.resize((512, 384), Image.Resampling.BICUBIC).save(picture, "JPEG", quality=95)
            member = tarfile.TarInfo(f"{image_id.hex()}.jpg")
            member.size = picture.tell()
            tar.addfile(member, io.BytesIO(picture.getvalue()))
    known: dict[str, list[Any]] = {
        "image_id": ids,
        "status": [schema.FETCHED] * count,
        "file": [f"{name.hex()}.jpg" for name in ids],
    }
    images = pa.table(
        {
            name: pa.array(known.get(name, [None] * count), schema.IMAGES.field(name).type)
            for name in schema.IMAGES.names
        }
    )
    output = folders["fetch"].outputs(part)
    output.put("images.tar", sink.getvalue())
    output.put_table("images.parquet", images)
    output.commit()


def resident_mb() -> int:
    """Returns the resident memory of this process in MB."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found, "Linux only"
    return int(found[1]) >> 10


if __name__ == "__main__":
    main()
