"""What the command line says, without a run."""

import subprocess
import sys

from curate import __version__


def test_the_package_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "curate", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"curate {__version__}\n")
