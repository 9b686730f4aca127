"""Kills, faults of a store, a full disk: a demo of 300 pairs in 5 parts ends in the same bytes whatever happens to it.

    PYTHONPATH=tests python tests/soak.py [--kills 100] [--engines local,ray] [--seed 0]

`make soak` runs it after the soak tests. In turn:

- kills: the driver is killed (SIGKILL) at a random moment, and the same command started again, until `--kills` kills
  hit a run that was not finished; for each engine;
- faults: the output is on an S3 server behind a proxy at which 5 % of the requests fail (500, 503, resets before and
  after the request took effect, answers that break off, silence), with further kills;
- away: the same server does not answer for a minute;
- full: the output is on a small file system (tmpfs, where it may be mounted) that is full for a while.

Every finished run is compared with one that nothing happened to: each file of its result by its digest. The last line
is JSON: `kills`, `faults` (injected), `identical` (of how many finished runs all files are the same) and `runs`.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from helpers.faulty_s3 import FaultyS3, faulty

from curate.demo.corpus import Corpus
from curate.demo.server import serve
from curate.store import Json, Store

PAIRS, PART_SIZE, PORT = 300, 60, 8199
FAULTS = ("500", "503", "reset_before", "reset_after", "truncate", "stall")
SHARE = 0.05
AWAY = 60.0
TMPFS_MB = 48


@dataclass
class Soak:
    """A demo web, a reference run, and what happened so far."""

    folder: Path
    urls: list[str]
    seed: int
    kills: int = 0
    runs: int = 0
    identical: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    reference: Json = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def command(self, output: str, engine: str) -> list[str]:
        """A recipe's run into an output; the demo's recipe over the lists of the web."""
        corpus = Corpus(0, PAIRS, PORT)
        sets = {
            "source.paths": self.urls,
            "output": output,
            "fetch.allow": corpus.addresses(),
            "part_size": PART_SIZE,
            "pack.shard_size": 40,
            "fetch.timeout": 10,
            "storage.patience": 180,
        }
        recipe = Path(__file__).parents[1] / "curate" / "demo" / "recipe.yaml"
        options = [word for name, value in sets.items() for word in ("--set", f"{name}={json.dumps(value)}")]
        return [sys.executable, "-m", "curate.commands.main", "run", str(recipe), "--engine", engine, *options]

    def finish(self, output: str, engine: str, *, kill: bool, endpoint: str | None = None) -> None:
        """Runs to the end, with kills at random moments if asked to; then compares the result."""
        command = self.command(output, engine)
        span = 30.0
        while True:
            begun = time.monotonic()
            process = subprocess.Popen(
                command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            try:
                _, said = process.communicate(timeout=self.random.uniform(0.5, span) if kill else None)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                self.kills += 1
                continue
            # So that about half of the kills hit the rest of a run.
            span = max(2.0, 1.5 * (time.monotonic() - begun))
            if process.returncode:
                raise SystemExit(f"{engine}: exit {process.returncode}: {said}")
            break
        self.runs += 1
        result = {info["name"]: info["sha256"] for info in Store(output, endpoint).read_json("manifest.json")["result"]}
        self.reference = self.reference or result
        if result == self.reference:
            self.identical += 1
        else:
            differing = sorted(
                name for name in {*result, *self.reference} if result.get(name) != self.reference.get(name)
            )
            print(f"{engine}: {output} differs from the reference in {differing}", flush=True)

    def say(self, what: str) -> None:
        """Prints what is done."""
        print(f"{what}: {self.kills} kills, {sum(self.faults.values())} faults, {self.runs} runs", flush=True)


def killed(soak: Soak, engine: str, kills: int) -> None:
    """Kills drivers of runs into fresh local outputs."""
    goal = soak.kills + kills
    while soak.kills < goal:
        output = soak.folder / f"{engine}-{soak.runs}"
        soak.finish(str(output), engine, kill=True)
        shutil.rmtree(output)


@contextlib.contextmanager
def s3(folder: Path) -> Iterator[FaultyS3]:
    """An S3 server over a folder (rclone), behind the proxy that injects faults."""
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "AKIDTEST",
        "AWS_SECRET_ACCESS_KEY": "SECRETKEY1234567",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    (folder / "bucket").mkdir(parents=True)
    rclone = str(Path(sys.executable).with_name("rclone"))
    address = "127.0.0.1:8198"
    command = [rclone, "serve", "s3", "--addr", address, "--auth-key", "AKIDTEST,SECRETKEY1234567", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            with faulty(f"http://{address}") as proxy:
                proxy.conditional = True
                os.environ["AWS_ENDPOINT_URL"] = proxy.url
                time.sleep(2)
                yield proxy
        finally:
            del os.environ["AWS_ENDPOINT_URL"]
            server.terminate()


def faults(soak: Soak, proxy: FaultyS3) -> None:
    """Lets 5 % of all requests fail, with kills."""
    ended = threading.Event()

    def inject() -> None:
        # The queue of the next requests' faults is kept long enough for what arrives meanwhile.
        while not ended.wait(0.01):
            while len(proxy.faults) < 100:
                proxy.faults.append(soak.random.choice(FAULTS) if soak.random.random() < SHARE else None)

    thread = threading.Thread(target=inject)
    thread.start()
    try:
        for number in range(3):
            soak.finish(f"s3://bucket/faults-{number}", "local", kill=number > 0, endpoint=proxy.url)
    finally:
        ended.set()
        thread.join()
        proxy.faults.clear()
    soak.faults.update({str(fault): times for fault, times in proxy.seen.items() if fault})
    proxy.seen.clear()


def away(soak: Soak, proxy: FaultyS3) -> None:
    """The server answers nothing for a minute, some seconds after the start."""

    def leave() -> None:
        time.sleep(8)
        proxy.always = "reset_before"
        time.sleep(AWAY)
        proxy.always = None

    thread = threading.Thread(target=leave)
    thread.start()
    soak.finish("s3://bucket/away", "local", kill=False, endpoint=proxy.url)
    thread.join()
    soak.faults["away"] += 1


def full(soak: Soak) -> None:
    """The output's file system is full from some seconds after the start, for half a minute."""
    place = soak.folder / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_MB}m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        print("full: left out, as no file system may be mounted here", flush=True)
        return
    try:
        ballast = place / "ballast"

        def fill() -> None:
            time.sleep(6)
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                for _ in range(TMPFS_MB * 16):
                    file.write(bytes(1 << 16))
            time.sleep(30)
            ballast.unlink()

        thread = threading.Thread(target=fill)
        thread.start()
        soak.finish(str(place / "run"), "local", kill=False)
        thread.join()
        soak.faults["full"] += 1
    finally:
        subprocess.run(["umount", str(place)], check=True)


def main() -> int:
    """Runs everything; returns 0 where every result is the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="kills for each engine (100)")
    parser.add_argument("--engines", type=lambda text: text.split(","), default=["local", "ray"])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="curate-soak-") as place:
        folder = Path(place)
        corpus = Corpus(0, PAIRS, PORT)
        soak = Soak(folder, [str(path) for path in corpus.write(folder / "web").urls], arguments.seed)
        with serve(corpus):
            soak.finish(str(folder / "reference"), "local", kill=False)
            for engine in arguments.engines:
                killed(soak, engine, arguments.kills)
                soak.say(engine)
            with s3(folder / "s3") as proxy:
                faults(soak, proxy)
                soak.say("faults")
                away(soak, proxy)
                soak.say("away")
            full(soak)
            soak.say("full")
    figures = {"kills": soak.kills, "faults": sum(soak.faults.values()), "identical": soak.identical, "runs": soak.runs}
    print(json.dumps(figures))
    return int(soak.identical != soak.runs)


if __name__ == "__main__":
    sys.exit(main())
