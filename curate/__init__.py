"""Curate image-text datasets: fetch, score with CLIP, filter, deduplicate, pack. Every pair is accounted for.

Start reading at `curate.schema` (the tables of a run) and `curate.flow` (the order of the passes).
"""

__version__ = "0.1.0"
