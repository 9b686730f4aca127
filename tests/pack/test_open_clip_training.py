"""open_clip's own loader reads the result: the lines of README.md and of the card, as they stand."""

import json
import re
import shlex
import shutil
from pathlib import Path

import open_clip
import pytest
import torch
from helpers.made_run import MadeRun, make_run, pack
from open_clip.transform import image_transform
from open_clip_train.data import get_wds_dataset
from open_clip_train.params import parse_args

ROOT = Path(__file__).parents[2]
SIZE = 32
KEPT = 12
"""Pairs of the made run, in shards of 5, 5 and 2."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def result(run: MadeRun) -> Path:
    return Path(run.store.path(pack(run).path))


def readme_line() -> str:
    """The options that README.md gives for training with open_clip."""
    (options,) = re.findall(r"Training with open_clip: `([^`]*)`", (ROOT / "README.md").read_text())
    return options


def card_line(result: Path) -> str:
    """The options that the card gives."""
    (command,) = re.findall(
        r"^python -m open_clip_train\.main ((?:.*\\\n)*.*)$", (result / "README.md").read_text(), re.MULTILINE
    )
    return command.replace("\\\n", " ")


def loader(options: str, result: Path, *more: str, is_train: bool = True):
    """Open_clip's loader for these options of its training script, of a result that lies elsewhere."""
    words = [word.replace("…/shards/", f"{result}/shards/") for word in shlex.split(options)]
    words = [re.sub(r"^shards/", f"{result}/shards/", word) for word in words]
    args = parse_args([*words, "--batch-size", "4", "--workers", "0", *more])
    args.rank, args.world_size = 0, 1
    return get_wds_dataset(
        args, image_transform(SIZE, is_train=False), is_train, tokenizer=open_clip.tokenize
    ).dataloader


def captions_of(loaded) -> list[list[int]]:
    """The tokens of every caption of one epoch, sorted, once its images were found to be what a model takes."""
    batches = list(loaded)
    assert all(images.shape[1:] == (3, SIZE, SIZE) and images.dtype == torch.float32 for images, _ in batches)
    assert all(len(images) == len(texts) for images, texts in batches)
    return sorted(row.tolist() for _, texts in batches for row in texts)


def kept_captions(run: MadeRun) -> list[list[int]]:
    return sorted(open_clip.tokenize(row["caption"])[0].tolist() for row in run.kept)


def test_the_card_s_line_trains_on_every_kept_pair(run: MadeRun, result: Path) -> None:
    """`sizes.json` says how many there are."""
    loaded = loader(card_line(result), result)
    assert (loaded.num_samples, loaded.num_batches) == (KEPT, 3)
    assert captions_of(loaded) == kept_captions(run)


def test_the_readme_s_line_does_so_too(result: Path) -> None:
    """It names two shards, as of the demo's result."""
    loaded = loader(readme_line(), result)
    texts = captions_of(loaded)
    assert (loaded.num_samples, loaded.num_batches) == (KEPT, 3)
    # Ten pairs in three full batches: open_clip begins anew where the shards end.
    assert len(texts) == KEPT


def test_validation_reads_every_kept_pair_once(run: MadeRun, result: Path) -> None:
    loaded = loader(card_line(result).replace("--train-data", "--val-data"), result, is_train=False)
    assert captions_of(loaded) == kept_captions(run)


def test_without_sizes_the_number_is_given(run: MadeRun, result: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(result, moved)
    sizes = moved / "shards" / "sizes.json"
    number = sum(json.loads(sizes.read_text()).values())
    sizes.unlink()
    with pytest.raises(RuntimeError, match="--train-num-samples"):
        loader(card_line(moved), moved)
    assert captions_of(loader(card_line(moved), moved, "--train-num-samples", str(number))) == kept_captions(run)
