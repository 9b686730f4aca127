"""Run a recipe over samples that you already have: WebDataset tars and folders of images, without downloads.

    python pipelines/rescore.py shards/ --output rescored
    python pipelines/rescore.py "s3://bucket/cc12m/*.tar" --output s3://bucket/cc12m-l14 --recipe l14.yaml
    python pipelines/rescore.py photos/ --output rescored --until signals

It takes tars as img2dataset, DataComp and open_clip use them, and folders with `a.jpg` beside `a.txt` or `a.json`.
Where `curate run` downloads images, this command reads them from the tars. All later passes are the same: embeddings
and scores, signals, duplicates, the recipe's steps, shards and a report. It can be killed at any time; the same command
continues where it stopped.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from curate.commands.main import main as curate
from curate.runs.options import PASSES

RECIPE = Path(__file__).parent / "recipes" / "rescore.yaml"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the recipe over the paths."""
    parser = argparse.ArgumentParser(
        description="Score image-text samples that you have: tars and folders, no download.",
        epilog="exit codes: as for curate run (docs/exit-codes.md)",
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="a .tar, a folder of tars or of images with captions, or a glob in quotes; local or s3://",
    )
    parser.add_argument("--output", required=True, metavar="RUN", help="the run's folder or s3:// prefix")
    parser.add_argument(
        "--recipe",
        type=Path,
        default=RECIPE,
        help="models, signals and steps (docs/recipes.md); it needs no version, and its source and output are not "
        "read. The default scores "
        "with the pocket model, which was trained on drawn shapes only, keeps images unchanged and drops nothing",
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the recipe")
    parser.add_argument("--until", choices=PASSES, default="report", help="stop after this pass (report)")
    parser.add_argument("--sample", metavar="SHARE", help="only this share of the samples, to its own result")
    parser.add_argument("--dry-run", action="store_true", help="say what would run and what is reused, run nothing")
    parser.add_argument("--engine", choices=("ray", "local"), default="local", help="where parts are run (local)")
    parser.add_argument("--address", help="a Ray cluster, with --engine ray")
    given = parser.parse_args(argv)

    source = {"kind": "samples", "paths": given.paths}
    changed = [] if _has_version(given.recipe) else ["version=1"]
    changed += [f"source={json.dumps(source)}", f"output={json.dumps(given.output)}", *given.set]
    command = ["run", str(given.recipe), "--until", given.until, "--engine", given.engine]
    command += [word for change in changed for word in ("--set", change)]
    command += ["--sample", given.sample] if given.sample else []
    command += ["--address", given.address] if given.address else []
    command += ["--dry-run"] if given.dry_run else []
    return curate(command)


def _has_version(recipe: Path) -> bool:
    """Returns whether a recipe has a version; True where it cannot be read, as `curate run` then reports the fault."""
    try:
        content = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return True
    return not isinstance(content, dict) or "version" in content


if __name__ == "__main__":
    sys.exit(main())
