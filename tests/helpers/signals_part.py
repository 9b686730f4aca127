"""A part of the signals pass with two images and three pairs, and its runs by scorer."""

import itertools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from curate import schema
from curate.signals.worker import open_worker
from curate.store import WHOLE, Folder, Inputs, Store

DIM = 8


class Made:
    """A part with two images and three pairs, one image without an embedding; prompts for two concepts."""

    def __init__(self, root):
        self.store = Store(str(root))
        self.folders = {}
        self.attempts = itertools.count()
        urls = sorted(("http://a/1", "http://a/2"), key=schema.image_id)
        self.images = [schema.image_id(url) for url in urls]
        rows = [(urls[0], "Two WORDS"), (urls[0], "click to enlarge"), (urls[1], "a cat"), (urls[1], "a cat")]
        plan: dict[str, Sequence[object]] = {
            "pair_id": [schema.pair_id(*row) for row in rows],
            "image_id": [schema.image_id(url) for url, _ in rows],
            "url": [url for url, _ in rows],
            "caption": [caption for _, caption in rows],
            "source_row": range(4),
            "repeated": [False, False, False, True],
        }
        self.pair_ids = plan["pair_id"][:3]
        self.put("plan", 5, {"pairs.parquet": pa.table(plan, schema=schema.PLAN)})
        vectors = np.zeros((2, DIM), np.float16)
        vectors[0, :2] = 0.6, 0.8
        self.embed(vectors, [False, True])
        prompts = np.eye(DIM, dtype=np.float32)[:2]
        column = pa.array(list(prompts), pa.list_(pa.float32(), DIM))
        for name in ("watermark", "text"):
            table = pa.table({"prompt": ["x", "y"], "embedding": column})
            self.put(f"prompts-{name}", WHOLE, {"prompts.parquet": table}, {"logit_scale": 10.0, "logit_bias": None})
        self.params = {
            "caption": {"kind": "caption", "keys": None, "learned": {}, "embeddings": None, "directions": None},
            **{
                f"concept_{n}": {
                    "kind": "concepts",
                    "keys": {"prompts": ["x", "y"]},
                    "learned": {},
                    "embeddings": "embed-m",
                    "directions": f"prompts-{n}",
                }
                for n in ("watermark", "text")
            },
        }

    def embed(self, vectors, mask, ids=None):
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1], mask=pa.array(mask))
        table = pa.table({"image_id": pa.array(ids or self.images, schema.ID), "image_embedding": column})
        self.put("embed-m", 5, {"images.parquet": table})

    def put(self, name, unit, tables, json=None):
        self.folders[name] = Folder(self.store, name, f"x{next(self.attempts)}")
        output = self.folders[name].outputs(unit)
        for role, table in tables.items():
            output.put_table(role, table)
        if json:
            output.put_json("model.json", json)
        output.commit()

    def run(self, *names):
        folders = {name: Folder(self.store, name, f"y{len(names)}") for name in names}
        outputs = {name: folder.outputs(5) for name, folder in folders.items()}
        open_worker({"scorers": self.params})(5, Inputs(self.folders, [5]), outputs)
        for output in outputs.values():
            output.commit()
        self.counts = {name: folder.marker(5).counts for name, folder in folders.items()}
        return {name: folder.table("pairs.parquet", 5) for name, folder in folders.items()}
