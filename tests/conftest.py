"""What all tests share: hypothesis without deadlines, a free port, a real S3 server, the figures of `make soak`."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings

# Asserts in helpers say what they compared, as those in tests do.
pytest.register_assert_rewrite("helpers")

# Machines are shared and noisy: no deadlines. `make test` runs the same examples every time.
settings.register_profile("test", deadline=None, derandomize=True, max_examples=50)
settings.register_profile("soak", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "test"))


FIGURES = pytest.StashKey[Counter[str]]()


@pytest.fixture
def soak_figures(request):
    """Counts of what long tests tried and found; pytest's last line has their sums, as JSON."""
    return request.config.stash.setdefault(FIGURES, Counter())


def pytest_unconfigure(config):
    if figures := config.stash.get(FIGURES, None):
        print(json.dumps(figures))


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def in_process():
    """Runs with `--engine local` do their units in this process: see `helpers.inline_engine`."""
    from helpers.inline_engine import in_process

    with in_process():
        yield


@pytest.fixture
def s3(tmp_path, free_port, monkeypatch):
    """An S3 server over a folder (rclone); yields its endpoint, credentials are in the environment.

    Between two attempts at a request, clients of this process pause for 20 ms instead of seconds.
    """
    backoff = "botocore.retries.standard.ExponentialBackoff.delay_amount"
    monkeypatch.setattr(backoff, lambda _self, _context: 0.02)
    folder = tmp_path / "s3"
    (folder / "bucket").mkdir(parents=True)
    address = f"127.0.0.1:{free_port}"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDTEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRETKEY1234567")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{address}")
    log = (tmp_path / "rclone.log").open("w")
    command = [
        str(Path(sys.executable).with_name("rclone")),
        "serve",
        "s3",
        "--addr",
        address,
        "--auth-key",
        "AKIDTEST,SECRETKEY1234567",
        str(folder),
    ]
    with subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            _wait_for(f"http://{address}")
            yield f"http://{address}"
        finally:
            server.terminate()
    log.close()


@pytest.fixture
def faulty_s3(s3, monkeypatch):
    """The server of `s3` behind a proxy that injects faults: see `helpers.faulty_s3`."""
    from helpers.faulty_s3 import faulty

    monkeypatch.setattr("curate.store._READ_TIMEOUT", 0.4)
    with faulty(s3) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


def _wait_for(url: str) -> None:
    for _ in range(100):
        try:
            urllib.request.urlopen(url, timeout=1)
        except urllib.error.HTTPError:
            return  # it answers: without credentials it refuses
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"no S3 server came up at {url}")
