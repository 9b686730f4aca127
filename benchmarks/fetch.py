"""Compares fetch with the img2dataset command line: the same lists, server, sizes, processes and threads.

    python benchmarks/fetch.py                       # all figures, about half an hour on two cores
    python benchmarks/fetch.py --scale 0.01          # a quick check that the script works

Each figure is the images per second of a whole command, its start included. The commands run in turn, and the fastest
of `--repeats` runs counts for each. Photographs come from `--photos`, else they are drawn. All checks of fetch are on,
except limits per host, as all hosts are this machine and img2dataset has no such limits. The last line is one JSON
object.
"""

import argparse
import contextlib
import csv
import io
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from drawn import drawn
from photo_server import addresses
from PIL import Image

HOSTS = 10
TIMEOUT = 10
SIZE = 512
PROCESSES = 2
THREADS = 32
PART = 1000
PART_OF_STALLS = 10_000
SLOW = 3.0
SIDES = {"mixed": (500, 3000), "fast": (200, 500)}


@dataclass
class Run:
    """The result of one command."""

    seconds: float
    images: int
    peak_mb: float


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=Path, help="a folder of photographs to scale; by default they are drawn")
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of images (1)")
    parser.add_argument("--repeats", type=int, default=2, help="of each command (2)")
    parser.add_argument("--port", type=int, default=8200)
    parser.add_argument("--only", choices=["mixed", "fast", "stalls"], help="one of the figures")
    parser.add_argument("--no-memory", action="store_true", help="leave out the 110,000 images of the memory figure")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="curate-benchmark-") as folder:
        _measure(arguments, Path(folder))


def _measure(arguments: argparse.Namespace, folder: Path) -> None:
    def count(images: int) -> int:
        return max(20, int(images * arguments.scale))

    figures: dict[str, float] = {}
    for kind, (low, high) in SIDES.items():
        _write_photos(folder / kind, low, high, arguments.photos)
    lists = {
        "mixed": _write_list(folder / "mixed.csv", folder / "mixed", count(4000), arguments.port),
        "fast": _write_list(folder / "fast.csv", folder / "fast", count(20_000), arguments.port),
        "stalls": _write_list(folder / "stalls.csv", folder / "fast", count(40_000), arguments.port, never=100),
        "start": _write_list(folder / "start.csv", folder / "fast", 1, arguments.port),
    }
    bench = _Bench(folder, arguments.port)
    sides = {"curate": bench.curate, "img2dataset": bench.img2dataset}
    named = (arguments.only,) if arguments.only else ("mixed", "fast", "stalls")
    for name in ("start", *named):
        # With stalls, each part waits for its slowest request, so the size of a part matters: it is each one's default.
        part = PART_OF_STALLS if name == "stalls" else PART
        photos = folder / ("mixed" if name == "mixed" else "fast")
        runs: dict[str, list[Run]] = {who: [] for who in sides}
        with _server(photos, arguments.port, slow_hosts=1 if name == "stalls" else 0):
            for who, command in [*sides.items()] * arguments.repeats:
                runs[who].append(command(lists[name], part))
        for who, its in runs.items():
            best = min(its, key=lambda run: run.seconds)
            if not best.images:
                raise SystemExit(f"{who} fetched nothing of {lists[name].name}: there is nothing to compare")
            figures[f"{who}_{name}_seconds"] = round(best.seconds, 2)
            figures[f"{who}_{name}_images"] = best.images
            figures[f"{who}_{name}"] = round(best.images / best.seconds, 1)
        if name == "mixed":
            figures["pixel_difference"] = round(bench.pixel_difference(), 2)
    if not arguments.no_memory:
        peaks = []
        with _server(folder / "fast", arguments.port):
            for images in (10_000, 100_000):
                urls = _write_list(folder / f"{images}.csv", folder / "fast", count(images), arguments.port)
                peaks.append(bench.curate(urls, PART).peak_mb)
        figures["worker_mb_at_10000"], figures["worker_mb_at_100000"] = (round(peak, 1) for peak in peaks)
    ratios = {f"ratio_{name}": _ratio(figures, name) for name in named}
    growth = None if arguments.no_memory else round(peaks[1] / peaks[0] - 1, 3)
    _print(ratios, growth, figures)


