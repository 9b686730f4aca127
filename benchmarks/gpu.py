"""Tests and measures every code path that needs a GPU, in one command of at most nine minutes.

    python benchmarks/gpu.py                        # on a machine with a CUDA device
    python benchmarks/gpu.py --device cpu --quick   # the sections that need no GPU, small: a check of this script

It needs torch (2.8 or later), torchvision, open_clip, timm, pyarrow, Pillow and fsspec, and no network (README.md says
how to install what a machine lacks). Each section runs in a process of its own with a time limit of its own:

    parity         each precision of some models, by the embedding worker on the device, against float32 on the CPU
    batch          the default batch size, the share of the memory that it takes, and the rate by batch size
    halving        a batch that memory does not hold, forced by a limit on this process's share of the device
    near           near pairs on the device against the CPU: the same pairs, and the ratio of the times
    decoding       images per second from stored bytes to a model's input, by the number of processes
    speed_b        ViT-B-32 with random weights: forward, forward cut, embed and plain, as in score.py
    lost           a device-side assert in the embedding worker, which has to raise DeviceLost
    device_decode  JPEGs decoded and resized on the device against processes
    speed_l        ViT-L-14, as speed_b

Where a section fails or is stopped at its limit, the figures that it has written are kept, and the next section begins;
sections for which no time is left are named. A failed check gives exit code 1. The output is a table in Markdown and,
in the last line, every figure as one JSON object.

Bounds of `parity`, for clip_similarity against float32 on the CPU: float32 rounds at 2^-24, and twelve blocks with
another order of summation change a cosine by about 1e-6. A TF32 convolution, torch's default, rounds at 2^-11 and
changes it by more than the bound. Bfloat16 rounds at 2^-9 and float16 at 2^-12, eight times finer; their bounds are
twice those for a CPU (tests/embed/test_parity.py), as a device rounds in other places.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa
    import torch

    from curate.embed.worker import Embedder
    from curate.store import Inputs, Store

# The process that starts the sections imports neither torch nor curate.embed, so that it can stop them in time,
# whatever they do.

SECONDS = 520
"""Default time limit of the whole command; with the start and the end of a machine, nine minutes."""

LEAST = 25
"""Least seconds with which a section is begun: importing torch and open_clip takes most of them."""

PRECISIONS = ("fp32", "bf16", "fp16")
MEDIAN = {"fp32": 2e-6, "bf16": 2e-3, "fp16": 4e-4}
WORST = {"fp32": 2e-5, "bf16": 0.02, "fp16": 4e-3}
"""Bounds of the shift of clip_similarity; the module's docstring gives the reasons."""

BATCH = 32
FLOOR = 0.95
NAME = "m"
QUICK_MODEL = "ViT-S-32-alt"


@dataclass(frozen=True)
class Section:
    """A section.

    Attributes:
        run: its function.
        seconds: its time limit.
        gpu_only: the reason why it is skipped on a CPU, or None.
    """

    run: "Callable[[Task], None]"
    seconds: int
    gpu_only: str | None = None


@dataclass
class Task:
    """The arguments of a section, and the file for its figures.

    Attributes:
        name: name of the section.
        device: `cpu` or `cuda`.
        quick: whether to use the smallest sizes.
        until: the time on the monotonic clock by which the section should end.
        scratch: an empty folder.
        results: the file to which figures are appended.
        failed: the checks that failed.
    """

    name: str
    device: str
    quick: bool
    until: float
    scratch: Path
    results: Path
    failed: list[str] = field(default_factory=list)

    @property
    def torch_device(self) -> "torch.device":
        """The device as a torch.device."""
        import torch

        return torch.device(self.device)

    def has(self, seconds: float) -> bool:
        """Returns whether at least this many seconds are left."""
        return time.monotonic() + seconds < self.until

    def say(
        self, key: str, value: Any, words: str, *, expected: str = "", holds: bool | None = None, brief: bool = False
    ) -> None:
        """Adds a figure.

        Args:
            key: key in the JSON, unique within the section.
            value: the value, JSON-able.
            words: description of the figure, for the table.
            expected: description of the expected value, for the table.
            holds: whether the value is as expected; None where nothing is expected.
            brief: whether the table has the figure only where it is not as expected.
        """
        if holds is False:
            self.failed.append(key)
        figure = {"key": key, "value": value, "words": words, "expected": expected, "holds": holds}
        figure["in_table"] = not brief or holds is False
        _append(self.results, {"section": self.name, "figure": figure})


