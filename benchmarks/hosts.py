"""Simulates the limits per host with many fetch workers: images lost, and concurrent requests to a large host.

    python benchmarks/hosts.py               # a table for 1, 16, 64 and 256 workers: about three minutes
    python benchmarks/hosts.py --quick       # small parts: seconds; a test runs it

The classes are the real ones (`curate.fetch.polite`): each worker has its `Hosts` and a `PartQueue` for each part. Time
is simulated, so the figures depend on the seed alone, not on the machine. All workers start at the same moment, the
worst case for the limits. One host has 5 % of the URLs of every part; the others are spread over 2,000 hosts. A
worker has 128 threads and 32 turns: an open connection waits for its turn, then for its server: 0.3 s on average
(log-normal, median 0.2 s, at most 10 s).

`lost` is the share of the large host's images without a request when `fetch.part_timeout` is over. Its concurrent
connections, of all workers together: the mean from the start until the first worker has finished its images, the
highest mean of any minute, and the most at any moment. The last line is one JSON object.
"""

import argparse
import heapq
import json
import math
import random
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from curate.fetch.http.request import Request
from curate.fetch.polite.hosts import Hosts
from curate.fetch.polite.part_queue import PartQueue

LARGE = "large.example"
SHARE = 0.05
OTHERS = 2000
THREADS, TURNS = 128, 32
LIMIT = 16
TIMEOUT = 10.0
SIGMA = 0.9
WINDOW = 60.0


@dataclass
class Load:
    """The work of each worker: parts, images of a part, mean seconds of a request, seconds of `fetch.part_timeout`."""

    images: int
    parts: int = 1
    seconds: float = 0.3
    part_timeout: float = 14400.0


@dataclass
class Worker:
    """The result of one worker: the large host's images, those lost, its requests, and when the last part ended."""

    images: int
    lost: int
    requests: list[tuple[float, float]]
    ended: float


@dataclass
class Run:
    """The result of all workers; the connections to the large host are of all workers together."""

    workers: int
    lost: float
    mean: float
    minute: float
    peak: int
    hours: float


class _Clock:
    """Simulated seconds."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulates and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--images", type=int, default=10_000, help="of a part (10,000)")
    parser.add_argument("--parts", type=int, default=1, help="of a worker (1)")
    parser.add_argument("--seconds", type=float, default=0.3, help="of a request, on average (0.3)")
    parser.add_argument("--part-timeout", type=float, default=14400.0, help="seconds (14400, the recipe's default)")
    parser.add_argument("--quick", action="store_true", help="256 workers, parts of 500 images")
    given = parser.parse_args(arguments)
    if given.quick:
        given.workers, given.images = [256], 500
    print(f"{given.parts} × {given.images} images a worker, {SHARE:.0%} of them on one host with {LIMIT} connections.")
    print(f"A request takes {given.seconds} s on average, a part at most {given.part_timeout:g} s")
    print("| workers | lost | mean | highest minute | most at once | hours |\n|---|---|---|---|---|---|")
    runs = []
    for workers in given.workers:
        run = simulated(workers, Load(given.images, given.parts, given.seconds, given.part_timeout))
        runs.append(run)
        print(
            f"| {workers} | {run.lost:.2%} | {run.mean:.1f} | {run.minute:.1f} | {run.peak} | {run.hours:.2f} |",
            flush=True,
        )
    print(json.dumps({str(run.workers): {name: round(value, 4) for name, value in vars(run).items()} for run in runs}))


def simulated(workers: int, load: Load) -> Run:
    """Returns the result of a run."""
    done = [_worker(number, workers, load) for number in range(workers)]
    spans = np.array([span for worker in done for span in worker.requests])
    saturated = min(worker.requests[-1][1] for worker in done)
    return Run(
        workers=workers,
        lost=sum(worker.lost for worker in done) / sum(worker.images for worker in done),
        mean=_busy(spans, 0.0, saturated) / saturated,
        minute=max(_busy(spans, at, at + WINDOW) / WINDOW for at in np.arange(0.0, spans.max(), WINDOW)),
        peak=_peak(spans),
        hours=max(worker.ended for worker in done) / 3600,
    )


def _worker(number: int, workers: int, load: Load) -> Worker:
    rng = random.Random(number)
    clock = _Clock()
    phase = rng.random() if workers > 1 else None
    hosts = Hosts(LIMIT / workers, None, 10, phase=phase, clock=clock)
    result = Worker(0, 0, [], 0.0)
    for _ in range(load.parts):
        names = [LARGE if rng.random() < SHARE else f"{rng.randrange(OTHERS)}.example" for _ in range(load.images)]
        hosts = hosts.next_part(rng.random() if workers > 1 else None)
        result.images += names.count(LARGE)
        queue = PartQueue(names, hosts, lambda name: (name, 80), clock.now + load.part_timeout, clock)
        _fetch(queue, load, clock, rng, result)
    result.ended = clock.now
    return result


def _fetch(queue: PartQueue, load: Load, clock: _Clock, rng: random.Random, result: Worker) -> None:
    """Fetches a part; a request takes a random time once it has its turn."""
    images = load.images
    location = math.log(load.seconds) - SIGMA**2 / 2
    running: list[tuple[float, int]] = []
    waiting: deque[int] = deque()
    requests: dict[int, tuple[Request, ExitStack, float]] = {}
    while images:
        while len(requests) < THREADS and (request := queue.next()) is not None:
            if request.stay is None:
                result.lost += request.url == LARGE
                images -= 1
                continue
            sent = ExitStack()
            sent.enter_context(request.stay.request(80))
            requests[request.row] = request, sent, clock.now
            waiting.append(request.row)
        while waiting and len(running) < TURNS:
            seconds = min(TIMEOUT, rng.lognormvariate(location, SIGMA))
            heapq.heappush(running, (clock.now + seconds, waiting.popleft()))
        due = queue.due() if len(requests) < THREADS else math.inf
        # What was due before now is handed out already.
        if not running or clock.now < due < running[0][0]:
            clock.now = due
            continue
        clock.now, row = heapq.heappop(running)
        images -= 1
        request, sent, began = requests.pop(row)
        sent.close()
        request.leave()
        if request.url == LARGE:
            result.requests.append((began, clock.now))


def _busy(spans: npt.NDArray[np.float64], start: float, end: float) -> float:
    """Returns the seconds of all requests between two times."""
    return float(np.clip(np.minimum(spans[:, 1], end) - np.maximum(spans[:, 0], start), 0, None).sum())


def _peak(spans: npt.NDArray[np.float64]) -> int:
    """Returns the most concurrent requests; one that ends when another begins is not concurrent with it."""
    times = np.concatenate([spans[:, 1], spans[:, 0]])
    steps = np.repeat([-1, 1], len(spans))
    return int(steps[np.lexsort((steps, times))].cumsum().max())


if __name__ == "__main__":
    main()