def _ratio(figures: dict[str, float], name: str) -> float:
    return round(figures[f"curate_{name}"] / figures[f"img2dataset_{name}"], 2)


def _print(ratios: dict[str, float], growth: float | None, figures: dict[str, float]) -> None:
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}; ", end="")
    print(f"{PROCESSES} processes × {THREADS} threads, resize to {SIZE}, timeout {TIMEOUT} s, server on the same cores")
    print("| images/s | curate | img2dataset | ratio |\n|---|---|---|---|")
    for name, what in (
        ("mixed", "photographs of 500 to 3,000 pixels"),
        ("fast", "photographs of 200 to 500 pixels"),
        ("stalls", f"the same; 1 in 100 never answers, 1 host in 10 takes {SLOW:g} s"),
    ):
        if f"ratio_{name}" not in ratios:
            continue
        ours, theirs = figures[f"curate_{name}"], figures[f"img2dataset_{name}"]
        print(f"| {what} | {ours} | {theirs} | {ratios[f'ratio_{name}']} |")
    print(f"One image, which is what a command costs to start: {figures['curate_start_seconds']} s", end="")
    print(f" and {figures['img2dataset_start_seconds']} s.")
    print(json.dumps({**ratios, "memory_growth": growth, **figures}))


class _Bench:
    """Runs the two commands on a list, each time into a new folder."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self._port = port

    def curate(self, urls: Path, part: int) -> Run:
        """`curate run --until fetch`."""
        output = self._folder / "curate"
        shutil.rmtree(output, ignore_errors=True)
        recipe = {
            "version": 1,
            "source": {"paths": [str(urls)]},
            "output": str(output),
            "part_size": part,
            "fetch": {
                "image_size": SIZE,
                "timeout": TIMEOUT,
                "threads": THREADS,
                "allow": [f"{address}:{self._port}" for address in addresses(HOSTS)],
                # All hosts are this machine: with limits per host, the benchmark would measure the limits.
                "host_connections": 10_000,
                "host_failures": 1_000_000,
            },
            "workers": {"fetch": {"count": PROCESSES}},
        }
        path = self._folder / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe))
        command = ["-m", "curate.commands.main", "run", str(path), "--engine", "local", "--until", "fetch"]
        seconds, peak = _run([sys.executable, *command])
        done = output.glob("fetch-*/done/*.json")
        return Run(seconds, sum(json.loads(p.read_text())["counts"]["success"] for p in done), peak)

    def img2dataset(self, urls: Path, part: int) -> Run:
        """The img2dataset command line with the same settings."""
        output = self._folder / "img2dataset"
        shutil.rmtree(output, ignore_errors=True)
        settings = {
            "url_list": urls,
            "input_format": "csv",
            "url_col": "url",
            "caption_col": "caption",
            "output_folder": output,
            "output_format": "webdataset",
            "image_size": SIZE,
            "resize_mode": "keep_ratio_largest",
            "resize_only_if_bigger": True,
            "encode_quality": 95,
            "processes_count": PROCESSES,
            "thread_count": THREADS,
            "timeout": TIMEOUT,
            "number_sample_per_shard": part,
            "enable_wandb": False,
        }
        command = [str(Path(sys.executable).with_name("img2dataset"))]
        seconds, peak = _run([*command, *(f"--{name}={value}" for name, value in settings.items())])
        stats = output.glob("*_stats.json")
        return Run(seconds, sum(json.loads(path.read_text())["successes"] for path in stats), peak)

    def pixel_difference(self) -> float:
        """Returns the mean difference of the two commands' pictures of the same URLs, in levels of 255."""
        theirs: dict[str, bytes] = {}
        for path in sorted((self._folder / "img2dataset").glob("*.tar")):
            with tarfile.open(path) as tar:
                named = {member.name: tar.extractfile(member) for member in tar}
                for name, opened in named.items():
                    if name.endswith(".json") and opened and (picture := named.get(name.replace(".json", ".jpg"))):
                        theirs[json.load(opened)["url"]] = picture.read()
        differences: list[float] = []
        for url, ours in _ours(self._folder / "curate"):
            if url in theirs and len(differences) < 200:
                one, other = (
                    np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(float)
                    for data in (ours, theirs[url])
                )
                if one.shape == other.shape:
                    differences.append(float(np.abs(one - other).mean()))
        return float(np.mean(differences))


