"""Scores the pairs of a tar as a simple script would; `score.py` compares Curate with it.

    echo | python benchmarks/plain_clip.py pairs.tar ViT-B-32 weights.pt --device cpu --precision fp32 --batch 64

webdataset reads the tar (with `--reader tar`, where webdataset is not installed, a dataset of samples by number does),
open_clip's preprocessing and tokenizer run in the workers of a DataLoader, encode_image and encode_text compute the
embeddings, and their cosine is the score. The script is a process of its own, so that settings that Curate makes in its
process do not speed it up. For each line on standard input (the number of loader workers, 0 if empty) it scores the tar
once and prints the seconds.
"""

import argparse
import io
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import open_clip
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, get_worker_info

Prepare = Callable[[Image.Image, str], Any]


def main() -> None:
    """Loads the model, and scores the tar once for each line on standard input."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tar")
    parser.add_argument("model")
    parser.add_argument("weights")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--reader", default="webdataset", choices=["webdataset", "tar"])
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    model, _, preprocess = open_clip.create_model_and_transforms(
        arguments.model, arguments.weights, precision=arguments.precision, device=arguments.device
    )
    model.eval()
    tokenize = open_clip.get_tokenizer(arguments.model)
    dtype = open_clip.get_input_dtype(arguments.precision)
    for line in sys.stdin:
        workers = int(line.strip() or 0)
        started = time.perf_counter()
        read = _webdataset if arguments.reader == "webdataset" else _Tar
        dataset = read(arguments.tar, lambda image, text: (preprocess(image), tokenize([text])[0]), workers)
        similarity = []
        with torch.inference_mode():
            for images, tokens in DataLoader(dataset, batch_size=arguments.batch, num_workers=workers):
                seen = model.encode_image(images.to(arguments.device, dtype), normalize=True)
                said = model.encode_text(tokens.to(arguments.device), normalize=True)
                similarity.append((seen * said).sum(-1).float().cpu())
        print("scored", len(torch.cat(similarity)), time.perf_counter() - started, flush=True)


def _webdataset(tar: str, prepare: Prepare, workers: int) -> Any:
    import webdataset as wds

    dataset = (
        wds.WebDataset(tar, shardshuffle=False, workersplitter=None, empty_check=False)
        .decode("pil")
        .to_tuple("jpg", "txt")
        .map(lambda sample: prepare(*sample))
    )
    return dataset.compose(_every) if workers > 1 else dataset


class _Tar(Dataset[Any]):
    """A dataset of the samples of a tar by number; a DataLoader distributes the numbers among its workers."""

    def __init__(self, tar: str, prepare: Prepare, _workers: int) -> None:
        self._tar, self._prepare = tar, prepare
        with tarfile.open(tar) as opened:
            places = [(member.offset_data, member.size) for member in opened]
        self._samples = list(zip(places[::2], places[1::2], strict=True))

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, number: int) -> Any:
        with Path(self._tar).open("rb") as opened:
            image, text = (self._at(opened, *place) for place in self._samples[number])
        return self._prepare(Image.open(io.BytesIO(image)).convert("RGB"), text.decode())

    @staticmethod
    def _at(opened: IO[bytes], start: int, size: int) -> bytes:
        opened.seek(start)
        return opened.read(size)


def _every(source: Any) -> Any:
    """Yields the share of a single tar's samples that belongs to the current loader worker."""
    info = get_worker_info()
    return (sample for n, sample in enumerate(source) if info is None or n % info.num_workers == info.id)


if __name__ == "__main__":
    main()
