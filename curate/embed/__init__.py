"""Embed: computes CLIP embeddings of images and captions, and the pixel columns, one part at a time.

Runs with torch, open_clip, pyarrow, numpy, pillow and fsspec alone (docs/embed-bare.md).
"""
