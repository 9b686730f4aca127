"""The benchmark of dense groups runs, and decides as the definition says."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from curate.store import Store

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def groups(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("groups", BENCHMARKS / "groups.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("dedup", None)


def test_pairs_of_groups_are_stored_as_a_search_stores_them(groups, tmp_path):
    found = groups.stored_pairs(Store(str(tmp_path / "run")), 600, 1100)
    a, b, similarity = (np.concatenate(column) for column in zip(*found.pairs(), strict=True))
    assert len(a) == 1100
    assert len(set(zip(a.tolist(), b.tolist(), strict=True))) == 1100
    assert (a < b).all()
    assert b.max() < found.count == 600
    decided = groups.decided(found, tmp_path)
    # By the definition: in the order of the values, a kept node drops its near ones.
    near = {(i, j) for i, j, s in zip(a.tolist(), b.tolist(), similarity.tolist(), strict=True) if s >= groups.ABOVE}
    kept = []
    for node in np.argsort(-np.random.default_rng(1).random(600)).tolist():
        if not any((min(node, other), max(node, other)) in near for other in kept):
            kept.append(node)
    assert decided["dropped"] == 600 - len(kept) > 100


def test_placeholders_are_all_near_each_other(groups):
    vectors = groups.group(300, 32, 0.99)
    wide = np.asarray(vectors, np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    assert (wide @ wide.T).min() > groups.ABOVE