def main() -> None:
    """Runs the sections and prints the table, or runs one section of them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--quick", action="store_true", help="small models and few rounds: whether the script works")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"of the whole ({SECONDS})")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), help="these sections alone")
    parser.add_argument("--results", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.results:
        sys.exit(do_sections(arguments))
    sys.exit(supervise(arguments))


# The process that starts the sections


@dataclass
class Outcome:
    """The outcome of a section.

    Attributes:
        state: ok, failed (a check, or an error), stopped (at its limit), skipped, or left out (no time).
        reason: the reason, where the state is not ok.
        seconds: how long it took.
        figures: the figures as `Task.say` has written them.
    """

    state: str
    reason: str | None = None
    seconds: float | None = None
    figures: list[dict[str, Any]] = field(default_factory=list)


def supervise(arguments: argparse.Namespace) -> int:
    """Runs the sections one after the other, prints their figures, and returns the exit code."""
    began = time.monotonic()
    end = began + arguments.seconds
    # A signal that ends this process also ends the processes that it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    chosen = arguments.only or list(SECTIONS)
    outcomes: dict[str, Outcome] = {}
    waiting: list[str] = []
    for name in chosen:
        reason = _skipped(name, arguments)
        if reason:
            outcomes[name] = Outcome("skipped", reason)
        else:
            waiting.append(name)
    # On a GPU each section has a process of its own: it begins with all of the memory free, and a lost device fails one
    # section only. On a CPU one process runs all sections, which saves the time of importing.
    groups = [[name] for name in waiting] if arguments.device == "cuda" else [waiting]
    machine: dict[str, Any] = {}
    began_none = False
    for group in filter(None, groups):
        limit = min(sum(SECTIONS[name].seconds for name in group), end - time.monotonic())
        if limit < LEAST:
            outcomes |= {name: Outcome("left out", f"{max(0, limit):.0f} s were left") for name in group}
            continue
        if began_none:
            # No device, or a missing package: the other sections would fail like the first one.
            outcomes |= {name: Outcome("left out", "the first one did not get as far as its device") for name in group}
            continue
        found, about = _run_group(group, arguments, limit)
        machine = machine or about
        began_none = not machine
        outcomes |= found
        print(f"{', '.join(group)}: {'; '.join(outcome.state for outcome in found.values())}", file=sys.stderr)
    seconds = round(time.monotonic() - began, 1)
    print(table(machine, {name: outcomes[name] for name in chosen}, seconds))
    print(json.dumps(summary(machine, {name: outcomes[name] for name in chosen}, seconds)))
    return 1 if any(outcome.state in ("failed", "stopped") for outcome in outcomes.values()) else 0


def _skipped(name: str, arguments: argparse.Namespace) -> str | None:
    if arguments.device == "cpu" and SECTIONS[name].gpu_only:
        return f"needs a GPU: {SECTIONS[name].gpu_only}"
    return "--quick: speed_b does the same" if arguments.quick and name == "speed_l" else None


def _run_group(
    group: Sequence[str], arguments: argparse.Namespace, limit: float
) -> tuple[dict[str, Outcome], dict[str, Any]]:
    """Runs some sections in a process; a section that the process did not reach counts as failed."""
    with tempfile.TemporaryDirectory(prefix="curate-gpu-", ignore_cleanup_errors=True) as folder:
        results, log = Path(folder) / "results", Path(folder) / "log"
        results.touch()
        own = ["--results", str(results), "--only", *group, "--device", arguments.device, "--seconds", str(limit)]
        own += ["--quick"] * arguments.quick
        began = time.monotonic()
        root = str(Path(__file__).resolve().parents[1])
        # Runs from a checkout that is not installed.
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
        env["PYTHONUNBUFFERED"] = "1"
        with log.open("w") as output:
            # A process group of its own, so that the processes that it starts end with it.
            child = subprocess.Popen(
                [sys.executable, str(Path(__file__).resolve()), *own],
                stdout=output,
                stderr=output,
                env=env,
                process_group=0,
            )
            try:
                code: int | None = child.wait(limit)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        lines = [json.loads(line) for line in results.read_text().splitlines() if line.endswith("}")]
        said = log.read_text(errors="replace").strip()
    machine: dict[str, Any] = next((line["machine"] for line in lines if "machine" in line), {})
    outcomes = {}
    for name in group:
        own_lines = [line for line in lines if line.get("section") == name]
        figures = [line["figure"] for line in own_lines if "figure" in line]
        ends = [line["end"] for line in own_lines if "end" in line]
        if ends:
            outcomes[name] = Outcome(figures=figures, **ends[0])
        elif code is None:
            outcomes[name] = Outcome("stopped", f"at its limit of {limit:.0f} s", round(limit, 1), figures)
        else:
            last = said.splitlines()[-1] if said else "no word"
            reason = f"its process ended with exit code {code}: {last}"
            outcomes[name] = Outcome("failed", reason, round(time.monotonic() - began, 1), figures)
    if any(outcome.state not in ("ok", "skipped") for outcome in outcomes.values()):
        print(said[-4000:], file=sys.stderr)
    return outcomes, machine


def table(machine: Mapping[str, Any], outcomes: Mapping[str, Outcome], seconds: float) -> str:
    """Returns the outcomes as a table in Markdown."""
    about = ", ".join(f"{key} {value}" for key, value in machine.items())
    lines = [f"{about}; {seconds:.0f} s", "", "| section | what | figure | expected | |", "|---|---|---|---|---|"]
    for name, outcome in outcomes.items():
        for figure in outcome.figures:
            if not figure["in_table"]:
                continue
            holds = {None: "", True: "ok", False: "**NOT OK**"}[figure["holds"]]
            value = _cell(figure["value"])
            lines.append(f"| {name} | {figure['words']} | {value} | {figure['expected']} | {holds} |")
        if outcome.state != "ok":
            lines.append(f"| {name} | {_escaped(outcome.reason or '')} | | | {outcome.state} |")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_cell(one)}" for key, one in value.items())
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else _escaped(str(value))


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")[:300]


def summary(machine: Mapping[str, Any], outcomes: Mapping[str, Outcome], seconds: float) -> dict[str, Any]:
    """Returns the outcomes as one JSON object."""
    sections = {
        name: {
            "state": outcome.state,
            "reason": outcome.reason,
            "seconds": outcome.seconds,
            "figures": {figure["key"]: figure["value"] for figure in outcome.figures},
            "not_ok": [figure["key"] for figure in outcome.figures if figure["holds"] is False],
        }
        for name, outcome in outcomes.items()
    }
    return {"machine": dict(machine), "seconds": seconds, "sections": sections}


def _append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a") as opened:
        opened.write(json.dumps(line) + "\n")


# A process that runs sections


def do_sections(arguments: argparse.Namespace) -> int:
    """Runs the named sections one after the other, and writes their figures to the file of results."""
    until = time.monotonic() + arguments.seconds - 5
    _append(arguments.results, {"machine": _machine(arguments.device)})
    for name in arguments.only:
        began = time.monotonic()
        scratch = arguments.results.parent / name
        scratch.mkdir()
        task = Task(name, arguments.device, arguments.quick, until, scratch, arguments.results)
        state, reason = "ok", None
        try:
            SECTIONS[name].run(task)
        except Exception as error:  # noqa: BLE001 - whatever a GPU brings up is what this script is to find
            traceback.print_exc()
            state, reason = "failed", f"{type(error).__name__}: {error}"
        if task.failed and not reason:
            state, reason = "failed", f"did not hold: {', '.join(task.failed)}"
        end = {"state": state, "reason": reason, "seconds": round(time.monotonic() - began, 1)}
        _append(arguments.results, {"section": name, "end": end})
    sys.stdout.flush()
    sys.stderr.flush()
    # Not a normal exit: the interpreter would wait for threads and processes that decode, with a lost device for ever.
    os._exit(0)


def _machine(device: str) -> dict[str, Any]:
    import open_clip
    import torch
    import torchvision

    from curate.device import choose_device

    about: dict[str, Any] = {}
    if choose_device(device).type == "cuda":
        properties = torch.cuda.get_device_properties(0)
        about = {"GPU": properties.name, "GPU GiB": round(properties.total_memory / 2**30), "CUDA": torch.version.cuda}
    return {
        **about,
        "cores": _cores(),
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "open_clip": open_clip.__version__,
    }


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _embedder(device: str, models: Mapping[str, Mapping[str, Any]], decoders: int | None) -> "Embedder":
    from curate.embed.worker import Embedder, open_worker

    settings = {"models": models, "device": device, "decode": "fast", "endpoint": None, "decoders": decoders}
    worker = open_worker(settings)
    assert isinstance(worker, Embedder)
    return worker


def _model(task: Task, name: str, precision: str, rows: int | None) -> dict[str, Any]:
    """Returns a recipe's model section; with random weights, unless it is the pocket model."""
    weights = task.scratch / f"{name}.pt"
    if name != "pocket" and not weights.exists():
        from score import random_weights

        random_weights(name, task.scratch)
    pretrained = None if name == "pocket" else str(weights)
    return {
        "name": name,
        "pretrained": pretrained,
        "precision": precision,
        "batch_size": rows,
        # With two threads, small models lose more time in synchronisation than they gain.
        "threads": 1 if task.quick else min(16, _cores()),
    }


