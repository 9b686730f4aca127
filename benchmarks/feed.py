"""Measures how fast images are decoded and prepared for a model: in threads, and in processes.

    python benchmarks/feed.py [--photos FOLDER] [--workers 1 2] [--images 2000]

Nothing is embedded. Pictures are those of `score.py`: a longer side of 512 pixels, JPEG at quality 95, resized to 224;
with the pixel columns, as when a part is embedded for the first time, and without. The ways are measured in turn, and
the fastest of three rounds counts, as disturbances can only slow a round down. `own` is the processor time that this
process itself spent on an image, in milliseconds, which its other threads do not get. The last line is one JSON object.

Measured on two cores of an AMD EPYC (AVX2), drawn pictures, nothing else running:

                 with pixel columns            without
                 images/s    own ms      images/s    own ms
    1 thread          230      4.37           513      1.96
    1 process         224      0.11           438      0.11
    2 threads         406      4.51           953      1.99
    2 processes       445      0.10           929      0.08

So on two cores, sending images to processes and back costs as much as it saves. Processes pay off with more cores: the
process that drives a GPU spends 0.1 ms on an image, and its decoders do not wait for its lock.
"""

import argparse
import json
import os
import time
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import torch
from score import stored_pictures

from curate.embed.decode.decoding import Decoding
from curate.embed.decode.prepare import Prepare
from curate.embed.model.preprocess import Preprocess

ROUNDS = 3
SIDE = 224
AHEAD = 256


@dataclass(frozen=True)
class Way:
    """One way of preparing images: a pool of threads or processes, with or without pixel columns."""

    name: str
    decoding: Decoding
    prepare: Prepare


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=Path, help="a folder of JPEGs in the place of drawn pictures")
    parser.add_argument("--workers", type=int, nargs="+", default=sorted({1, os.cpu_count() or 1}))
    parser.add_argument("--images", type=int, default=2000, help="of each way and round (2000)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    members = list(enumerate(islice(cycle(stored_pictures(arguments.photos)), arguments.images)))
    preprocess = Preprocess.of({"size": SIDE})
    found: dict[str, list[float]] = {}
    print("| | images/s | own ms |\n|---|---|---|")
    for workers in arguments.workers:
        pools = {"threads": Decoding(workers), "processes": Decoding(workers, in_processes=True)}
        ways = [
            Way(f"{workers} {kind}, {'with' if measures else 'without'} pixel columns", pool, prepare)
            for measures in (True, False)
            for prepare in [Prepare([preprocess], [SIDE], measures, is_exact=False)]
            for kind, pool in pools.items()
        ]
        for way in ways:
            once(way, members[:64])
        rounds = [[once(way, members) for way in ways] for _ in range(ROUNDS)]
        for way, its in zip(ways, zip(*rounds, strict=True), strict=True):
            seconds, own = min(its)
            found[way.name] = [round(len(members) / seconds, 1), round(1000 * own / len(members), 2)]
            print(f"| {way.name} | {found[way.name][0]} | {found[way.name][1]} |")
        for pool in pools.values():
            pool.close()
    print(json.dumps(found))


def once(way: Way, members: list[tuple[int, bytes]]) -> tuple[float, float]:
    """Returns the seconds of one pass over the members, and the processor seconds of this process."""
    own, started = time.process_time(), time.perf_counter()
    assert sum(image is not None for _, image in way.decoding.prepared(way.prepare, iter(members), AHEAD)) == len(
        members
    )
    return time.perf_counter() - started, time.process_time() - own


if __name__ == "__main__":
    main()
