import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers.signals_part import DIM, Made
from hypothesis import given
from hypothesis import strategies as st

from curate.errors import BrokenResult, RecipeError
from curate.signals import vectors
from curate.signals.registry import KINDS
from curate.signals.worker import open_worker


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


def test_a_part_gets_a_table_for_each_scorer(tmp_path):
    made = Made(tmp_path)
    tables = made.run("signals-caption", "signals-concept_watermark", "signals-concept_text")
    for name, table in tables.items():
        scorer = name.removeprefix("signals-")
        assert table["pair_id"].to_pylist() == made.pair_ids
        declared = KINDS[str(made.params[scorer]["kind"])].columns(scorer)
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


def test_a_kind_that_is_not_installed_is_named():
    with pytest.raises(RecipeError, match=r"there is no signal 'concept'; did you mean 'concepts'"):
        open_worker({"scorers": {"concept_x": {"kind": "concept", "keys": {}}}})


def test_what_a_kind_gives_is_held_against_what_it_declares(tmp_path, monkeypatch):
    made = Made(tmp_path)
    for wrong in (
        {},
        {"concept_text": pa.array([0.5])},
        {"concept_text": pa.array([0.5] * 3), "more": pa.array([1] * 3)},
    ):
        monkeypatch.setattr(type(KINDS["concepts"]), "score", lambda *_, wrong=wrong: wrong)
        with pytest.raises(BrokenResult, match=r"it declares \['concept_text'\]"):
            made.run("signals-concept_text")
