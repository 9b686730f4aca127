"""Measures how fast pairs are embedded and scored, compared with the forward passes of the model alone.

    python benchmarks/score.py                                    # ViT-B-32, some minutes on two cores
    python benchmarks/score.py --model ViT-L-14 --pairs 64        # a larger one
    python benchmarks/score.py --precision bf16 --pairs 20000 --batch 512 --threads 16      # on a GPU

One run measures four ways in turn; for each, the median of `--rounds` rounds counts, after one that does not:

    forward      both towers, inputs resident on the device, captions padded to the model's context (77)
    forward_cut  the same, captions sorted by length and cut to the longest of their batch
    score        curate's embedding worker: from a part's tar and tables to its Parquet files, pixel columns too
    plain        a simple script (`plain_clip.py`) in a process of its own: webdataset, open_clip's preprocessing and
                 tokenizer in a DataLoader, encode_image and encode_text, the cosine; the fastest of 0, 1, 2, 4, …
                 `--threads` loader workers

The first three share a process with Curate's settings: on a CPU, freed memory is reused. `score` may be faster than
`forward_cut`, as it computes the last block of a tower for one position of each row only.

Weights are random (speed does not depend on them). The batch size is the same for all ways, and so is the precision,
unless `--plain-precision` is given (open_clip's own default is fp32). Pictures are drawn noise of many scales with a
longer side of 512 pixels, JPEG at quality 95, as fetch stores them by default. Captions are distinct and made of the
demo's words, 3 to 40 words, 11 in the median. `matrix_share` is the arithmetic of `score`, as counted by torch,
relative to the rate of a large matrix product of that precision in this run. The last line is one JSON object.

clip-retrieval 2.45 cannot be installed with Curate: it requires open_clip_torch < 3, numpy < 2 and pyarrow < 16.
"""

import argparse
import io
import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import pyarrow as pa
import torch
from drawn import drawn
from open_clip.transformer import text_global_pool
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from curate import schema
from curate.demo.captions import caption
from curate.demo.scenes import sample_scene
from curate.device import choose_device
from curate.embed.model.loading import load
from curate.embed.model.text import CausalTower
from curate.embed.model.towers import Model
from curate.embed.worker import open_worker
from curate.store import Folder, Inputs, Store

SIDE = 512
DISTINCT = 64
MATRIX = {"cpu": 4096, "cuda": 8192}
"""Rows of the matrix product; on a GPU so many that the time of its launch is negligible."""

NAME = "m"


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="ViT-B-32", help="of open_clip (ViT-B-32)")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16"], help="fp32 on a CPU, else bf16")
    parser.add_argument("--plain-precision", choices=["fp32", "bf16", "fp16"], help="of plain; by default the same")
    parser.add_argument("--pairs", type=int, default=256, help="of the part (256)")
    parser.add_argument("--batch", type=int, default=64, help="rows of a forward pass (64)")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="of decoding, and of a CPU's forward pass"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of each way (3)")
    parser.add_argument("--photos", type=Path, help="a folder of JPEGs in the place of drawn pictures")
    parser.add_argument("--no-memory", action="store_true", help="leave out the memory of a worker over 100 parts")
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    precision = arguments.precision or ("fp32" if device.type == "cpu" else "bf16")
    with tempfile.TemporaryDirectory(prefix="curate-benchmark-") as scratch:
        weights = random_weights(arguments.model, Path(scratch))
        settings = {
            "name": arguments.model,
            "pretrained": str(weights),
            "precision": precision,
            "batch_size": arguments.batch,
            "threads": arguments.threads,
        }
        plain = arguments.plain_precision or precision
        bench = Bench(settings, plain, device, Path(scratch), arguments.pairs, arguments.photos)
        _measure(bench, arguments, device, precision, plain)


def _measure(bench: "Bench", arguments: argparse.Namespace, device: torch.device, precision: str, plain: str) -> None:
    counts = sorted({0, arguments.threads, *(1 << n for n in range(arguments.threads.bit_length()))})
    rates, workers = bench.rates(counts, arguments.rounds)
    peak = bench.peak()
    share = bench.operations() * rates["score"] / arguments.pairs / peak
    growth = None if arguments.no_memory else _memory_growth()
    named = torch.cuda.get_device_name() if device.type == "cuda" else _processor()
    print(f"{platform.platform()}, {named}, {os.cpu_count()} cores, torch {torch.__version__}")
    print(f"{arguments.pairs} pairs, batch {arguments.batch}, {precision}, {arguments.threads} threads; ", end="")
    print(f"plain: {plain}, {workers} loader workers; matrix product: {peak / 1e9:,.0f} GFLOP/s")
    print("| model | forward, 77 tokens | forward, cut | score | plain | score / cut | score / plain | matrix share |")
    print("|---|---|---|---|---|---|---|---|")
    ratios = rates["score"] / rates["forward_cut"], rates["score"] / rates["plain"]
    cells = [f"{rate:.3g}" for rate in rates.values()] + [f"{ratio:.2f}" for ratio in ratios] + [f"{share:.2f}"]
    print(f"| {arguments.model} {precision} | {' | '.join(cells)} |")
    rounded = {name: round(rate, 2) for name, rate in rates.items()}
    result = {"device": named, "model": arguments.model, **rounded}
    result |= {"score_over_forward_cut": round(ratios[0], 3), "score_over_plain": round(ratios[1], 3)}
    result |= {
        "matrix_share": round(share, 3),
        "memory_growth": growth,
        "precision": precision,
        "plain_precision": plain,
    }
    print(json.dumps({**result, "plain_workers": workers, "matrix_gflops": round(peak / 1e9, 1)}))


