"""Kills, faults of a store, a full disk: a demo of 300 pairs in 5 parts ends in the same bytes whatever happens to it.

    PYTHONPATH=tests python tests/soak.py [--kills 100] [--cases local,ray,faults,away,full] [--seed 0]

`make soak` runs it after the soak tests. The cases, in turn:

- local, ray: a run with this engine is killed (SIGKILL) at random moments, and the same command started again, until
  `--kills` kills hit a run that was not finished. So that the last passes, which are short, are hit as often as the
  first ones, most runs begin with the first passes of a finished run;
- faults: the output is on an S3 server behind a proxy at which 5 % of the requests fail (500, 503, resets before and
  after the request took effect, answers that break off, silence), first without and then with kills. A request that is
  not answered costs the client its whole read timeout, so only the first `STALLS` of a run are;
- away: the same server answers nothing for a minute;
- full: the output is on a small file system (tmpfs, where it may be mounted) that is full for a while.

A kill hits the driver alone or, as the end of a machine does, all processes of its group; afterwards no process of the
run may be left. Every finished run has to end with exit code 0, to pass `curate verify --deep`, to contain no file that
no marker names, and to have the result of a run that nothing happened to, byte for byte. The last line is JSON:
`kills`, `faults` (injected), `identical` (of how many finished runs all of that is true) and `runs`.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import secrets
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
from curate.store import Folder, Store

CASES = ("local", "ray", "faults", "away", "full")
PAIRS, PART_SIZE = 300, 60
SHARE = 0.05
"""The share of requests that fail."""
STALLS = 3
"""Requests of one run that are not answered at all, each for longer than a client waits."""
FAULTY_KILLS = (0, 3, 3)
"""Runs over the S3 server that fails, by the most kills of each."""
AWAY = 60.0
TMPFS_MB = 48

KILLS_OF_A_RUN = 12
"""Kills after which a run on local disks is left to end."""
INTERRUPTED_STARTS = 6
"""Starts of one unit after which a run is left to end; after nine that were interrupted, a part is set aside."""
HANGS_AFTER = 900.0
ENDS_WITHIN = 180.0
"""Seconds within which all processes of a run end after its driver was killed. Some of Ray's try to reach its killed
servers for a minute; the next start does not wait for them."""

STAGES = (("plan",), ("fetch",), ("prompts", "pixels", "embed", "signals"), ("dedup",), ("select",), ("pack", "report"))
"""The passes of a run, by the first word of their folders' names, in the order in which they end."""

MARK = "CURATE_SOAK"
"""An environment variable by which the processes of a run are found."""


@dataclass
class Soak:
    """A demo web, a reference run, and what happened so far."""

    folder: Path
    corpus: Corpus
    urls: list[str]
    seed: int
    kills: int = 0
    runs: int = 0
    identical: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    killed_in: Counter[str] = field(default_factory=Counter)
    marks: list[str] = field(default_factory=list)
    reference: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def command(self, output: str, engine: str) -> list[str]:
        """A recipe's run into an output; the demo's recipe over the lists of the web."""
        sets = {
            "source.paths": self.urls,
            "output": output,
            "fetch.allow": self.corpus.addresses(),
            "part_size": PART_SIZE,
            "pack.shard_size": 40,
            "storage.patience": 180,
        }
        recipe = Path(__file__).parents[1] / "curate" / "demo" / "recipe.yaml"
        options = [word for name, value in sets.items() for word in ("--set", f"{name}={json.dumps(value)}")]
        return [sys.executable, "-m", "curate.commands.main", "run", str(recipe), "--engine", engine, *options]

    def finish(
        self,
        output: str,
        engine: str,
        *,
        span: float = 0.0,
        most_kills: int = KILLS_OF_A_RUN,
        endpoint: str | None = None,
    ) -> tuple[float, int]:
        """Runs to the end and compares the result.

        Args:
            output: the run's output, a path or URL.
            engine: `local` or `ray`.
            span: seconds that the run takes, about; 0: the run is not killed. Three of four kills come in the first
                quarter of this time, the others at any moment of it.
            most_kills: kills after which the run is left to end.
            endpoint: of the S3 server.

        Returns:
            the seconds of the last start, and the number of kills.
        """
        kills, said = 0, self.folder / "said"
        while True:
            moment = self.random.uniform(0.3, max(2.0, self.random.choice((span, span / 4, span / 4, span / 4))))
            is_killed = bool(span) and kills < most_kills and _most_starts(output, endpoint) < INTERRUPTED_STARTS
            mark, begun = secrets.token_hex(8), time.monotonic()
            with said.open("wb") as file:
                process = subprocess.Popen(
                    self.command(output, engine),
                    start_new_session=True,
                    stdout=subprocess.DEVNULL,
                    stderr=file,
                    env={**os.environ, MARK: mark},
                )
            try:
                process.wait(timeout=moment if is_killed else HANGS_AFTER)
            except subprocess.TimeoutExpired:
                self._kill(process)
                self.marks.append(mark)
                if is_killed:
                    kills += 1
                    self.kills += 1
                    self.killed_in[_newest_pass(output)] += 1
                    continue
                print(f"{engine}: {output}: still runs after {HANGS_AFTER:.0f} s: {_tail(said)}", flush=True)
            except BaseException:
                self._kill(process)
                raise
            break
        seconds = time.monotonic() - begun
        self.runs += 1
        if process.returncode:
            print(f"{engine}: {output}: exit {process.returncode}: {_tail(said)}", flush=True)
        elif self._is_as_the_reference(output, engine, endpoint):
            self.identical += 1
        return seconds, kills

    def _kill(self, process: "subprocess.Popen[bytes]") -> None:
        if self.random.random() < 0.5:
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def check_ended(self) -> None:
        """Waits until all processes of the killed runs have ended; raises SystemExit where some have not in time."""
        deadline = time.monotonic() + ENDS_WITHIN
        while left := _marked(self.marks):
            if time.monotonic() > deadline:
                for pid, command in left.items():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                    print(f"left behind: {command}", flush=True)
                raise SystemExit(f"{len(left)} processes were left {ENDS_WITHIN:.0f} s after their drivers were killed")
            time.sleep(1)
        self.marks.clear()

    def _is_as_the_reference(self, output: str, engine: str, endpoint: str | None) -> bool:
        store = Store(output, endpoint)
        manifest = store.read_json("manifest.json")
        names = [info["name"] for info in manifest["result"]]
        result = {name: hashlib.sha256(store.read(f"{manifest['pack']}/{name}")).hexdigest() for name in names}
        self.reference = self.reference or result
        named = {*result, *self.reference}
        problems = [f"{name} differs" for name in sorted(named) if result.get(name) != self.reference.get(name)]
        problems += [f"{name} was left" for name in _litter(store)]
        verify = [sys.executable, "-m", "curate.commands.main", "verify", output, "--deep"]
        verified = subprocess.run(verify, capture_output=True, text=True, check=False)
        if verified.returncode:
            problems.append(f"verify: {verified.stdout} {verified.stderr}")
        for problem in problems:
            print(f"{engine}: {output}: {problem}", flush=True)
        return not problems

    def say(self, what: str) -> None:
        """Prints what is done."""
        figures = f"{self.kills} kills, {sum(self.faults.values())} faults, {self.identical} of {self.runs} identical"
        print(f"{time.strftime('%H:%M:%S')} {what}: {figures}", flush=True)


