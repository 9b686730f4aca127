"""benchmarks/gpu.py on a CPU, small: it can be run where a GPU is, and where its checks fail it says so."""

import importlib.util
import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
ON_A_CPU = ("parity", "batch", "near", "decoding", "speed_b")
SITE = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}: it was blocked", name=name)

BLOCKED = ("ray", "img2dataset", "duckdb", "pydantic", "webdataset", "boto3", "s3fs", "rich", "jinja2", "protego")
sys.meta_path.insert(0, Blocked())
"""


@pytest.fixture
def gpu(monkeypatch):
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def run(folder, *arguments):
    """The script in a bare environment: its exit code, the lines of its output, and the JSON in the last one."""
    (folder / "sitecustomize.py").write_text(SITE)
    env = {**os.environ, "PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.stdout, done.stderr
    lines = done.stdout.splitlines()
    return done.returncode, lines, json.loads(lines[-1]), done.stderr


def test_what_makes_sense_on_a_cpu_runs_bare_and_parity_holds(tmp_path):
    code, lines, found, said = run(tmp_path, "--device", "cpu", "--quick")
    sections = found["sections"]
    assert code == 0, said
    assert {name for name, section in sections.items() if section["state"] == "ok"} == set(ON_A_CPU)
    for name in set(sections) - set(ON_A_CPU):
        assert sections[name]["state"] == "skipped"
        assert sections[name]["reason"].startswith(("needs a GPU: ", "--quick: "))
        assert not sections[name]["figures"]
    parity = sections["parity"]["figures"]
    for precision in ("fp32", "bf16", "fp16"):
        assert parity[f"pocket.{precision}.pixels"] is True
        assert parity[f"pocket.{precision}.repeats"] is True
        for column in ("clip_similarity", "clip_similarity_mirrored"):
            shift = parity[f"pocket.{precision}.{column}"]
            assert 0 <= shift["median"] <= shift["worst"] <= {"fp32": 2e-5, "bf16": 0.02, "fp16": 4e-3}[precision]
    # Low precision is another one: the same numbers would say that it was not used.
    assert parity["pocket.bf16.clip_similarity"]["worst"] > parity["pocket.fp32.clip_similarity"]["worst"]
    near = sections["near"]["figures"]
    assert near["same"] is True
    assert near["pairs"] > 0
    assert set(sections["batch"]["figures"]["ViT-S-32-alt.fp32.rates"]) == {"2", "4"}
    assert min(sections["decoding"]["figures"]["processes.1"].values()) > 0
    speed = sections["speed_b"]["figures"]
    assert {"forward", "forward_cut", "embed", "plain", "embed_over_plain", "embed_over_forward_cut"} <= set(speed)
    rows = [line for line in lines if line.startswith("| ")]
    assert {row.split(" | ")[0].strip("| ") for row in rows[1:]} == set(sections)
    assert {"torch", "open_clip", "Python", "cores"} <= set(found["machine"])
    assert found["seconds"] > 0


def test_what_no_time_is_left_for_is_named(tmp_path):
    code, lines, found, _ = run(tmp_path, "--device", "cpu", "--quick", "--seconds", "10", "--only", "near", "parity")
    assert code == 0
    assert {name: section["state"] for name, section in found["sections"].items()} == {
        "near": "left out",
        "parity": "left out",
    }
    assert "| near | 10 s were left | | | left out |" in lines


def test_where_no_device_is_the_first_section_says_so_and_no_other_begins(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    code, _, found, said = run(tmp_path, "--only", "near", "lost")
    assert code == 1
    assert found["sections"]["near"]["state"] == "failed"
    assert found["sections"]["near"]["reason"].endswith("torch sees no CUDA device here; use device auto or cpu")
    assert found["sections"]["lost"]["state"] == "left out"
    assert "UsageError" in said


@pytest.mark.parametrize(
    ("does", "states", "reason"),
    [
        (
            "echo 'CUDA error: an error'; exit 3",
            ("ok", "failed"),
            "its process ended with exit code 3: CUDA error: an",
        ),
        ("sleep 600", ("ok", "stopped"), "at its limit of 2 s"),
    ],
)
def test_a_section_that_ends_badly_leaves_the_figures_it_had(does, states, reason, gpu, tmp_path, monkeypatch):
    figure = {"key": "k", "value": 1.5, "words": "what", "expected": "", "holds": None, "in_table": True}
    end = {"state": "ok", "reason": None, "seconds": 1.0}
    lines = [
        {"machine": {"torch": "2"}},
        {"section": "near", "end": end},
        {"section": "parity", "figure": figure},
    ]
    fake = tmp_path / "python"
    said = "\n".join(json.dumps(line) for line in lines)
    # The file of results is the third argument.
    fake.write_text(f"#!/bin/sh\ncat > $3 <<'EOF'\n{said}\nEOF\n{does}\n")
    fake.chmod(0o755)
    monkeypatch.setattr(gpu.sys, "executable", str(fake))
    found, machine = gpu._run_group(["near", "parity"], Namespace(device="cuda", quick=False), 2.0)
    assert machine == {"torch": "2"}
    assert (found["near"].state, found["parity"].state) == states
    assert found["parity"].reason.startswith(reason)
    assert found["parity"].figures == [figure]
    text = gpu.table(machine, found, 3.0)
    assert "| parity | what | 1.5 |  |  |" in text
    assert gpu.summary(machine, found, 3.0)["sections"]["parity"]["figures"] == {"k": 1.5}


def test_a_check_that_does_not_hold_fails_its_section_and_stands_in_the_table(gpu, tmp_path):
    results = tmp_path / "results"
    task = gpu.Task("near", "cpu", True, 0.0, tmp_path, results)
    task.say("fine", 1, "fine", holds=True, brief=True)
    task.say("same", False, "the same", expected="True", holds=False, brief=True)
    assert task.failed == ["same"]
    figures = [json.loads(line)["figure"] for line in results.read_text().splitlines()]
    outcome = gpu.Outcome("failed", "did not hold: same", 1.0, figures)
    text = gpu.table({}, {"near": outcome}, 1.0)
    assert "| near | the same | False | True | **NOT OK** |" in text
    assert "fine" not in text
    assert gpu.summary({}, {"near": outcome}, 1.0)["sections"]["near"]["not_ok"] == ["same"]
