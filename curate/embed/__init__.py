"""Embed: images and captions through CLIP models, and the pixel columns, one part at a time.

    weights.py   where a model's config and weights lie: named, local or remote → local files and digests
    model.py     an open_clip model: what it is (`describe`) and the model itself (`load`)
    text.py      captions → embeddings, without work on padding
    images.py    a part's tar → decoded images, each once, for every model and the pixel columns
    pixels.py    what is measured of an image without a model
    worker.py    a part: the pass itself
    prompts.py   the prompts of zero-shot concepts → embeddings

Runs with torch, open_clip, pyarrow, numpy, pillow and fsspec alone.
"""
