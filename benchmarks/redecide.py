"""Measures how long a second decision takes on the finished demo, and which heavy modules the driver loads for it.

    python benchmarks/redecide.py [--pairs 2000] [--rounds 5]

Runs the demo once (default engine), then `--rounds` times, each a process of its own with files cached: a run with
nothing to do; a run with a changed threshold `--until select`; the same to its end, with result and report. Prints a
table with the median and the smallest of each. The results are in benchmarks/README.md.

The last line is JSON: `seconds_idle`, `seconds_select`, `seconds_all` (medians of wall-clock seconds, from the start of
Python to its end), `seconds_first_line` (until the first byte on stdout or stderr, of the runs with nothing to do), and
`imports`, the heavy modules that a driver that decides again has loaded at its end.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HEAVY = ("torch", "open_clip", "transformers", "ray", "img2dataset", "pandas", "duckdb", "pyarrow", "numpy")

MISMATCHED = 5
"""The number of the demo's step whose threshold is changed: the share of pairs kept by clip_similarity."""

REPORT = f"""
import sys
from curate.commands.main import main
code = main(sys.argv[1:])
print([name for name in {HEAVY!r} if name in sys.modules])
sys.exit(code)
"""


ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""Python keeps compiled modules, as an installed command does; without them each start compiles all of Curate."""


def timed(command: list[str]) -> tuple[float, float]:
    """Runs a command; returns its seconds, and those until its first output."""
    begun = time.monotonic()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0, env=ENVIRONMENT
    ) as process:
        assert process.stdout
        output = process.stdout.read(1)
        first = time.monotonic() - begun
        while block := process.stdout.read(1 << 16):
            output += block
    if process.returncode:
        raise SystemExit(output.decode(errors="replace"))
    return time.monotonic() - begun, first


def main() -> None:
    """Runs the demo, then the rounds, and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    curate = [sys.executable, "-m", "curate.commands.main"]
    seconds: dict[str, list[float]] = {"idle": [], "select": [], "all": [], "first_line": []}
    with tempfile.TemporaryDirectory() as place:
        run, web = Path(place) / "run", Path(place) / "web"
        demo = ["demo", "--pairs", str(arguments.pairs), "--output", str(run), "--web", str(web)]
        timed([*curate, *demo])
        again = ["run", str(run / "recipe.json")]
        timed([*curate, *again])
        for number in range(arguments.rounds):
            whole, first = timed([*curate, *again])
            seconds["idle"].append(whole)
            seconds["first_line"].append(first)
            # Fractions that no round had before.
            for name, until, fraction in (("select", ["--until", "select"], 0.7), ("all", [], 0.6)):
                change = f"select.{MISMATCHED}.keep_top.fraction={fraction + number / 1000}"
                seconds[name].append(timed([*curate, *again, *until, "--set", change])[0])
        change = f"select.{MISMATCHED}.keep_top.fraction=0.5"
        command = [sys.executable, "-c", REPORT, *again, "--set", change]
        ran = subprocess.run(command, capture_output=True, text=True, check=True, env=ENVIRONMENT)
        imports = ran.stdout.splitlines()[-1]
    print(f"{'':<12}{'median':>8}{'least':>8}  s")
    for name, values in seconds.items():
        print(f"{name:<12}{statistics.median(values):>8.2f}{min(values):>8.2f}")
    medians = {f"seconds_{name}": round(statistics.median(values), 2) for name, values in seconds.items()}
    print(json.dumps({**medians, "imports": json.loads(imports.replace("'", '"'))}))


if __name__ == "__main__":
    main()
