"""Samples through plan and fetch, without the passes after them; and tars made to be read."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from curate import recipe, schema
from curate.fetch import from_samples as members
from curate.plan import worker
from curate.prepare import prepare
from curate.store import WHOLE, Folder, Inputs, Store


def jpeg(seed: int = 0, size: tuple[int, int] = (24, 16)) -> bytes:
    """A small picture of its own."""
    sink = io.BytesIO()
    corners = np.random.default_rng(seed).integers(0, 255, (2, 2, 3)).astype(np.uint8)
    Image.fromarray(corners).resize(size, Image.Resampling.BICUBIC).save(sink, "JPEG", quality=95)
    return sink.getvalue()


def write_tar(path: Path, members_: list[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> Path:
    """A tar of these members, in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members_:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def sample(key: str, seed: int = 0, caption: str | None = None, /, **about: Any) -> list[tuple[str, bytes]]:
    """The members of one sample."""
    found = [(f"{key}.jpg", jpeg(seed))]
    found += [] if caption is None else [(f"{key}.txt", caption.encode())]
    return found + ([(f"{key}.json", json.dumps(about).encode())] if about else [])


def read_samples(root: Path | str, *paths: Path | str, part_size: int = 1000, **keys: Any) -> list[dict[str, Any]]:
    """Every row of the plan with its image's row and `data`, the stored bytes, in the order of the source.

    Args:
        root: an empty folder for the run.
        paths: the recipe's.
        part_size: rows of a part.
        keys: more keys of `source`, and `fetch`, the section.
    """
    fetch = {"resize": "no", "threads": 3, **keys.pop("fetch", {})}
    source = {"kind": "samples", "paths": [str(path) for path in paths], **keys}
    loaded = recipe.parse({"version": 1, "source": source, "output": str(root), "fetch": fetch})
    prepared = prepare(loaded)
    store = Store(str(root))
    plan, images = Folder(store, "plan", "0"), Folder(store, "fetch", "0")
    out = plan.outputs()
    how = {"source": loaded.source.model_dump(mode="json"), "seed": 0, "part_size": part_size, "endpoint": None}
    worker.open_worker(how)(WHOLE, Inputs({}, ()), {"plan": out})
    out.commit()
    settings = {**loaded.fetch.model_dump(mode="json"), "endpoint": None, "processes": 1}
    settings |= {"blocked": prepared.blocked, "blocked_phash": prepared.blocked_phash}
    settings["places"] = [place["path"] for place in prepared.identity["source"]]
    read = members.open_worker(settings)
    rows = []
    for part in range(out.counts["parts"]):
        fetched = images.outputs(part)
        read(part, Inputs({"plan": plan}, [part]), {"fetch": fetched})
        fetched.commit()
        table = images.table("images.parquet", part)
        assert table.schema == schema.IMAGES
        found = {row["image_id"]: row for row in table.to_pylist()}
        with store.open(images.file("images.tar", part)) as opened, tarfile.open(fileobj=opened) as tar:
            stored = {member.name: tar.extractfile(member).read() for member in tar}
        pairs: pa.Table = plan.table("pairs.parquet", part)
        assert len(found) == len(set(pairs["image_id"].to_pylist())) == table.num_rows
        for row in pairs.to_pylist():
            image = found[row["image_id"]]
            rows.append({**row, **image, "data": stored.get(image["file"]), "notes": out.notes})
    return sorted(rows, key=lambda row: row["source_row"])