def _most_starts(output: str, endpoint: str | None) -> int:
    """The largest number of recorded starts of a unit that is not done."""
    names = [name for name in Store(output, endpoint).ages("") if "/attempts/" in name]
    return max(Counter(name.rsplit(".", 2)[0] for name in names).values(), default=0)


def _tail(said: Path) -> str:
    return said.read_text()[-3000:]


def _marked(marks: list[str]) -> dict[int, str]:
    """The processes, by number, whose environment has one of the marks; without those that wait to be reaped."""
    wanted = {f"{MARK}={mark}".encode() for mark in marks}
    found = {}
    for place in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if place.name.isdigit() and not wanted.isdisjoint((place / "environ").read_bytes().split(b"\0")):
                found[int(place.name)] = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()[:200]
    return found


def _newest_pass(output: str) -> str:
    """The pass of a local run that has most recently written something."""
    if "://" in output:
        return "s3"
    changed = {}
    for place in Path(output).glob("*-*"):
        with contextlib.suppress(OSError):
            changed[max(path.stat().st_mtime for path in [place, *place.rglob("*")])] = place.name.partition("-")[0]
    return changed[max(changed)] if changed else "start"


def _litter(store: Store) -> list[str]:
    """The files of a finished run that are records of starts, or that carry an attempt and are in no marker."""
    names = list(store.ages(""))
    found = [name for name in names if "/attempts/" in name or "/failed/" in name]
    for folder in Folder.all_in(store):
        if folder.is_result:
            continue
        named = {f"{folder.path}/{info.name}" for unit in folder.units() for info in folder.marker(unit).files.values()}
        of_units = (name for name in names if name.startswith(f"{folder.path}/") and name.count(".") > 1)
        found += [name for name in of_units if name not in named]
    return found


def killed(soak: Soak, engine: str, kills: int) -> None:
    """Kills drivers of runs in local outputs."""
    finished = soak.folder / f"{engine}-finished"
    span, _ = soak.finish(str(finished), engine)
    spans = [span] * len(STAGES)
    goal = soak.kills + kills
    while soak.kills < goal:
        output, stage = soak.folder / f"{engine}-{soak.runs}", soak.random.randrange(len(STAGES))
        if stage:
            _begun(finished, output, stage)
        seconds, hits = soak.finish(str(output), engine, span=spans[stage])
        # The last start of a run that was never hit took as long as this stage and those after it do.
        spans[stage] = spans[stage] if hits else seconds
        shutil.rmtree(output)
        soak.say(f"{engine} from {STAGES[stage][0]}")
    soak.check_ended()
    print(f"killed while the newest pass was: {dict(soak.killed_in)}", flush=True)
    soak.killed_in.clear()


