"""Openers for tests: workers that count, fail or die on purpose."""

import errno
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pyarrow as pa

from curate.errors import DeviceLost


def double(settings):
    def work(unit, inputs, outputs):
        for output in outputs.values():
            output.put_table("n.parquet", pa.table({"n": [unit * 2]}))
            output.counts["rows"] = 1
            output.notes.extend(settings.get("notes", []))
        _log(settings, unit)

    return work


def add_one(settings):
    """Reads what `double` wrote for the same part."""

    def work(unit, inputs, outputs):
        n = inputs["double"].table("n.parquet", unit)["n"][0].as_py()
        for output in outputs.values():
            output.put_table("n.parquet", pa.table({"n": [n + 1]}))
        _log(settings, unit)

    return work


def trouble(settings):
    """Fails, dies or succeeds as `settings` say: {"raise": [units], "die": [units], "heal": bool, …}.

    Units in `full` find the disk full: always, or `times` times. `bytes` is the size of a second file.
    """

    def work(unit, inputs, outputs):
        _log(settings, unit)
        tried = _tries(settings, unit)
        if unit in settings.get("full", []) and not ("times" in settings and tried > settings["times"]):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/full")
        if unit in settings.get("raise", []) and not (settings.get("heal") and tried > 1):
            raise ValueError(f"part {unit} is bad")
        if unit in settings.get("lose", []) and not (settings.get("heal") and tried > 1):
            raise DeviceLost("the GPU failed")
        if "pids" in settings:
            with Path(settings["pids"]).open("a") as log:
                log.write(f"{os.getpid()}\n")
        if unit in settings.get("die", []) and not (settings.get("heal") and tried > 1):
            os.kill(os.getpid(), signal.SIGKILL)
        for output in outputs.values():
            output.put_json("n.json", {"n": unit})
            if "bytes" in settings:
                output.put("filler.bin", bytes(settings["bytes"]))

    return work


def ahead(settings):
    """Writes down, per process, what it was given and told; dies and sleeps as `settings` say."""

    def work(unit, inputs, outputs, following):
        with (Path(settings["folder"]) / str(os.getpid())).open("a") as log:
            log.write(f"{unit} {following}\n")
        if unit in settings.get("die", []):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(settings.get("seconds", 0))
        for output in outputs.values():
            output.put_json("n.json", {"n": unit})

    return work


def endless(settings):
    """Makes a lock as libraries do, says so, and works on."""

    def work(unit, inputs, outputs):
        lock = multiprocessing.Lock()
        (Path(settings["folder"]) / "busy").touch()
        while True:
            with lock:
                time.sleep(0.1)

    return work


def shows_gpu(settings):
    """Writes down, once for each process, the GPUs that it may use; dies as `settings` say."""
    with Path(settings["log"]).open("a") as log:
        log.write(f"{os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES')}\n")

    def work(unit, inputs, outputs):
        if unit in settings["die"]:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.1)
        for output in outputs.values():
            output.put_json("n.json", {"n": unit})

    return work


def hangs(settings):
    """Never ends at some units, at the others at once."""

    def work(unit, inputs, outputs):
        while unit in settings["hang"]:
            time.sleep(0.1)
        for output in outputs.values():
            output.put_json("n.json", {"n": unit})

    return work


def slow(settings):
    """Takes as long as `settings` say for a unit, and writes down when it began and ended."""

    def work(unit, inputs, outputs):
        _log(settings, f"began {unit}")
        time.sleep(settings["seconds"].get(str(unit), 0))
        for output in outputs.values():
            output.put_json("n.json", {"n": unit})
        _log(settings, f"ended {unit}")

    return work


def wrong_recipe(settings):
    from curate.errors import RecipeError

    def work(unit, inputs, outputs):
        raise RecipeError("select: small: no column 'widht'")

    return work


def names(settings):
    """Fails with an exception that names the URL of the settings, as a library does."""

    def work(unit, inputs, outputs):
        raise ValueError(f"no answer from {settings['url']}")

    return work


def _log(settings, unit):
    if "log" in settings:
        with Path(settings["log"]).open("a") as log:
            log.write(f"{unit}\n")


def _tries(settings, unit):
    return Path(settings["log"]).read_text().split().count(str(unit)) if "log" in settings else 1
