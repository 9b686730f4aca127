"""benchmarks/hosts.py with small parts: 256 workers keep the limit of a host, and lose none of its images."""

import json
import runpy
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "hosts.py"


def test_256_workers_keep_the_limit_of_a_host_and_lose_hardly_any_image(capsys):
    # In simulated time: the figures are the same on every machine.
    runpy.run_path(str(SCRIPT))["main"](["--quick"])
    run = json.loads(capsys.readouterr().out.splitlines()[-1])["256"]
    assert run["lost"] <= 0.01
    limit = 16
    assert run["mean"] < 1.05 * limit
    # The limit is used, too, though small parts begin and end below it.
    assert 0.8 * limit < run["minute"] < 1.1 * limit
    # Workers do not communicate, so the number varies around its mean as a binomial one: a deviation is 3.9.
    assert run["peak"] < limit + 6 * 3.9
