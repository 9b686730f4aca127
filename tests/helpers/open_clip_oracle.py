"""A part's embeddings against open_clip's own, image by image and caption by caption."""

import io

import numpy as np
import pyarrow.compute as pc
import pytest
from PIL import Image


def rows_of(column):
    """Embeddings as float32[n, dim], zero where null."""
    flat = [row if row is not None else [0.0] * column.type.list_size for row in column.to_pylist()]
    return np.array(flat, np.float32).reshape(-1, column.type.list_size)


def check_against_open_clip(part, tables, name, model):
    """Every embedding and similarity against open_clip's own path, image by image and caption by caption."""
    images, pairs = tables[f"embed-{name}", "images.parquet"], tables[f"embed-{name}", "pairs.parquet"]
    assert images["image_id"].to_pylist() == [image_id for image_id, _ in part.images]
    assert pairs["pair_id"].to_pylist() == [row[0] for row in part.pairs]
    expected = {}
    for image_id, data in part.images:
        try:
            with Image.open(io.BytesIO(data or b"")) as image:
                expected[image_id] = model.embed_image(image)
        except OSError:
            expected[image_id] = None
    found = dict(zip(images["image_id"].to_pylist(), rows_of(images["image_embedding"]), strict=True))
    is_null = dict(zip(images["image_id"].to_pylist(), pc.is_null(images["image_embedding"]).to_pylist(), strict=True))
    assert is_null == {image_id: vector is None for image_id, vector in expected.items()}
    for image_id, vector in expected.items():
        if vector is not None:
            np.testing.assert_allclose(found[image_id], vector, atol=1e-3)
    text = rows_of(pairs["text_embedding"])
    similarity = pairs["clip_similarity"].to_pylist()
    assert pc.is_null(pairs["text_embedding"]).to_pylist() == [not row[3].strip() for row in part.pairs]
    for i, (_, image_id, _, caption, _, _) in enumerate(part.pairs):
        if not caption.strip():
            assert similarity[i] is None
            continue
        vector = model.embed_text(caption)
        np.testing.assert_allclose(text[i], vector, atol=1e-3)
        if expected[image_id] is None:
            assert similarity[i] is None
        else:
            assert similarity[i] == pytest.approx(float(expected[image_id] @ vector), abs=1e-5)
            stored = found[image_id] @ text[i] / np.linalg.norm(found[image_id]) / np.linalg.norm(text[i])
            assert similarity[i] == pytest.approx(stored, abs=1e-3)