@dataclass
class _Forward:
    """Batches of inputs in the device's memory."""

    images: list[torch.Tensor]
    tokens: list[torch.Tensor]
    cut: list[torch.Tensor]


class Bench:
    """One part, and the four ways to score it."""

    def __init__(
        self,
        settings: dict[str, Any],
        plain: str,
        device: torch.device,
        scratch: Path,
        pairs: int,
        photos: Path | None,
        reader: str = "webdataset",
    ) -> None:
        self._settings = settings
        self._device = device
        self._batch = settings["batch_size"]
        self._threads = settings["threads"]
        self._pairs = pairs
        self._store = Store(str(scratch / "run"))
        self._tar = scratch / "pairs.tar"
        self._attempts = 0
        pictures = stored_pictures(photos, min(pairs, DISTINCT))
        captions = distinct_captions(pairs)
        self._inputs = part_of(self._store, [pictures[n % len(pictures)] for n in range(pairs)], captions)
        _webdataset(self._tar, [pictures[n % len(pictures)] for n in range(pairs)], captions)
        self._model = load(settings["name"], settings["pretrained"], settings["precision"], device)
        self._worker = open_worker(
            {
                "models": {NAME: settings},
                "device": device.type,
                "decode": "fast",
                "endpoint": None,
                "decoders": settings["threads"],
            }
        )
        self._forward = _resident(self._model, captions, self._batch)
        script = [sys.executable, str(Path(__file__).with_name("plain_clip.py"))]
        what = [str(self._tar), settings["name"], settings["pretrained"], "--device", device.type]
        how = ["--precision", plain, "--batch", str(self._batch), "--threads", str(self._threads), "--reader", reader]
        self._plain = subprocess.Popen([*script, *what, *how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def rates(self, counts: Sequence[int], rounds: int, until: float = math.inf) -> tuple[dict[str, float], int]:
        """Measures the ways in turn; returns pairs per second, the median of some rounds after one that does not count.

        Args:
            counts: numbers of loader workers, of which `plain` uses the fastest.
            rounds: number of rounds.
            until: no further round begins after this time on the monotonic clock.

        Returns:
            The rates, and the number of loader workers.
        """
        self.plain(counts[-1])  # a warm-up: the first pass is always slower
        workers = min(counts, key=lambda count: self.seconds(lambda: self.plain(count)))
        ways: dict[str, Callable[[], None]] = {
            "forward": self.forward,
            "forward_cut": self.forward_cut,
            "score": self.score,
            "plain": lambda: self.plain(workers),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(1 + rounds):
            if number > 1 and time.monotonic() > until:
                break
            for name, way in ways.items():
                seconds[name].append(self.seconds(way))
        return {name: self._pairs / statistics.median(its[1:]) for name, its in seconds.items()}, workers

    def seconds(self, way: Callable[[], None]) -> float:
        """Returns the seconds of one way; waits for the GPU to finish."""
        torch.set_num_threads(self._threads)
        started = time.perf_counter()
        way()
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    def forward(self) -> None:
        """Runs both towers with padded captions."""
        clip = self._model.clip
        with torch.inference_mode():
            for images, tokens in zip(self._forward.images, self._forward.tokens, strict=True):
                clip.encode_image(images)
                clip.encode_text(tokens)

    def forward_cut(self) -> None:
        """Runs both towers with cut captions."""
        clip, parts = self._model.clip, _causal(self._model).parts
        with torch.inference_mode():
            for images, tokens in zip(self._forward.images, self._forward.cut, strict=True):
                clip.encode_image(images)
                # The steps of open_clip's `encode_text`, which itself requires the full length.
                length = tokens.shape[1]
                embedded = parts.token_embedding(tokens).to(self._model.dtype)
                embedded = embedded + parts.positional_embedding[:length].to(self._model.dtype)
                seen = parts.transformer(embedded, attn_mask=parts.attn_mask[:length, :length])
                parts.ln_final(text_global_pool(seen, tokens)) @ parts.text_projection

    def score(self) -> None:
        """Runs the worker, from tar to Parquet."""
        self._attempts += 1
        outputs = {n: Folder(self._store, n, f"x{self._attempts}").outputs(0) for n in ("pixels", f"embed-{NAME}")}
        self._worker(0, self._inputs, outputs)
        for output in outputs.values():
            output.commit()

    def plain(self, workers: int) -> None:
        """Runs `plain_clip.py` with a number of loader workers."""
        assert self._plain.stdin
        assert self._plain.stdout
        print(workers, file=self._plain.stdin, flush=True)
        # Other lines may be output of libraries.
        line = next((line for line in self._plain.stdout if line.startswith("scored ")), "scored no pairs")
        count = line.split()[1]
        assert count == str(self._pairs), f"plain_clip.py scored {count} pairs of {self._pairs}"

    def operations(self) -> float:
        """Returns the floating-point operations of `score`; a multiplication with an addition counts as two."""
        was = torch.backends.mha.get_fastpath_enabled()
        # The counter does not count fused attention, and would miss a third of the image tower.
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with FlopCounterMode(display=False) as counter:
                self.score()
        finally:
            torch.backends.mha.set_fastpath_enabled(was)
        return float(counter.get_total_flops())

    def peak(self) -> float:
        """Returns the operations per second of a large matrix product."""
        side = MATRIX[self._device.type]
        one = torch.randn(side, side, device=self._device, dtype=self._model.dtype)

        def product() -> None:
            torch.mm(one, one)

        return 2.0 * side**3 / min(self.seconds(product) for _ in range(5))


def _causal(model: Model) -> CausalTower:
    assert model.cut, "this model's captions cannot be cut"
    return model.cut


def _resident(model: Model, captions: list[str], batch: int) -> _Forward:
    size = (model.image_side, model.image_side)
    assert model.tokenize
    tokens = model.tokenize(captions).to(model.device)
    lengths = _causal(model).lengths(tokens)
    order = torch.sort(lengths, stable=True).indices
    rows = torch.split(order, batch)
    found = _Forward([], list(torch.split(tokens, batch)), [])
    for group in rows:
        found.images.append(torch.randn(len(group), 3, *size, device=model.device).to(model.dtype))
        found.cut.append(tokens[group, : int(lengths[group[-1]])].contiguous())
    return found


def random_weights(name: str, folder: Path) -> Path:
    """Writes a file of untrained weights for an open_clip model: neither speed nor rounding depends on training."""
    path = folder / f"{name}.pt"
    torch.manual_seed(0)
    torch.save(open_clip.create_model(name).state_dict(), path)
    return path


def stored_pictures(photos: Path | None, count: int = DISTINCT) -> list[bytes]:
    """Returns JPEGs as fetch stores them."""
    found = []
    paths = sorted(photos.glob("*.jpg")) if photos else []
    for number in range(count):
        image = Image.open(paths[number % len(paths)]).convert("RGB") if paths else drawn(number)
        image.thumbnail((SIDE, SIDE))
        sink = io.BytesIO()
        image.save(sink, "JPEG", quality=95)
        found.append(sink.getvalue())
    return found


def distinct_captions(count: int) -> list[str]:
    """Returns distinct captions of 3 to 40 words, 11 in the median."""
    rng = random.Random(0)
    found: dict[str, None] = {}
    while len(found) < count:
        length = min(40, max(3, round(rng.lognormvariate(2.4, 0.6))))
        words: list[str] = []
        while len(words) < length:
            words += caption(sample_scene(rng), rng).split()
        found[" ".join(words[:length])] = None
    return list(found)


def part_of(store: Store, pictures: list[bytes], captions: list[str]) -> Inputs:
    """Writes a part's plan and images as their passes commit them."""
    count = len(pictures)
    urls = {schema.image_id(url): url for url in (f"https://example.com/{n}.jpg" for n in range(count))}
    ids = sorted(urls)
    pairs = [schema.pair_id(urls[image_id], said) for image_id, said in zip(ids, captions, strict=True)]
    columns = [pairs, ids, [urls[image_id] for image_id in ids], captions, list(range(count)), [False] * count]
    plan = pa.table([pa.array(c, t) for c, t in zip(columns, schema.PLAN.types, strict=True)], schema=schema.PLAN)
    files = [f"{image_id.hex()}.jpg" for image_id in ids]
    known: dict[str, list[Any]] = {"image_id": ids, "status": [schema.FETCHED] * count, "file": files}
    images = {f.name: pa.array(known.get(f.name, [None] * count), f.type) for f in schema.IMAGES}
    folders = {name: Folder(store, name, "x") for name in ("plan", "fetch")}
    output = folders["plan"].outputs(0)
    output.put_table("pairs.parquet", plan)
    output.commit()
    output = folders["fetch"].outputs(0)
    output.put("images.tar", _tar(zip(files, pictures, strict=True)))
    output.put_table("images.parquet", pa.table(images))
    output.commit()
    return Inputs(folders, [0])


def _webdataset(path: Path, pictures: list[bytes], captions: list[str]) -> None:
    members = []
    for number, (picture, said) in enumerate(zip(pictures, captions, strict=True)):
        members += [(f"{number:08d}.jpg", picture), (f"{number:08d}.txt", said.encode())]
    path.write_bytes(_tar(members))


def _tar(members: Any) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return sink.getvalue()


def _memory_growth() -> float:
    """Returns the growth of a worker's resident memory from 10 parts to 100, as a ratio."""
    script = str(Path(__file__).with_name("embed_memory.py"))
    done = subprocess.run([sys.executable, script, "--images", "20"], capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1])["memory_growth"])


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "a CPU")


if __name__ == "__main__":
    main()
