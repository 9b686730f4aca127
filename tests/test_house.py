"""The rules of the house (docs/architecture.md), read off the source."""

import ast
import json
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import curate

ROOT = Path(__file__).parents[1]
CURATE = ROOT / "curate"
ROOMS = ("plan", "fetch", "embed", "signals", "dedup", "select", "pack", "report")
COMMON = {
    "account",
    "against",
    "checksums",
    "columns",
    "credentials",
    "decoding",
    "device",
    "duplicates",
    "errors",
    "jpeg",
    "keys",
    "near",
    "phash",
    "registry",
    "remembered",
    "schema",
    "scratch",
    "side_by_side",
    "store",
    "stored_images",
    "summaries",
}
DECLARING = {"prepare", "runs"}
"""What a room's `passes.py` may import besides: it declares the room's passes from a recipe."""


def imports(path):
    """Every module that a file imports, dotted; of `from curate import x` that is curate.x."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where a thing is"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_what_all_share_and_itself(room):
    files = list((CURATE / room).rglob("*.py"))
    assert files, f"the room {room} is empty"
    for path in files:
        ours = {name.split(".")[1] for name in imports(path) if name.startswith("curate.")}
        allowed = {*COMMON, room, *(DECLARING if path.name == "passes.py" else ())}
        assert ours <= allowed, f"{path.relative_to(ROOT)} imports {sorted(ours - allowed)}"


def test_ray_is_imported_in_one_module():
    using = [path for path in CURATE.rglob("*.py") if any(n == "ray" or n.startswith("ray.") for n in imports(path))]
    assert [path.relative_to(CURATE).as_posix() for path in using] == ["engine/ray.py"]


def test_file_systems_are_touched_in_the_store_alone():
    using = [
        path for path in CURATE.rglob("*.py") if any(n.startswith(("fsspec", "s3fs", "boto3")) for n in imports(path))
    ]
    assert [path.relative_to(CURATE).as_posix() for path in using] == ["store.py"]


def test_run_knows_no_pass_by_name():
    literals = {
        node.value
        for node in ast.walk(ast.parse((CURATE / "runs" / "driver.py").read_text()))
        if isinstance(node, ast.Constant)
    }
    assert literals.isdisjoint(ROOMS)


def test_broad_excepts_stand_at_the_boundary():
    found = []
    for path in CURATE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler) and (
                node.type is None
                or (isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException"))
            ):
                found.append(path.relative_to(CURATE).as_posix())
    assert found == ["runs/units.py"]


def test_no_test_imports_another_test_module():
    """What tests share stands in tests/helpers or in fixtures; scripts that tests start are read too."""
    importing = re.compile(r"^\s*(?:from|import) (?:[\w.]+\.)?(?:test_\w+|conftest)\b.*", re.MULTILINE)
    for path in (ROOT / "tests").rglob("*.py"):
        assert not importing.findall(path.read_text()), f"{path.relative_to(ROOT)} imports from a test module"


def run_python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_importing_curate_and_its_command_line_loads_neither_torch_nor_ray():
    heavy = run_python(
        "import sys, json, curate, curate.commands.main, curate.commands.status\n"
        "print(json.dumps([m for m in ('torch', 'ray', 'open_clip', 'img2dataset') if m in sys.modules]))"
    )
    assert heavy == []


def test_import_curate_loads_nothing_but_itself():
    # What `import curate` costs is bounded by what it loads: no timing, machines are noisy.
    loaded = run_python(
        "import sys, json; before = set(sys.modules); import curate\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    assert loaded == ["curate"]


def test_the_version_stands_in_one_place():
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in pyproject["project"]
    assert pyproject["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "curate.__version__"}
    heading = rf"^## {re.escape(curate.__version__)}\b"
    assert re.search(heading, (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE), "CHANGELOG.md lacks this version"


def test_a_commit_is_checked_as_make_lint_checks():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert [hook["entry"] for hook in hooks] == recipe[1].replace("\t$(BIN)/", "").splitlines()
    assert {hook["language"] for hook in hooks} == {"system"}, "a hook must not download anything"


def test_embed_runs_bare():
    """On a GPU machine without Ray, img2dataset, DuckDB and pydantic, curate/embed can be measured."""
    allowed = {"curate", "torch", "torchvision", "open_clip", "pyarrow", "numpy", "PIL", "safetensors"}
    # Those that open_clip and transformers need themselves.
    allowed |= {"ftfy", "tokenizers"}
    for path in (CURATE / "embed").rglob("*.py"):
        outside = {name.split(".")[0] for name in imports(path)} - allowed - set(sys.stdlib_module_names)
        assert not outside, f"{path.name} imports {outside}"


def test_no_place_of_ours_stands_in_the_source():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    hosts = ("py" + "pi.org", "python" + "hosted", "npm" + "js.org", "/wo" + "rk/")
    for name in listed:
        path = ROOT / name
        if path.suffix in (".py", ".md", ".yaml", ".toml", ".txt", ".html") and path.exists():
            text = path.read_text()
            assert not any(host in text for host in hosts), f"{name} names a package host or a machine's path"


def test_the_code_map_is_what_the_modules_say():
    path = ROOT / "docs" / "code_map.py"
    written = runpy.run_path(str(path))
    assert written["page"]() == written["PAGE"].read_text(encoding="utf-8"), "run: python docs/code_map.py"


def test_the_tests_that_the_architecture_names_exist():
    named = set(re.findall(r"`(tests/[^`]*)`", (ROOT / "docs" / "architecture.md").read_text()))
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]
