"""Pictures that burn, bomb, kill or hang their decoder cost themselves and nothing else."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from helpers.decoding_jobs import NAME, read

from curate.decoding import pool
from curate.decoding.pool import Decoders, DecodingFault

ROOMY = b"5"


@pytest.fixture
def decoders():
    with Decoders(NAME, 1) as made:
        yield made


def results(decoders, pictures, parameters=ROOMY):
    found = decoders.each(parameters, [picture.encode() for picture in pictures], read)
    return [str(result) for result in found]


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        ("burn", "it takes more CPU time to decode than is allowed"),
        ("allocate", "it takes more memory to decode than is allowed"),
        ("killed", "the decoder was ended by signal 9 (Killed)"),
        ("exit", "the decoder ended with exit code 3"),
        ("malformed", "the decoder sent a malformed answer"),
        ("nested", "the decoder sent a malformed answer"),
    ],
)
def test_a_picture_that_ends_its_decoder_costs_itself_alone(decoders, picture, reason):
    parameters = b"0.2" if picture == "burn" else ROOMY
    found = results(decoders, ["a", "b", picture, "c", picture, "d"], parameters)
    assert found == ["A", "B", reason, "C", reason, "D"]
    assert results(decoders, ["e"]) == ["E"]


def test_a_decoder_that_waits_for_ever_is_stopped(decoders, monkeypatch):
    monkeypatch.setattr(pool, "WALL_SECONDS", 0.5)
    # The process has started before: its start is no part of what is measured.
    monkeypatch.setattr(pool, "START_SECONDS", 60.0)
    assert results(decoders, ["a", "sleep", "b"]) == ["A", "the decoder was stopped, as it did not answer", "B"]


def test_a_picture_whose_decoder_was_killed_is_tried_again_alone(decoders, tmp_path):
    parameters = f"5 {tmp_path}".encode()
    pictures = ["a", "once 1", "once 2", "b", "once 3"]
    assert results(decoders, pictures, parameters) == ["A", "ONCE 1", "ONCE 2", "B", "ONCE 3"]


def test_a_decoder_killed_from_outside_costs_nothing(decoders):
    assert results(decoders, ["a"]) == ["A"]
    (child,) = decoders._alive
    os.kill(child.process.pid, signal.SIGKILL)
    assert results(decoders, ["b", "c"]) == ["B", "C"]
    assert child not in decoders._alive


def test_cpu_time_is_counted_for_each_picture(decoders):
    assert results(decoders, ["work 0.15"] * 6, b"0.5") == ["WORK 0.15"] * 6


def test_load_changes_no_result(decoders):
    """A competitor that takes most of the core changes the clock, not the CPU time."""
    load = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        assert results(decoders, ["work 0.1", "burn", "work 0.1"], b"0.3") == [
            "WORK 0.1",
            "it takes more CPU time to decode than is allowed",
            "WORK 0.1",
        ]
    finally:
        for process in load:
            process.kill()
            process.wait()


def test_a_fault_of_the_job_is_raised_with_its_traceback(decoders, capfd):
    with pytest.raises(DecodingFault, match="RuntimeError: a fault"):
        results(decoders, ["a", "raise", "b"])
    assert results(decoders, ["c"]) == ["C"]
    assert capfd.readouterr().err == ""


def test_a_job_that_cannot_be_opened_is_a_fault_and_no_picture_s():
    for job in ("helpers.decoding_jobs:unimportable", "helpers.decoding_jobs:missing", "helpers.not_there:opened"):
        with Decoders(job, 1) as decoders, pytest.raises(DecodingFault, match="Error"):
            results(decoders, ["a"])


def test_a_process_that_cannot_start_is_a_fault_and_no_picture_s(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Decoders(NAME, 1) as decoders, pytest.raises(DecodingFault, match="did not start"):
        results(decoders, ["a"])


def test_results_that_nobody_takes_are_not_given_to_the_next(decoders):
    with closing(decoders.each(ROOMY, [b"a", b"b", b"c"], read)) as found:
        assert next(found) == "A"
    assert results(decoders, ["d"]) == ["D"]


def test_idle_processes_are_used_before_new_ones_are_started():
    with Decoders(NAME, 4) as decoders:
        assert not decoders._alive
        for _ in range(3):
            results(decoders, ["a"])
        assert len(decoders._alive) == 1
        decoders.start()
        assert len(decoders._alive) == 4


def test_no_process_outlives_its_pool():
    with Decoders(NAME, 2) as decoders:
        decoders.start()
        results(decoders, ["a"])
        processes = [child.process for child in decoders._alive]
    assert all(process.returncode is not None for process in processes)
    forgotten = Decoders(NAME, 1)
    results(forgotten, ["a"])
    (child,) = forgotten._alive
    del forgotten
    assert child.process.returncode is not None


PARENT = """
import sys, threading
from helpers.decoding_jobs import NAME, read
from curate.decoding.pool import Decoders
decoders = Decoders(NAME, 2)
decoders.start()
print(*(child.process.pid for child in decoders._alive), flush=True)
# The thread that first uses a process ends before the process does.
for _ in range(2):
    thread = threading.Thread(target=lambda: list(decoders.each(b"3600", [b"a"], read)))
    thread.start()
    thread.join()
print("used", flush=True)
threading.Thread(target=lambda: list(decoders.each(b"3600", [b"burn"], read)), daemon=True).start()
threading.Event().wait()
"""


def test_no_process_outlives_a_parent_that_is_killed():
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, env=env) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        used = parent.stdout.readline()
        running = [pid for pid in pids if is_running(pid)]
        parent.kill()
    assert used == "used\n"
    assert len(running) == 2
    until = time.monotonic() + 30
    while any(is_running(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(is_running(pid) for pid in pids)