def _embed(
    worker: "Embedder", inputs: "Inputs", store: "Store", names: Sequence[str], attempt: str
) -> dict[str, "pa.Table"]:
    """Embeds part 0; returns the worker's tables and notes."""
    from curate.store import Folder

    folders = {name: Folder(store, name, attempt) for name in names}
    outputs = {name: folder.outputs(0) for name, folder in folders.items()}
    worker(0, inputs, outputs)
    for output in outputs.values():
        output.commit()
    return {
        f"{name}/{role}": folder.table(role, 0) for name, folder in folders.items() for role in folder.marker(0).files
    }


def _notes(store: "Store", name: str, attempt: str) -> Sequence[str]:
    from curate.store import Folder

    return Folder(store, name, attempt).marker(0).notes


def _drawn_part(task: Task, pictures: int) -> "tuple[Store, Inputs]":
    """Writes a part of the demo's drawings and captions, in several sizes and formats; one picture is truncated."""
    from score import part_of

    from curate.demo.captions import caption
    from curate.demo.scenes import draw_scene, sample_scene
    from curate.store import Store

    rng = random.Random(5)
    sizes = [(640, 480), (480, 640), (1280, 960), (224, 224), (96, 128)]
    kinds = ["JPEG", "JPEG", "JPEG", "PNG", "WEBP"]
    stored, captions = [], []
    for number in range(pictures):
        scene = sample_scene(rng)
        sink = io.BytesIO()
        draw_scene(scene, sizes[number % len(sizes)]).save(sink, kinds[number % len(kinds)], quality=95)
        stored.append(sink.getvalue())
        captions.append(caption(scene, rng))
    stored[7] = stored[7][: len(stored[7]) // 2]
    # Captions longer than the model's context, empty, and of one character.
    captions[1:4] = ["a very long caption of a drawing " * 20, "", "a"]
    store = Store(str(task.scratch / "part"))
    return store, part_of(store, stored, captions)


# Sections


def parity(task: Task) -> None:
    """Checks each precision of some models through the whole worker: decoders, pinned memory, batches, tables."""
    # On a CPU, larger models take minutes in the low precisions.
    models = [] if task.quick else ["ViT-B-32", "RN50", "coca_ViT-B-32", "convnext_base"]
    store, inputs = _drawn_part(task, 12 if task.quick else 200)
    for name in ["pocket", *models]:
        if not task.has(20):
            task.say(f"{name}.left_out", True, f"{name}: left out, no time")
            continue
        settings = {p: _model(task, name, p, 8 if task.quick else BATCH) | {"mirror": True} for p in PRECISIONS}
        cpu = _embedder("cpu", {NAME: settings["fp32"]}, None)
        reference = _embed(cpu, inputs, store, ["pixels", f"embed-{NAME}"], f"{name}-cpu")
        device = _embedder(task.device, settings, 1 if task.quick else 4)
        for precision in PRECISIONS:
            key, embed = f"{name}.{precision}", f"embed-{precision}"
            try:
                first, second = (_embed(device, inputs, store, ["pixels", embed], f"{name}-{n}") for n in "ab")
            except Exception as error:  # noqa: BLE001 - one model in one precision; the others are to be seen, too
                traceback.print_exc()
                reason = f"{type(error).__name__}: {error}"
                task.say(f"{key}.error", reason, f"{name} {precision}", expected="embeddings", holds=False)
                continue
            _compare(task, key, {role.replace(embed, f"embed-{NAME}"): first[role] for role in first}, reference)
            same = all(first[role].equals(second[role]) for role in first)
            words = f"{name} {precision}: the same bytes twice"
            task.say(f"{key}.repeats", same, words, expected="True", holds=same, brief=True)
        _close(cpu, device)
        (task.scratch / f"{name}.pt").unlink(missing_ok=True)


def _close(*workers: "Embedder") -> None:
    """Ends the decoding processes of workers that are not used any more."""
    for worker in workers:
        worker._decoding.close()


def _compare(task: Task, key: str, found: "dict[str, pa.Table]", reference: "dict[str, pa.Table]") -> None:
    """Compares the tables of one model in one precision with those of float32 on the CPU."""
    import numpy as np

    from curate import schema

    name, precision = key.rsplit(".", 1)
    pixels = found["pixels/pixels.parquet"].equals(reference["pixels/pixels.parquet"])
    words = f"{name} {precision}: pixel columns are those of the CPU"
    task.say(f"{key}.pixels", pixels, words, expected="True", holds=pixels, brief=True)
    for column in (schema.SIMILARITY, schema.MIRRORED):
        ours, theirs = (
            tables[f"embed-{NAME}/pairs.parquet"][column].to_numpy().astype(np.float64) for tables in (found, reference)
        )
        aligned = bool((np.isnan(ours) == np.isnan(theirs)).all())
        shift = np.abs(ours - theirs)[~np.isnan(theirs)]
        median, worst = float(np.median(shift)), float(shift.max())
        holds = aligned and median <= MEDIAN[precision] and worst <= WORST[precision]
        expected = f"median <= {MEDIAN[precision]:g}, worst <= {WORST[precision]:g}"
        words = f"{name} {precision}: shift of {column}, {len(shift)} pairs"
        value = {"median": median, "worst": worst}
        is_second = column != schema.SIMILARITY
        task.say(f"{key}.{column}", value, words, expected=expected, holds=holds, brief=is_second)


def batch(task: Task) -> None:
    """Measures the default batch size by memory, and the rates of other batch sizes."""
    import numpy as np
    import torch

    from curate.embed.batch import default_size
    from curate.embed.model.loading import load

    on_gpu = task.device == "cuda"
    names = [QUICK_MODEL] if task.quick else ["ViT-B-32", "ViT-L-14"]
    sizes = (2, 4) if task.quick else (64, 128, 256, 512, 1024, 2048)
    for name in names:
        for precision in ["fp32"] if task.quick else ["fp32", "bf16"]:
            if not task.has(15):
                task.say(f"{name}.{precision}.left_out", True, f"{name} {precision}: left out, no time")
                continue
            chosen = _model(task, name, precision, None)
            model = load(chosen["name"], chosen["pretrained"], precision, task.torch_device)
            torch.set_num_threads(chosen["threads"])
            began = time.perf_counter()
            default = default_size(model)
            task.say(f"{name}.{precision}.default", default, f"{name} {precision}: batch size by default")
            task.say(
                f"{name}.{precision}.probe_seconds", time.perf_counter() - began, "… seconds to find it", brief=True
            )
            crop = np.random.default_rng(0).integers(0, 256, (3, *model.image_size), np.uint8)
            if on_gpu:
                total = torch.cuda.get_device_properties(0).total_memory
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
                model.encode_images([crop] * default, default)
                share = (torch.cuda.max_memory_allocated() - before) / total
                # Memory grows at most in proportion to the rows, which the probe measured with 8 rows.
                words = f"{name} {precision}: share of the memory that it takes"
                task.say(f"{name}.{precision}.share", share, words, expected="<= 0.3", holds=share <= 0.3)
            rates: dict[str, float | None] = {}
            for rows in sizes:
                work = partial(model.encode_images, [crop] * rows, rows)
                try:
                    rates[str(rows)] = rows / _seconds(task, work, 1 if task.quick else 3)
                except torch.OutOfMemoryError:
                    rates[str(rows)] = None
                    break
            task.say(f"{name}.{precision}.rates", rates, f"{name} {precision}: images/s by batch size")
            del model
            _empty_cache(task)


def _seconds(task: Task, work: Callable[[], Any], rounds: int) -> float:
    """Returns the median seconds of some rounds, after one that does not count; waits for the GPU in each."""
    import torch

    took = []
    for _ in range(1 + rounds):
        began = time.perf_counter()
        work()
        if task.device == "cuda":
            torch.cuda.synchronize()
        took.append(time.perf_counter() - began)
    return statistics.median(took[1:])


def _empty_cache(task: Task) -> None:
    import gc

    import torch

    gc.collect()
    if task.device == "cuda":
        torch.cuda.empty_cache()


def halving(task: Task) -> None:
    """Runs a worker whose batch does not fit: the process may use little more memory than the weights take."""
    import numpy as np
    import torch

    from curate import schema

    asked = 128
    store, inputs = _drawn_part(task, 2 * asked + 50)
    worker = _embedder(task.device, {NAME: _model(task, "ViT-B-32", "fp32", asked)}, 4)
    usual = _embed(worker, inputs, store, [f"embed-{NAME}"], "usual")[f"embed-{NAME}/pairs.parquet"]
    notes = _notes(store, f"embed-{NAME}", "usual")
    task.say("usual_note", "; ".join(notes), "note of a batch that fits", expected="none", holds=not notes)
    torch.cuda.empty_cache()
    total, weights = torch.cuda.get_device_properties(0).total_memory, torch.cuda.memory_reserved()
    activations = torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()
    torch.cuda.set_per_process_memory_fraction((weights + 0.4 * activations) / total)
    began = time.perf_counter()
    halved = _embed(worker, inputs, store, [f"embed-{NAME}"], "halved")[f"embed-{NAME}/pairs.parquet"]
    task.say("seconds", time.perf_counter() - began, "seconds of the part that is halved")
    note = "; ".join(_notes(store, f"embed-{NAME}", "halved"))
    size = worker._loaded[NAME][1].now
    task.say("size", size, f"batch of {asked} after halving", expected=f"< {asked}", holds=size < asked)
    task.say("note", note, "note of the part", expected="out of memory: …", holds=note.startswith("out of memory"))
    shift = np.abs(usual[schema.SIMILARITY].to_numpy() - halved[schema.SIMILARITY].to_numpy())
    worst = float(np.nanmax(shift))
    expected = f"<= {WORST['fp32']:g}"
    task.say("shift", worst, "worst shift of clip_similarity", expected=expected, holds=worst <= WORST["fp32"])


def lost(task: Task) -> None:
    """Causes a device-side assert in the real worker, by token ids beyond the rows of the model's token table."""
    import torch

    from curate.errors import DeviceLost

    store, inputs = _drawn_part(task, 40)
    worker = _embedder(task.device, {NAME: _model(task, "pocket", "fp32", BATCH)}, 2)
    _embed(worker, inputs, store, [f"embed-{NAME}"], "before")
    model, size = worker._loaded[NAME]
    tokenize = model.tokenize
    assert tokenize
    wrong = dataclasses.replace(model, tokenize=lambda captions: torch.full_like(tokenize(captions), 10**6))
    worker._loaded[NAME] = wrong, size
    for attempt in ("assert", "after"):
        raised: BaseException | None = None
        began = time.perf_counter()
        try:
            _embed(worker, inputs, store, [f"embed-{NAME}"], attempt)
        except Exception as error:  # noqa: BLE001 - which one it is is the question
            raised = error
        is_lost = isinstance(raised, DeviceLost)
        words = {"assert": "raised at a device-side assert", "after": "raised by the same process's next part"}[attempt]
        cause = type(raised.__cause__).__name__ if raised else ""
        said = f"{type(raised).__name__} of {cause}: {raised}"
        task.say(attempt, said, words, expected="DeviceLost", holds=is_lost)
        task.say(f"{attempt}_seconds", time.perf_counter() - began, "… seconds")
        worker._loaded[NAME] = model, size


def near(task: Task) -> None:
    """Searches near pairs of one set of vectors on the CPU and on the device, and of a larger set on the device."""
    import tempfile

    import numpy as np
    import torch

    from curate.account import Account
    from curate.dedup.search import near_pairs
    from curate.device import without_tf32

    without_tf32()
    torch.set_num_threads(1 if task.quick else _cores())
    count, dim, tile = (2_000, 64, 512) if task.quick else (65_536, 512, 4096)
    some = _vectors(count, dim)

    def search(vectors: "npt.NDArray[np.float16]", device: str, tile: int) -> list[Any]:
        with tempfile.TemporaryDirectory() as scratch:
            found = list(near_pairs(vectors, None, FLOOR, tile, torch.device(device), Path(scratch), Account()))
        return [np.concatenate(column) for column in zip(*found, strict=True)]

    # On the device the first product also loads cuBLAS.
    search(some[: 2 * tile], task.device, tile)
    times, pairs = {}, {}
    # With another tile size, too: the pairs may depend on neither device nor tile size.
    for device, side in (("cpu", tile // 2), (task.device, tile)):
        began = time.perf_counter()
        pairs[side] = search(some, device, side)
        times[side] = time.perf_counter() - began
    on_cpu, on_device = pairs[tile // 2], pairs[tile]
    same = all(np.array_equal(a, b) for a, b in zip(on_cpu, on_device, strict=True))
    many = len(on_cpu[0])
    task.say("pairs", many, f"near pairs of {count:,} vectors of {dim}", expected="> 0", holds=many > 0)
    task.say("same", same, "the device finds those of the CPU, to the last digit", expected="True", holds=same)
    task.say("cpu_seconds", times[tile // 2], "seconds on the CPU")
    task.say("device_seconds", times[tile], "seconds on the device")
    task.say("ratio", times[tile // 2] / times[tile], "CPU / device")
    if task.quick or task.device == "cpu":
        return
    count = 524_288
    vectors = _vectors(count, dim)
    for side in (tile, 4 * tile):
        if task.has(30):
            began = time.perf_counter()
            many = len(search(vectors, task.device, side)[0])
            seconds = time.perf_counter() - began
            words = f"seconds for {count:,} vectors, {many:,} pairs, tiles of {side}"
            task.say(f"large_seconds.{side}", seconds, words)


def _vectors(count: int, dim: int) -> "npt.NDArray[np.float16]":
    """Returns unit vectors, a quarter of them near another quarter, with cosines on both sides of the floor."""
    import numpy as np

    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((count, dim), np.float32)
    quarter = count // 4
    moved = rng.uniform(0, 0.6, (quarter, 1)).astype(np.float32)
    vectors[-quarter:] = vectors[:quarter] + moved * rng.standard_normal((quarter, dim), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float16)


def decoding(task: Task) -> None:
    """Measures images per second by the number of decoding processes, with the pixel columns and without."""
    members = _jpegs(4 if task.quick else 64)
    counts = [1] if task.quick else [n for n in (1, 2, 4, 8, 16) if n <= _cores()]
    for workers in counts:
        if task.has(15):
            rates = _processes(members, workers, 16 if task.quick else 200)
            task.say(f"processes.{workers}", rates, f"images/s, {workers} processes")


def _jpegs(count: int) -> list[bytes]:
    import torch
    from score import stored_pictures

    torch.set_num_threads(1)
    return stored_pictures(None, count)


def _processes(stored: Sequence[bytes], workers: int, images: int) -> dict[str, float]:
    """Returns the images per second of a number of decoding processes; each prepares `images` images."""
    from itertools import cycle, islice

    from feed import SIDE, Way, once

    from curate.embed.decode.decoding import Decoding
    from curate.embed.decode.prepare import Prepare
    from curate.embed.model.preprocess import Preprocess

    members = list(enumerate(islice(cycle(stored), images * workers)))
    began = time.perf_counter()
    pool = Decoding(workers, in_processes=True)
    found: dict[str, float] = {}
    for name, measures in (("with_pixel_columns", True), ("without_pixel_columns", False)):
        way = Way(name, pool, Prepare([Preprocess.of({"size": SIDE})], [SIDE], measures, is_exact=False))
        # Enough images for every process to get some, so that all have started once these are done.
        once(way, members[: 16 * workers])
        found.setdefault("start_seconds", time.perf_counter() - began)
        found[name] = len(members) / min(once(way, members)[0] for _ in range(2))
    pool.close()
    return found


def device_decode(task: Task) -> None:
    """Decodes the same JPEGs with torchvision on the device, then resizes and crops them there."""
    import numpy as np
    import torch
    from feed import SIDE
    from PIL import Image
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms.v2 import functional as transforms

    stored = _jpegs(64) * 16
    encoded = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in stored]

    def decode(rows: list["torch.Tensor"]) -> list["torch.Tensor"]:
        found: list[torch.Tensor] = decode_jpeg(rows, mode=ImageReadMode.RGB, device="cuda:0")
        return found

    def prepare(rows: list["torch.Tensor"]) -> None:
        for image in decode(rows):
            small = transforms.resize(image, [SIDE], interpolation=transforms.InterpolationMode.BICUBIC, antialias=True)
            transforms.center_crop(small, [SIDE, SIDE])

    with Image.open(io.BytesIO(stored[0])) as opened:
        expected = np.asarray(opened.convert("RGB")).astype(int)
    try:
        decode(encoded[:1])
    except RuntimeError as error:
        # torchvision may be built without nvJPEG.
        task.say("unavailable", str(error), "torchvision does not decode on this device")
        return
    levels = np.abs(decode(encoded[:1])[0].permute(1, 2, 0).cpu().numpy().astype(int) - expected)
    task.say("mean_difference", float(levels.mean()), "mean difference to Pillow's pixels, of 255 levels")
    task.say("largest_difference", int(levels.max()), "… largest")
    rates = {}
    for rows in (64, 256):
        batches = [encoded[start : start + rows] for start in range(0, len(encoded), rows)]
        for name, work in (("decode", decode), ("prepare", prepare)):

            def through(work: Callable[[Any], Any] = work, batches: list[Any] = batches) -> None:
                for some in batches:
                    work(some)

            rates[name] = len(encoded) / _seconds(task, through, 3)
            what = {"decode": "decoded", "prepare": "decoded, resized and cropped"}[name]
            task.say(f"{name}.{rows}", rates[name], f"images/s {what} on the device, {rows} at a time")
    workers = min(16, _cores())
    by_processes = _processes(stored[:64], workers, 200)["without_pixel_columns"]
    task.say("processes", by_processes, f"images/s by {workers} processes, without pixel columns")
    task.say("ratio", rates["prepare"] / by_processes, "device / processes")


def speed(task: Task, name: str, pairs: int, rows: int) -> None:
    """Measures the four ways of score.py; `plain` reads its tar without webdataset."""
    from score import Bench

    if task.quick:
        name, pairs, rows = QUICK_MODEL, 8, 4
    precision = "bf16" if task.device == "cuda" else "fp32"
    settings = _model(task, name, precision, rows)
    bench = Bench(settings, precision, task.torch_device, task.scratch, pairs, None, reader="tar")
    counts = [0] if task.quick else sorted({max(1, _cores() // 2), _cores()})
    rates, workers = bench.rates(counts, 1 if task.quick else 3, task.until - 45)
    about = f"{name} {precision}, batch {rows}"
    names = {"forward": "forward", "forward_cut": "forward cut", "score": "embed", "plain": "plain"}
    for way, rate in rates.items():
        task.say(way.replace("score", "embed"), rate, f"{about}: pairs/s, {names[way]}")
    task.say("plain_workers", workers, f"{about}: loader workers of plain")
    task.say("embed_over_forward_cut", rates["score"] / rates["forward_cut"], f"{about}: embed / forward cut")
    task.say("embed_over_plain", rates["score"] / rates["plain"], f"{about}: embed / plain")
    if task.quick or not task.has(20):
        return
    peak = bench.peak()
    task.say("matrix_tflops", peak / 1e12, f"TFLOP/s of a large matrix product in {precision}")
    if task.has(15):
        share = bench.operations() * rates["score"] / pairs / peak
        task.say("matrix_share", share, f"{about}: share of that which embed reaches")


SECTIONS: dict[str, Section] = {
    "parity": Section(parity, 130),
    "batch": Section(batch, 70),
    "halving": Section(halving, 60, "the memory of a CPU has no limit that torch keeps"),
    "near": Section(near, 70),
    "decoding": Section(decoding, 90),
    "speed_b": Section(partial(speed, name="ViT-B-32", pairs=8192, rows=512), 120),
    "lost": Section(lost, 45, "only a device is lost"),
    "device_decode": Section(device_decode, 60, "nvJPEG decodes there"),
    "speed_l": Section(partial(speed, name="ViT-L-14", pairs=4096, rows=256), 150),
}


if __name__ == "__main__":
    main()
