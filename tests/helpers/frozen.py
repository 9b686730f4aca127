"""Recipes whose fingerprints are frozen in tests/frozen.json, and what they come to now.

    PYTHONPATH=tests python -m helpers.frozen      writes the file anew

Write it anew only where every change in it is meant: a folder that changes is computed anew by every run that has it.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from curate.embed.model.facts import ModelFacts
from curate.embed.target_files import TargetImage
from curate.layout import lay_out
from curate.prepare import Prepared
from curate.recipe import Recipe, parse
from curate.runs.retry_rounds import Round
from curate.signals.contract import Images, Prompts
from curate.signals.registry import scorers
from curate.store import Store

FILE = Path(__file__).parents[1] / "frozen.json"

LEAST: dict[str, Any] = {"version": 1, "source": {"paths": ["list.csv"]}, "output": "run"}

RECIPES: dict[str, dict[str, Any]] = {
    "least": LEAST,
    "much": {
        **LEAST,
        "source": {"paths": ["list.parquet"], "url": "URL", "caption": "TEXT", "uid": "uid"},
        "seed": 3,
        "part_size": 250,
        "fetch": {"image_size": 256, "format": "webp", "robots": True, "timeout": 5},
        "models": {
            "l14": {"name": "ViT-L-14", "pretrained": "x", "precision": "bf16", "batch_size": 256, "mirror": True},
            "b32": {"name": "ViT-B-32", "pretrained": "y", "threads": 8},
        },
        "embed": {"decode": "exact"},
        "workers": {"fetch": {"count": 16}, "embed": {"count": 4, "gpus": 1}},
        "signals": {
            "concepts": {"mark": [["a watermark", "a logo"], "a photo"]},
            "classes": {"kind": {"labels": ["cat", "dog"], "model": "b32"}},
            "heads": {"taste": {"path": "taste.pth", "output": "sigmoid"}},
            "targets": {"good": {"images": ["good/*.jpg"]}},
        },
        "dedup": {"floor": 0.8},
        "select": [
            {"drop": "small", "where": "width < 200"},
            {"drop": "mismatched", "keep_top": {"of": "clip_similarity", "fraction": 0.3}, "over": "pool"},
            {"drop": "same", "duplicates": {"by": "sha256"}},
            {"drop": "near", "duplicates": {"by": "image_embedding", "above": 0.95}},
        ],
        "pack": {"shard_size": 1000},
    },
    "samples": {
        **LEAST,
        "source": {"kind": "samples", "paths": ["shards/*.tar"]},
        "fetch": {"timeout": 3},
        "select": [{"drop": "blank", "where": "contrast < 4"}],
    },
}

_FACTS = ModelFacts("w" * 64, "c" * 64, 512, 77, (224, 224), 100.0, None, {"size": 224})


def folders(content: dict[str, Any]) -> dict[str, str]:
    """Every pass folder of a recipe, by short name, with invented files and models."""
    recipe = parse(json.loads(json.dumps(content)))
    first, invented = next(iter(recipe.models)), TargetImage("good/1.jpg", "d" * 64)
    asked = list(scorers(recipe.signals, first))
    prompts = {s.directions_folder: s for s in asked if isinstance(s.directions, Prompts)}
    targets = {s.directions_folder: s for s in asked if isinstance(s.directions, Images)}
    prepared = Prepared(
        recipe,
        Store("run"),
        {"source": [{"name": "list", "size": 9, "etag": "e"}], "columns": {}, "seed": recipe.seed, "part_size": 9},
        dict.fromkeys(recipe.models, _FACTS),
        rounds=(Round("fetch-000000000000", ("dns",), "0001"),),
        scorers=[replace(s, learned={"sha256": "h" * 64} if s.kind.name == "heads" else {}) for s in asked],
        prompts={
            str(folder): {"model": s.model, "where": s.where, **vars(s.directions)} for folder, s in prompts.items()
        },
        targets={
            str(folder): {"model": s.model, "where": s.where, "images": [vars(invented)]}
            for folder, s in targets.items()
        },
    )
    return {name: pass_.folder.path for name, pass_ in lay_out(prepared, 7, 700).passes.items()}


def defaults(section: type[BaseModel] = Recipe, prefix: str = "") -> dict[str, Any]:
    """Every key of the recipe that has a default, with it; of sections their keys."""
    found: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            found |= defaults(type(default), f"{prefix}{name}.")
        elif default is not PydanticUndefined and name not in getattr(section, "HOW", ()):
            plain = json.dumps(default, default=lambda keys: keys.model_dump(mode="json"))
            found[f"{prefix}{name}"] = json.loads(plain)
    return found


def now() -> dict[str, Any]:
    """What the file would hold now."""
    return {"folders": {name: folders(content) for name, content in RECIPES.items()}, "defaults": defaults()}


if __name__ == "__main__":
    FILE.write_text(json.dumps(now(), indent=1, sort_keys=True) + "\n")
