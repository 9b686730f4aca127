"""Embed: images and captions through CLIP models, and the pixel columns, one part at a time.

    weights.py     where a model's config and weights lie: named, local or remote → local files and digests
    facts.py       what a model is, without running it (`describe`)
    loading.py     the model itself, from its weights (`load`)
    fit.py         whether weights fit their model, and one line where they do not
    model.py       images and captions through a model
    text.py        captions → embeddings, without work on padding
    vision.py      images → embeddings, without work on what is not read
    last_block.py  what both leave out of a transformer's last block
    batch.py       how many rows go through a model at once, and less where memory does not hold them
    images.py      a part's tar → its images' bytes, and these decoded
    preprocess.py  a decoded image as a model takes it
    pixels.py      what is measured of an image without a model
    prepare.py     an image, decoded once → as every model takes it, and measured
    decoding.py    that, ahead of whoever takes the images: in threads, or in
    decoder.py     processes
    reading.py     a part read ahead: tables, captions, tar
    memory.py      freed memory is used again on a CPU
    worker.py      a part: the pass itself
    prompts.py     the prompts of zero-shot signals → embeddings
    targets.py     sets of target images → embeddings

Runs with torch, open_clip, pyarrow, numpy, pillow and fsspec alone (docs/embed-bare.md).
"""
