"""A server's drawings, a list of them, and a recipe over the list: what tests of whole runs begin with."""

from pathlib import Path
from typing import Any

import yaml

from helpers.fetch_samples import picture
from helpers.hostile_server import HostileServer, ok


def write_recipe(folder: Path, server: HostileServer, rows: int, **keys: Any) -> Path:
    """Writes list.csv and recipe.yaml into a folder, where the output is `run`; returns the recipe's path.

    Args:
        folder: where to write.
        server: gets a drawing for each row, at /0.jpg, /1.jpg, …, where it has no other answer there.
        rows: of the list.
        keys: of the recipe; those of `fetch` are added to the ones that the server needs.
    """
    for number in range(rows):
        server.answers.setdefault(f"/{number}.jpg", ok(picture(number)))
    lines = [f"{server.url(f'/{number}.jpg')},a grey drawing number {number}" for number in range(rows)]
    (folder / "list.csv").write_text("\n".join(["url,caption", *lines]) + "\n")
    fetch = {"allow": [server.address], "retries": 0, "timeout": 20, **keys.pop("fetch", {})}
    source = {"paths": [str(folder / "list.csv")]}
    recipe = {"version": 1, "source": source, "output": str(folder / "run"), "fetch": fetch, **keys}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def keep_top(name: str, fraction: float) -> dict[str, Any]:
    """Returns a step that keeps the best share by clip_similarity."""
    return {"drop": name, "keep_top": {"of": "clip_similarity", "fraction": fraction}}
