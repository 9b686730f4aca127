"""Draws pictures for measurements without photographs."""

import numpy as np
from PIL import Image


def drawn(seed: int) -> Image.Image:
    """Returns noise of many scales, which compresses about as well as a photograph."""
    rng = np.random.default_rng(seed)
    pixels = np.full((600, 800, 3), 128.0)
    for step in (1, 2, 4, 8, 16, 32, 64):
        coarse = rng.normal(0, 3 * step**0.5, (600 // step + 1, 800 // step + 1, 3))
        pixels += np.kron(coarse, np.ones((step, step, 1)))[:600, :800]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
