"""benchmarks/drive.py runs, and its counts, which no machine's load changes, stay within the driver's bounds."""

import json
import subprocess
import sys
from pathlib import Path

DRIVE = Path(__file__).parents[2] / "benchmarks" / "drive.py"
PARTS = 1200


def test_a_finished_run_of_more_parts_than_one_listing_costs_few_requests():
    command = [sys.executable, str(DRIVE), "--parts", str(PARTS), "--rows", "12_000_000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures.keys() == {"parts", "ms_per_part", "memory_mb", "restart_s", "requests_idle"}
    assert figures["parts"] == PARTS
    # Some 300 at 100,000 parts: for summaries, and for the listing of the result's files.
    assert 20 < figures["requests_idle"] < 220
