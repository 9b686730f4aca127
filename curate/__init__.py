"""Curate image-text datasets: fetch, score with CLIP, filter, deduplicate, pack. Every pair is accounted for.

Start reading at `curate.schema` (what a pair is) and `curate.flow` (which pass follows which).
"""

__version__ = "0.1.0"