def _begun(finished: Path, output: Path, stage: int) -> None:
    """Copies a finished run as far as it was before a stage."""
    later = {name for names in STAGES[stage:] for name in names}

    def left_out(folder: str, names: list[str]) -> list[str]:
        if Path(folder) != finished:
            return []
        return [name for name in names if name in ("manifest.json", "decided.json") or name.partition("-")[0] in later]

    shutil.copytree(finished, output, ignore=left_out)


@contextlib.contextmanager
def s3(folder: Path, port: int) -> Iterator[FaultyS3]:
    """An S3 server over a folder (rclone), behind the proxy that injects faults."""
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "AKIDTEST",
        "AWS_SECRET_ACCESS_KEY": "SECRETKEY1234567",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    (folder / "bucket").mkdir(parents=True)
    rclone = str(Path(sys.executable).with_name("rclone"))
    address = f"127.0.0.1:{port}"
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


@contextlib.contextmanager
def injected(proxy: FaultyS3) -> Iterator[None]:
    """Inside the block, a share of the requests fails."""
    proxy.rate, proxy.stalls = SHARE, STALLS
    try:
        yield
    finally:
        proxy.rate = 0.0


def faults(soak: Soak, proxy: FaultyS3) -> None:
    """Lets 5 % of all requests fail, first alone, then with kills."""
    span = 0.0
    for number, most_kills in enumerate(FAULTY_KILLS):
        before, requests = Counter(proxy.seen), len(proxy.requests)
        with injected(proxy):
            seconds, _ = soak.finish(
                f"s3://bucket/faults-{number}", "local", span=span, most_kills=most_kills, endpoint=proxy.url
            )
        span = span or seconds
        seen = {fault: times - before[fault] for fault, times in proxy.seen.items() if fault}
        soak.faults.update(seen)
        print(f"{seconds:.0f} s, {len(proxy.requests) - requests} requests, faults: {seen}", flush=True)
        soak.say("faults")
    soak.check_ended()


def away(soak: Soak, proxy: FaultyS3) -> None:
    """The server answers nothing for a minute, once the first part is fetched."""
    before = len(proxy.requests)

    def leave() -> None:
        while not any(
            method == "PUT" and "/fetch-" in path and "/done/" in path for method, path in proxy.requests[before:]
        ):
            time.sleep(0.1)
        proxy.always = "reset_before"
        time.sleep(AWAY)
        proxy.always = None

    thread = threading.Thread(target=leave)
    thread.start()
    soak.finish("s3://bucket/away", "local", endpoint=proxy.url)
    thread.join()
    soak.faults["away"] += 1


def full(soak: Soak) -> None:
    """The output's file system is full for half a minute, once the first part is fetched."""
    place = soak.folder / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_MB}m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        print("full: left out, as no file system may be mounted here", flush=True)
        return
    try:
        ballast = place / "ballast"

        def fill() -> None:
            # A command that finds its output full at its start ends at once.
            while not list(place.glob("run/fetch-*/done/*.json")):
                time.sleep(0.1)
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                for _ in range(TMPFS_MB * 16):
                    file.write(bytes(1 << 16))
            time.sleep(30)
            ballast.unlink()

        thread = threading.Thread(target=fill)
        thread.start()
        soak.finish(str(place / "run"), "local")
        thread.join()
        soak.faults["full"] += 1
    finally:
        subprocess.run(["umount", str(place)], check=True)


def main() -> int:
    """Runs the cases; returns 0 where every run ended as it has to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="kills for each engine (100)")
    parser.add_argument("--cases", type=lambda text: text.split(","), default=CASES, help=",".join(CASES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--port", type=int, default=8199, help="of the demo's web; the S3 server gets the next one")
    arguments = parser.parse_args()
    if unknown := set(arguments.cases) - set(CASES):
        parser.error(f"--cases: {', '.join(sorted(unknown))}: the cases are {', '.join(CASES)}")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="curate-soak-") as place:
        folder = Path(place)
        # Ray leaves a folder of each session it had; these are removed with the others.
        os.environ["RAY_TMPDIR"] = place
        corpus = Corpus(0, PAIRS, arguments.port)
        soak = Soak(folder, corpus, [str(path) for path in corpus.write(folder / "web").urls], arguments.seed)
        with serve(corpus):
            soak.finish(str(folder / "reference"), "local")
            soak.say("reference")
            for engine in ("local", "ray"):
                if engine in arguments.cases:
                    killed(soak, engine, arguments.kills)
            if {"faults", "away"} & set(arguments.cases):
                with s3(folder / "s3", arguments.port + 1) as proxy:
                    if "faults" in arguments.cases:
                        faults(soak, proxy)
                    if "away" in arguments.cases:
                        away(soak, proxy)
                        soak.say("away")
            if "full" in arguments.cases:
                full(soak)
                soak.say("full")
    figures = {"kills": soak.kills, "faults": sum(soak.faults.values()), "identical": soak.identical, "runs": soak.runs}
    print(json.dumps(figures))
    return int(soak.identical != soak.runs)


if __name__ == "__main__":
    sys.exit(main())
