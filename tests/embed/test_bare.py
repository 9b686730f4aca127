"""curate/embed runs where nothing is installed but what it needs: the page that says so is run as it stands."""

import re
import subprocess
import sys
from pathlib import Path

from helpers.embed_parts import Part, draw, encode

from curate.store import Folder, Store

ROOT = Path(__file__).parents[2]
BLOCK = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ray", "img2dataset", "duckdb", "pydantic", "webdataset", "s3fs", "rich"):
            raise ModuleNotFoundError(f"No module named {name!r}: it was blocked", name=name)

sys.meta_path.insert(0, Blocked())
"""


def test_the_page_on_bare_machines_is_true(tmp_path):
    made = [
        Part(tmp_path / "run", [(encode(draw(i + 10 * part)), [f"number {i}"]) for i in range(3)], part)
        for part in (0, 1, 2)
    ]
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "embed-bare.md").read_text(), re.DOTALL)
    for said, meant in (
        ("s3://bucket/run", made[0].store.url),
        ("/tmp/embedded", str(tmp_path / "out")),
        ("0123456789ab", "x"),
        ("ba9876543210", "x"),
    ):
        assert said in code
        code = code.replace(said, meant)
    # From a checkout: the package is found because it lies in the folder that python is started in.
    done = subprocess.run(
        [sys.executable, "-c", BLOCK + code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line.split(" s")[0].rpartition(" ")[0] for line in done.stdout.splitlines()] == [
        f"{part} {{'images': 3, 'pairs': 3}}" for part in (0, 1, 2)
    ]
    folder = Folder(Store(str(tmp_path / "out")), "embed-m", "bare")
    assert folder.units() == {0, 1, 2}
    assert folder.table("pairs.parquet", 2)["clip_similarity"].null_count == 0
