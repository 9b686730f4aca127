import itertools

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from curate import schema
from curate.errors import BrokenResult, RecipeError
from curate.signals import registry, vectors
from curate.signals.worker import open_worker
from curate.store import WHOLE, Folder, Inputs, Store

DIM = 8


@given(st.integers(0, 2**32 - 1), st.integers(0, 20), st.integers(2, 5), st.sampled_from([1.0, 14.28, 100.0]))
def test_the_share_is_the_softmax_of_torch(seed, images, prompts, scale):
    rng = np.random.default_rng(seed)
    seen = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(images, DIM))).float(), dim=-1)
    said = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(prompts, DIM))).float(), dim=-1)
    found = first_share(seen.numpy(), said.numpy(), scale)
    expected = (scale * seen.double() @ said.double().T).softmax(dim=-1)[:, 0]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
    stored = first_share(seen.half().numpy(), said.numpy(), scale)
    np.testing.assert_allclose(stored, expected.numpy(), atol=1e-3 * max(1, scale / 10))


def first_share(images, prompts, scale):
    return vectors.in_blocks(images, 1, lambda block: vectors.shares(block, prompts, scale)[:, :1])[:, 0]


def test_blocks_do_not_matter(monkeypatch):
    rng = np.random.default_rng(0)
    images, prompts = rng.normal(size=(50, DIM)), rng.normal(size=(3, DIM)).astype(np.float32)
    whole = first_share(images, prompts, 10.0)
    monkeypatch.setattr(vectors, "_BLOCK", 7)
    np.testing.assert_allclose(first_share(images, prompts, 10.0), whole, atol=1e-6)


class Made:
    """A part with two images and three pairs, one image without an embedding; prompts for two concepts."""

    def __init__(self, root):
        self.store = Store(str(root))
        self.folders = {}
        self.attempts = itertools.count()
        urls = sorted(("http://a/1", "http://a/2"), key=schema.image_id)
        self.images = [schema.image_id(url) for url in urls]
        rows = [(urls[0], "Two WORDS"), (urls[0], "click to enlarge"), (urls[1], "a cat"), (urls[1], "a cat")]
        plan = {
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
            "caption": {},
            **{f"concept_{n}": {"prompts": f"prompts-{n}", "embed": "embed-m"} for n in ("watermark", "text")},
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


def test_a_part_gets_a_table_for_each_scorer(tmp_path):
    made = Made(tmp_path)
    tables = made.run("signals-caption", "signals-concept_watermark", "signals-concept_text")
    for name, table in tables.items():
        scorer = name.removeprefix("signals-")
        assert table["pair_id"].to_pylist() == made.pair_ids
        declared = registry.columns(scorer, made.params[scorer])
        assert dict(zip(table.schema.names[1:], table.schema.types[1:], strict=True)) == declared
        assert made.counts[name] == {"pairs": 3}
    share = np.exp(6) / (np.exp(6) + np.exp(8))
    found = tables["signals-concept_watermark"]["concept_watermark"].to_pylist()
    assert found == [pytest.approx(share, abs=1e-3)] * 2 + [None]
    assert tables["signals-caption"]["caption_is_boilerplate"].to_pylist() == [False, True, False]


def test_only_what_is_missing_is_computed(tmp_path):
    made = Made(tmp_path)
    del made.folders["embed-m"]
    assert made.run("signals-caption").keys() == {"signals-caption"}


def test_embeddings_of_other_images_or_models_are_refused(tmp_path):
    made = Made(tmp_path)
    made.embed(np.ones((2, DIM), np.float16), [False, False], [made.images[0], b"\0" * 16])
    with pytest.raises(BrokenResult, match="lacks images"):
        made.run("signals-concept_text")
    made.embed(np.ones((2, 4), np.float16), [False, False])
    with pytest.raises(BrokenResult, match="different models"):
        made.run("signals-concept_text")


def test_scorers_are_known_by_name():
    assert registry.columns("concept_x", {}) == {"concept_x": pa.float32()}
    assert registry.version("caption") >= 1
    assert registry.version("concept_x") >= 1
    for name in ("captions", "concept_", "concept"):
        with pytest.raises(RecipeError, match="did you mean"):
            registry.version(name)
