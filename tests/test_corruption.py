"""The corruption matrix: one file of a finished run is flipped in one bit, cut short or deleted; then the run goes on.

Allowed are the very bytes of a run that nothing happened to, or one line that names the file. A result that differs
without a word is a failure. `make soak` tries every kind of file; `make test` one position of each.
"""

import json
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from helpers.drawn_web import keep_top, write_recipe
from helpers.fetch_samples import picture
from helpers.hostile_server import HostileServer, ok

from curate.commands.main import main
from curate.errors import Exit
from curate.store import Folder, Store

pytestmark = pytest.mark.usefixtures("in_process")

ROWS, PART_SIZE = 60, 20
POSITIONS = (0.0, 0.07, 0.31, 0.52, 0.78, 0.93, 0.999)
"""Where a bit is flipped, as shares of the file."""


@dataclass
class Made:
    """A finished run, the recipe that made it, and the results that it and a changed threshold give."""

    root: Path
    expected: dict[str, dict[str, str]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def command(self, output: Path, fraction: float) -> list[str]:
        recipe = yaml.safe_load((self.root / "recipe.yaml").read_text())
        recipe["select"][0]["keep_top"]["fraction"] = fraction
        recipe["output"] = str(output)
        path = output.with_suffix(".yaml")
        path.write_text(yaml.safe_dump(recipe))
        return ["run", str(path), "--engine", "local"]


UNVERIFIED = ("remembered.json",)
"""Files that are not needed, so that `verify` does not look at them."""

FRACTIONS = (0.9, 0.5)
"""Of the finished run, and of the decision that follows the corruption."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, in_process: None) -> Iterator[Made]:
    root = tmp_path_factory.mktemp("corruption")
    with HostileServer() as server:
        server.answers["/1.jpg"] = ok(picture(0))
        write_recipe(
            root,
            server,
            ROWS,
            part_size=PART_SIZE,
            signals={"concepts": {"grey": ["a grey drawing", "a red circle"]}},
            select=[
                keep_top("worst", 0.9),
                {"drop": "near", "duplicates": {"by": "image_embedding", "above": 0.999}},
            ],
            pack={"shard_size": 15},
        )
        run = Made(root)
        assert main(run.command(root / "whole", FRACTIONS[0])) == Exit.DONE
        shutil.copytree(root / "whole", root / "decided")
        for fraction, folder in zip(FRACTIONS, ("whole", "decided"), strict=True):
            assert main(run.command(root / folder, fraction)) == Exit.DONE
            run.expected[str(fraction)] = result(root / folder)
        yield run


def result(output: Path) -> dict[str, str]:
    """Name and digest of every file of the newest result, as they lie on the disk."""
    import hashlib

    manifest = json.loads((output / "manifest.json").read_bytes())
    return {
        info["name"]: hashlib.sha256((output / manifest["pack"] / info["name"]).read_bytes()).hexdigest()
        for info in manifest["result"]
    }


def kinds(output: Path) -> dict[str, str]:
    """One committed file of each kind, by kind, as names below the run's folder."""
    found = {path.name: path.name for path in output.iterdir() if path.is_file()}
    store = Store(str(output))
    for folder in Folder.all_in(store):
        found[f"{folder.name}/pass.json"] = f"{folder.bookkeeping}/pass.json"
        for unit in sorted(folder.units()):
            what = "all" if unit < 0 else "part"
            if what == "part" and f"{folder.name}/done/part" in found:
                continue
            found[f"{folder.name}/done/{what}"] = folder.marker_name(unit)
            for role, info in folder.marker(unit).files.items():
                found[f"{folder.name}/{what}/{role}"] = f"{folder.path}/{info.name}"
    return found


def corrupt(path: Path, how: str | float) -> None:
    if how == "delete":
        path.unlink()
        return
    data = bytearray(path.read_bytes())
    if how == "truncate":
        path.write_bytes(data[: len(data) // 2])
        return
    assert isinstance(how, float)
    data[min(int(how * len(data)), len(data) - 1)] ^= 1 << random.Random(f"{path.name}{how}").randrange(8)
    path.write_bytes(data)


def outcome(made: Made, output: Path, name: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Runs on with both recipes, then verifies; returns what is wrong."""
    wrong, file = [], Path(name).name
    first = verified(output, capsys)
    if first[0] != Exit.DONE:
        made.counts["found by verify"] += 1
        if file not in first[1]:
            wrong.append(f"verify does not name the file: {first}")
    elif file not in UNVERIFIED:
        wrong.append("verify finds no fault")
    for fraction in reversed(FRACTIONS):
        capsys.readouterr()
        code = main(made.command(output, fraction))
        said = capsys.readouterr().err
        if code != Exit.DONE:
            made.counts["named"] += 1
            last = said.strip().splitlines()[-1:]
            if not last or file not in last[0] or "Traceback" in said:
                wrong.append(f"{fraction}: exit {code}: {said[-600:]}")
            continue
        got, want = result(output), made.expected[str(fraction)]
        differing = sorted(name for name in {*want, *got} if got.get(name) != want.get(name))
        if not differing:
            made.counts["same"] += 1
        elif differing == [file] or any(name.endswith(file) for name in differing):
            # Of the finished result, a run looks at sizes alone.
            code, text = verified(output, capsys)
            made.counts["named"] += 1
            if code != Exit.AT_FAULT or file not in text:
                wrong.append(f"{fraction}: SILENT, other bytes in {differing[:3]}")
        else:
            wrong.append(f"{fraction}: SILENT, other bytes in {differing[:3]}")
    after = verified(output, capsys)
    if after[0] != Exit.DONE and file not in after[1]:
        wrong.append(f"not healed: {after}")
    return wrong


def verified(output: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    capsys.readouterr()
    code = main(["verify", str(output), "--deep"])
    told = capsys.readouterr()
    return code, told.out + told.err


def case(made: Made, name: str, how: str | float, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    output = tmp_path / "run"
    shutil.rmtree(output, ignore_errors=True)
    shutil.copytree(made.root / "whole", output)
    corrupt(output / name, how)
    made.counts["corruptions"] += 1
    try:
        return outcome(made, output, name, capsys)
    except Exception as error:  # noqa: BLE001 - a traceback is one of the outcomes that are looked for
        made.counts["tracebacks"] += 1
        return [f"raised {type(error).__name__}: {error}"]


SLICE = [
    ("fetch/part/images.tar", 0.52),
    ("fetch/part/images.parquet", "delete"),
    ("embed-pocket/part/pairs.parquet", 0.31),
    ("dedup-image_embedding/part/near.parquet", "truncate"),
    ("dedup-image_embedding/all/certificate.json", 0.52),
    ("nodes-image_embedding/part/nodes.parquet", 0.31),
    ("select/part/decisions.parquet", 0.999),
    ("plan/done/part", 0.52),
    ("pixels/done/part", "delete"),
    ("pack/part/shards/00000000.tar", "truncate"),
    ("remembered.json", 0.31),
    ("run.json", "delete"),
]


@pytest.mark.parametrize(("kind", "how"), SLICE)
def test_a_file_is_repaired_or_named(
    made: Made, kind: str, how: str | float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert case(made, kinds(made.root / "whole")[kind], how, tmp_path, capsys) == []


@pytest.mark.soak
def test_every_kind_of_file_is_repaired_or_named(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str], soak_figures: Counter[str]
) -> None:
    wrong = []
    made.counts.clear()
    for kind, name in kinds(made.root / "whole").items():
        for how in (*POSITIONS, "truncate", "delete"):
            wrong += [f"{kind} {how}: {line}" for line in case(made, name, how, tmp_path, capsys)]
    soak_figures.update({"corruptions": 0, "tracebacks": 0, **made.counts})
    soak_figures["silent"] += sum("SILENT" in line for line in wrong)
    assert not wrong, "\n".join(wrong)
