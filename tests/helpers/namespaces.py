"""Runs a script in process, mount and network namespaces of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_NAMESPACES = ["unshare", "--pid", "--fork", "--mount", "--net", "--mount-proc", "--kill-child"]


def in_namespaces(folder, script, *arguments, seconds=400, **environment):
    """Runs a Python script in namespaces of its own; returns the JSON of its last line.

    The script finds `folder` in its first argument. All of its processes end with it. Skips the test where namespaces
    are not permitted.
    """
    probe = subprocess.run([*_NAMESPACES, "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("namespaces need root")
    (folder / "script.py").write_text(script)
    paths = os.pathsep.join(str(Path(__file__).parents[up]) for up in (2, 1))
    commands = 'ip link set lo up; exec "$@"'
    done = subprocess.run(
        [*_NAMESPACES, "sh", "-c", commands, "sh", sys.executable, str(folder / "script.py"), str(folder), *arguments],
        env={
            **os.environ,
            "PYTHONPATH": paths,
            "HOME": str(folder),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_USAGE_STATS_ENABLED": "0",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