def _ours(output: Path) -> Iterator[tuple[str, bytes]]:
    from curate.schema import image_id

    url_of = {}
    with (output.parent / "mixed.csv").open() as opened:
        for row in csv.DictReader(opened):
            url_of[image_id(row["url"]).hex()] = row["url"]
    for path in sorted(output.glob("fetch-*/images/*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                content = tar.extractfile(member)
                assert content is not None
                yield url_of[member.name.partition(".")[0]], content.read()


def _run(command: Sequence[str]) -> tuple[float, float]:
    """Runs a command; returns its seconds, and the peak memory of its largest worker in MB."""
    environment = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    started = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    peak = [0.0]
    watching = threading.Thread(target=_watch, args=(process.pid, peak.append), daemon=True)
    watching.start()
    said, _ = process.communicate()
    seconds = time.monotonic() - started
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {process.returncode}:\n{said[-3000:]}")
    return seconds, max(peak)


def _watch(root: int, note: Callable[[float], None]) -> None:
    """Records the peak memory of every descendant of a process, until that process ends."""
    while Path(f"/proc/{root}").exists():
        for pid in _children(root):
            with contextlib.suppress(OSError, StopIteration):
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                note(int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024)
        time.sleep(1)


def _children(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield int(child)
                yield from _children(int(child))


@contextlib.contextmanager
def _server(photos: Path, port: int, slow_hosts: int = 0) -> Iterator[None]:
    command = [sys.executable, str(Path(__file__).with_name("photo_server.py")), str(photos)]
    command += [
        "--port",
        str(port),
        "--hosts",
        str(HOSTS),
        "--slow-hosts",
        str(slow_hosts),
        "--slow-seconds",
        str(SLOW),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise SystemExit("the server did not start")
        try:
            yield
        finally:
            process.kill()


def _write_list(path: Path, photos: Path, count: int, port: int, never: int | None = None) -> Path:
    """Writes a list over all photographs and hosts; every `never`-th URL is never answered."""
    files = sorted(file.name for file in photos.iterdir())
    hosts = addresses(HOSTS)
    with path.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["url", "caption"])
        for number in range(count):
            name = f"never/{number}" if never and number % never == never // 2 else files[number % len(files)]
            writer.writerow([f"http://{hosts[number % HOSTS]}:{port}/{name}?{number}", f"photograph {number}"])
    return path


def _write_photos(folder: Path, low: int, high: int, source: Path | None) -> None:
    """Writes fifty JPEGs whose longer sides are spread evenly between two bounds."""
    folder.mkdir()
    rng = random.Random(0)
    sources = sorted(source.glob("*.jpg")) if source else []
    for number in range(50):
        side = low + (high - low) * number // 49
        picture = Image.open(sources[number % len(sources)]).convert("RGB") if sources else drawn(number)
        scale = side / max(picture.size)
        size = (round(picture.width * scale), round(picture.height * scale))
        picture.resize(size, Image.Resampling.LANCZOS).save(folder / f"{number}.jpg", quality=rng.randint(80, 95))


if __name__ == "__main__":
    main()
