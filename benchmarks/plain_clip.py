"""Scores the pairs of a tar as a script of one's own would: the way that `score.py` compares with.

    echo | python benchmarks/plain_clip.py pairs.tar ViT-B-32 weights.pt --device cpu --precision fp32 --batch 64

Webdataset reads, open_clip's preprocessing and tokenizer run in a DataLoader's workers, its encode_image and
encode_text give the embeddings, and their cosine is the score. It is a process of its own, so that nothing that curate
does to its process speeds it up. For each line on standard input (the number of loader workers, 0 if empty) it goes
through the tar once and prints the seconds.
"""

import argparse
import sys
import time
from typing import Any

import open_clip
import torch
import webdataset as wds
from torch.utils.data import DataLoader, get_worker_info


def main() -> None:
    """Loads the model and scores as often as it is asked to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tar")
    parser.add_argument("model")
    parser.add_argument("weights")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int)
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
        dataset = (
            wds.WebDataset(arguments.tar, shardshuffle=False, workersplitter=None, empty_check=False)
            .decode("pil")
            .to_tuple("jpg", "txt")
            .map(lambda sample: (preprocess(sample[0]), tokenize([sample[1]])[0]))
        )
        if workers > 1:
            dataset = dataset.compose(_every)
        similarity = []
        with torch.inference_mode():
            for images, tokens in DataLoader(dataset, batch_size=arguments.batch, num_workers=workers):
                seen = model.encode_image(images.to(arguments.device, dtype), normalize=True)
                said = model.encode_text(tokens.to(arguments.device), normalize=True)
                similarity.append((seen * said).sum(-1).float().cpu())
        print(len(torch.cat(similarity)), time.perf_counter() - started, flush=True)


def _every(source: Any) -> Any:
    """What one of some loader workers takes of a single tar."""
    info = get_worker_info()
    return (sample for n, sample in enumerate(source) if info is None or n % info.num_workers == info.id)


if __name__ == "__main__":
    main()
