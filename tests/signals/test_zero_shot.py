"""Classes, heads and targets of a part, from what is stored; the oracle is torch on the same numbers."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers.head_weights import stored
from helpers.signals_part import DIM, Made

from curate.errors import BrokenResult
from curate.signals.head_file import read
from curate.signals.kinds.classes import SIGNAL
from curate.store import WHOLE


def directions(made, folder, rows, names, scale=None):
    column = pa.array(list(rows), pa.list_(pa.float32(), rows.shape[1]))
    table = pa.table({"prompt": names, "embedding": column})
    made.put(folder, WHOLE, {"prompts.parquet": table}, {"logit_scale": scale, "logit_bias": None} if scale else None)


def unit(*shape):
    rows = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class Embedded(Made):
    """With the embeddings as they are stored, normalised."""

    vectors: torch.Tensor


@pytest.fixture
def made(tmp_path):
    found = Embedded(tmp_path)
    rows = unit(2, DIM).astype(np.float16)
    found.embed(rows, [False, False])
    found.vectors = torch.nn.functional.normalize(torch.from_numpy(rows).float(), dim=-1)
    return found


def test_classes_are_clips_zero_shot_classification(made):
    labels, rows = ["cat", "dog", "house"], unit(3, DIM)
    directions(made, "labels-kind", rows, labels, 20.0)
    made.params["class_kind"] = CLASSES
    table = made.run("signals-class_kind")["signals-class_kind"]
    share = (20 * made.vectors @ torch.from_numpy(rows).T).softmax(-1)
    best = [0, 0, 1]  # the pairs' images
    assert table["class_kind"].to_pylist() == [labels[share[n].argmax()] for n in best]
    np.testing.assert_allclose(table["class_kind_probability"], [share[n].max() for n in best], atol=1e-4)
    assert dict(zip(table.schema.names[1:], table.schema.types[1:], strict=True)) == SIGNAL.columns("class_kind")


def test_of_equal_labels_the_first_counts(made):
    row = unit(1, DIM)
    directions(made, "labels-kind", np.concatenate([row, row]), ["one", "two"], 20.0)
    made.params["class_kind"] = CLASSES
    assert set(made.run("signals-class_kind")["signals-class_kind"]["class_kind"].to_pylist()) == {"one"}


def test_an_image_without_an_embedding_has_no_value(made, tmp_path):
    made.embed(unit(2, DIM).astype(np.float16), [False, True])
    directions(made, "labels-kind", unit(2, DIM), ["one", "two"], 20.0)
    directions(made, "targets-good", unit(2, DIM), ["a", "b"])
    path = stored(torch.nn.Linear(DIM, 1), tmp_path / "head.pth")
    made.params["class_kind"] = CLASSES
    made.params["target_good"] = TARGETS
    made.params["head_taste"] = head_params(path)
    for table in made.run("signals-class_kind", "signals-target_good", "signals-head_taste").values():
        for name in table.column_names[1:]:
            assert [value is None for value in table[name].to_pylist()] == [False, False, True]


def test_the_nearest_target_counts(made):
    rows = unit(5, DIM)
    directions(made, "targets-good", rows, list("abcde"))
    made.params["target_good"] = TARGETS
    found = made.run("signals-target_good")["signals-target_good"]["target_good"]
    expected = (made.vectors @ torch.from_numpy(rows).T).max(-1).values
    np.testing.assert_allclose(found, expected[[0, 0, 1]], atol=1e-4)


def scorer(kind, keys, directions=None, **learned):
    return {"kind": kind, "keys": keys, "learned": learned, "embeddings": "embed-m", "directions": directions}


CLASSES = scorer("classes", {"labels": ["a", "b"]}, "labels-kind")
TARGETS = scorer("targets", {"images": ["x"]}, "targets-good")


def head_params(path, index=0):
    return scorer("heads", {"path": path, "activation": "relu"}, sha256=read(path).sha256, index=index)


def test_a_head_is_applied_to_stored_embeddings(made, tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(DIM, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    made.params["head_taste"] = head_params(stored(module, tmp_path / "head.pth"), index=1)
    found = made.run("signals-head_taste")["signals-head_taste"]["head_taste"]
    expected = module(made.vectors).detach()[:, 1]
    np.testing.assert_allclose(found, expected[[0, 0, 1]], atol=1e-4)


def test_directions_of_another_model_are_refused(made):
    directions(made, "targets-good", unit(2, 4), ["a", "b"])
    made.params["target_good"] = TARGETS
    with pytest.raises(BrokenResult, match="different models"):
        made.run("signals-target_good")
