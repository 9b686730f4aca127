"""`curate duplicates` lists the groups that a plain count over the decisions finds, and `explain` words likeness."""

import random
import shutil
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from helpers.drawn_web import keep_top, write_recipe
from helpers.fetch_samples import picture
from helpers.hostile_server import HostileServer, ok

from curate import schema
from curate.commands.main import main
from curate.duplicates import KINDS, likeness
from curate.errors import Exit
from curate.report.groups import Size, gather, largest, members
from curate.store import Folder, Store

pytestmark = pytest.mark.usefixtures("in_process")

ROWS = 24
STEPS = {"same": "sha256", "hash": "phash", "near": "image_embedding"}
HOSTILE = "\x1b[31m\u202e"


@pytest.fixture(scope="module")
def run(tmp_path_factory, in_process):
    """A finished run over drawings: copies of two, and others that look alike to a hash or a model."""
    folder = tmp_path_factory.mktemp("duplicates")
    with HostileServer() as server:
        for number in (1, 2, 5):
            server.answers[f"/{number}.jpg"] = ok(picture(0))
        server.answers["/9.jpg"] = ok(picture(8))
        recipe = write_recipe(
            folder,
            server,
            ROWS,
            part_size=8,
            select=[
                keep_top("worst", 0.9),
                {"drop": "same", "duplicates": {"by": "sha256"}},
                {"drop": "hash", "duplicates": {"by": "phash", "within": 6}},
                {"drop": "near", "duplicates": {"by": "image_embedding", "above": 0.95}},
            ],
        )
        listed = folder / "list.csv"
        listed.write_text(listed.read_text().replace("a grey drawing", f"a grey {HOSTILE} drawing"))
        assert main(["run", str(recipe), "--engine", "local"]) == 0
        assert main(["run", str(recipe), "--engine", "local", "--sample", "0.5"]) == 0
        yield Store(str(folder / "run"))


class Truth:
    """The run's decisions as plain Python, with the digest and the URL of every row."""

    def __init__(self, run, name="manifest.json"):
        manifest = run.read_json(name)
        folders = {short: Folder.at(run, path) for short, path in manifest["folders"].items()}
        self.select, self.parts = folders["select"], list(range(manifest["parts"]))
        self.rows, self.groups = {}, defaultdict(list)
        for part in self.parts:
            images = folders["fetch"].table("images.parquet", part).to_pylist()
            digests = {image["image_id"]: image["sha256"] for image in images}
            planned = folders["plan"].table("pairs.parquet", part).to_pylist()
            decided = folders["select"].table("decisions.parquet", part).to_pylist()
            for plan, row in zip(planned, decided, strict=True):
                self.rows[row["pair_id"]] = {**plan, **row, "sha256": digests[plan["image_id"]]}
                if row["duplicate_of"]:
                    self.groups[row["duplicate_of"]].append(row["pair_id"])

    @property
    def by_size(self):
        return sorted(self.groups, key=lambda kept: (-len(self.groups[kept]), kept))

    def words(self, pair):
        row = self.rows[pair]
        if row["sha256"] == self.rows[row["duplicate_of"]]["sha256"]:
            return "equal bytes"
        if row["reason"] == "hash":
            return f"{round(64 * (1 - row['duplicate_similarity']))} of 64 bits differ"
        assert row["reason"] == "near"
        return f"cosine {int(row['duplicate_similarity'] * 10_000) / 10_000:.4f}"


def output(capsys, *command, code=0):
    capsys.readouterr()
    assert main(["duplicates", *command]) == code
    return capsys.readouterr().out


def blocks(said):
    """The groups of a list: kept pair, number of members, `dropped by` lines, ids of the members that are named."""
    found = []
    for block in said.split("\n\n"):
        lines = block.splitlines()
        at = next(number for number, line in enumerate(lines) if line.startswith("kept "))
        _, kept, _, count, _ = lines[at].split()
        by = {line.split()[2].rstrip(":"): line for line in lines if line.startswith("dropped by")}
        named = {line.split()[0]: line for line in lines if line.startswith("  ") and "…" not in line.split()[0]}
        found.append((kept.rstrip(","), int(count), by, named))
    return found


def test_the_groups_are_those_of_a_plain_count(run, capsys):
    truth = Truth(run)
    assert {row["reason"] for row in truth.rows.values()} == {"worst", *STEPS, None}
    said = output(capsys, run.url, "--limit", "1000")
    head, _, rest = said.partition("\n\n")
    total = sum(map(len, truth.groups.values()))
    assert head == f"{total} pairs dropped, in {len(truth.groups)} groups of duplicates"
    found = blocks(rest)
    assert [kept for kept, *_ in found] == [kept.hex() for kept in truth.by_size]
    for kept, count, by, named in found:
        pairs = truth.groups[bytes.fromhex(kept)]
        assert count == len(pairs)
        reasons = Counter(truth.rows[pair]["reason"] for pair in pairs)
        assert list(by) == [step for step in STEPS if reasons[step]]
        for step, number in reasons.items():
            of_step = [pair for pair in pairs if truth.rows[pair]["reason"] == step]
            least = min(of_step, key=lambda pair: truth.rows[pair]["duplicate_similarity"])
            words = truth.words(least)
            alike = words if words == "equal bytes" else f"the least similar: {words}"
            assert by[step] == f"dropped by  {step}: {number}, {alike}"
        assert len(named) == sum(min(number, 3) for number in reasons.values())
        for pair, line in named.items():
            row = truth.rows[bytes.fromhex(pair)]
            assert row["duplicate_of"].hex() == kept
            assert line.split(maxsplit=1)[1].startswith(row["reason"])
            assert f" {truth.words(row['pair_id'])} " in line
            assert line.endswith(row["url"])
    assert not [char for char in said if not char.isprintable() and char != "\n"]
    assert r"\x1b[31m\u202e" in said
    assert max(map(len, said.splitlines())) < 300
    assert max(count for _, count, *_ in found) > 3, "a group with more members than are named"


def test_a_limit_shows_the_largest(run, capsys):
    truth = Truth(run)
    said = output(capsys, run.url, "--limit", "1")
    assert f"in {len(truth.groups)} groups of duplicates; the 1 largest:" in said
    ((kept, *_),) = blocks(said.partition("\n\n")[2])
    assert kept == truth.by_size[0].hex()


@pytest.mark.parametrize("by", ["kept", "member", "prefix", "url"])
def test_the_group_of_a_pair_has_all_its_members(run, capsys, by):
    truth = Truth(run)
    for kept, pairs in truth.groups.items():
        pair = kept if by == "kept" else pairs[0]
        row = truth.rows[pair]
        wanted = {"prefix": pair.hex()[:8], "url": row["url"]}.get(by, pair.hex())
        said = output(capsys, run.url, wanted)
        role = "is the kept pair of this group" if by == "kept" else f"was dropped by {row['reason']}"
        assert said.startswith(f"pair        {pair.hex()} {role}\n")
        ((found, count, _, named),) = blocks(said)
        assert (found, count) == (kept.hex(), len(pairs))
        assert sorted(named) == sorted(other.hex() for other in pairs)
        for other in pairs:
            assert f" {truth.words(other)} " in named[other.hex()]


def test_a_sample_has_groups_of_its_own(run, capsys):
    truth = Truth(run, "manifest-sample-0.5.json")
    said = output(capsys, run.url, "--sample", "0.5", "--limit", "1000")
    assert [kept for kept, *_ in blocks(said.partition("\n\n")[2])] == [kept.hex() for kept in truth.by_size]
    assert truth.groups != Truth(run).groups


def test_what_is_in_no_group_is_one_line(run, capsys):
    truth = Truth(run)
    alone = next(pair for pair, row in truth.rows.items() if row["kept"] and pair not in truth.groups)
    worst = next(pair for pair, row in truth.rows.items() if row["reason"] == "worst")
    for wanted, why in (
        (alone.hex(), "is in no group of duplicates: it was kept, and no pair was dropped in favour of it"),
        (worst.hex(), "is in no group of duplicates: it was dropped by worst"),
        ("0" * 32, f"has no pair {'0' * 32}"),
        ("no pair", "'no pair' is neither a pair's id"),
    ):
        capsys.readouterr()
        assert main(["duplicates", run.url, wanted]) == Exit.WRONG
        said = capsys.readouterr()
        assert said.out == ""
        assert why in said.err
        assert said.err.count("\n") == 1
    assert main(["duplicates", run.url, alone.hex(), "--limit", "3"]) == Exit.WRONG


def test_a_run_without_decisions_and_one_without_the_step(run, tmp_path, capsys):
    assert main(["duplicates", str(tmp_path)]) == Exit.WRONG
    assert "no decisions yet" in capsys.readouterr().err
    assert main(["duplicates", run.url, "--sample", "0.25"]) == Exit.WRONG
    assert "no sample 0.25 here; samples: 0.5" in capsys.readouterr().err
    shutil.copytree(run.url, tmp_path / "run")
    recipe, place = Path(run.url).with_name("recipe.yaml"), str(tmp_path / "run")
    steps = 'select=[{"drop": "narrow", "where": "width < 2"}]'
    assert main(["run", str(recipe), "--engine", "local", "--set", f"output={place}", "--set", steps]) == 0
    assert main(["duplicates", place]) == Exit.WRONG
    assert "no step of its recipe drops duplicates; add a step with `duplicates`" in capsys.readouterr().err
    steps = 'select=[{"drop": "same", "duplicates": {"by": "image_embedding", "above": 1.0}}]'
    steps = steps.replace("[{", '[{"drop": "all", "where": "not contains(url, \'/7.jpg\')"}, {')
    assert main(["run", str(recipe), "--engine", "local", "--set", f"output={place}", "--set", steps]) == 0
    assert output(capsys, place) == "no pair was dropped as a duplicate by same\n"


def test_explain_names_the_kind_and_how_alike_they_are(run, capsys):
    truth = Truth(run)
    seen = set()
    for kept, pairs in truth.groups.items():
        for pair in pairs:
            capsys.readouterr()
            assert main(["explain", run.url, pair.hex()]) == 0
            by, words = STEPS[truth.rows[pair]["reason"]], truth.words(pair)
            seen.add((by, words.split()[-1]))
            assert f"\ncopies      {kept.hex()}, which is kept, by {by}: {words}\n" in capsys.readouterr().out
    assert {by for by, _ in seen} == set(STEPS.values())


def test_a_step_by_several_kinds_names_all_and_the_likeness_of_the_first(run, tmp_path, capsys):
    shutil.copytree(run.url, tmp_path / "run")
    recipe, place = Path(run.url).with_name("recipe.yaml"), str(tmp_path / "run")
    both = '{"all": [{"by": "phash", "within": 8}, {"by": "image_embedding", "above": 0.9}]}'
    steps = f'select=[{{"drop": "both", "duplicates": {both}}}]'
    assert main(["run", str(recipe), "--engine", "local", "--set", f"output={place}", "--set", steps]) == 0
    truth = Truth(Store(place))
    said = output(capsys, place, "--limit", "1000")
    assert [kept for kept, *_ in blocks(said.partition("\n\n")[2])] == [kept.hex() for kept in truth.by_size]
    worded = set()
    for pairs in truth.groups.values():
        for pair in pairs:
            row = truth.rows[pair]
            equal = row["sha256"] == truth.rows[row["duplicate_of"]]["sha256"]
            words = "equal bytes" if equal else KINDS["phash"].likeness(row["duplicate_similarity"])
            worded.add(equal)
            assert f" {words} " in next(line for line in said.splitlines() if pair.hex() in line)
            capsys.readouterr()
            assert main(["explain", place, pair.hex()]) == 0
            kept = f"copies      {row['duplicate_of'].hex()}, which is kept, by phash and image_embedding: {words}"
            assert kept in capsys.readouterr().out.splitlines()
    assert worded == {True, False}


@pytest.mark.parametrize(
    ("by", "similarity", "words"),
    [
        ("image_embedding", 0.97319, "cosine 0.9731"),
        ("image_embedding", 0.9499999, "cosine 0.9499"),
        ("image_embedding", 0.95, "cosine 0.9500"),
        ("image_embedding", 1.0, "cosine 1.0000"),
        ("image_embedding", 1 - 2**-53, "cosine 0.9999"),
        ("phash", 1 - 7 / 64, "7 of 64 bits differ"),
        ("phash", 1.0, "0 of 64 bits differ"),
        ("pdq", 1 - 31 / 256, "31 of 256 bits differ"),
        ("sha256", 1.0, "equal bytes"),
    ],
)
def test_a_similarity_in_words(by, similarity, words):
    assert likeness({"by": by}, similarity) == words
    search = {"by": by, "near": f"dedup-{by}"}
    assert likeness({"by": None, "searches": [search, {"by": "pdq"}]}, similarity) == words


def test_the_likeness_of_other_peoples_steps():
    assert likeness({"searches": []}, 0.5) == "similarity 0.5000"
    assert likeness({"by": "unknown", "searches": []}, None) == ""


def test_groups_over_many_parts(tmp_path: Path) -> None:
    """Drawn decisions: groups across parts, ties in size, equal similarities, and a step that gives none."""
    rng = random.Random(4)
    select = Folder(Store(str(tmp_path)), "select", "0")
    rows: list[tuple[int, int, dict[str, Any]]] = []
    kept = [rng.randbytes(16) for _ in range(30)]
    steps = ["same", "hash", "other"]
    for part in range(5):
        of_part = [
            {"pair_id": pair, "kept": True, "reason": None, "duplicate_of": None, "duplicate_similarity": None}
            for pair in kept[part::5]
        ]
        for _ in range(60):
            step = rng.choice([*steps, "small"])
            of = None if step == "small" else rng.choice(kept[: rng.randint(1, 30)])
            similarity = rng.choice([0.9, 0.95, 1.0]) if step in ("same", "hash") else None
            of_part.append(
                {
                    "pair_id": rng.randbytes(16),
                    "kept": False,
                    "reason": step,
                    "duplicate_of": of,
                    "duplicate_similarity": similarity,
                }
            )
        rng.shuffle(of_part)
        table = pa.Table.from_pylist([{"reasons": [], **row} for row in of_part], schema.DECISIONS)
        out = select.outputs(part)
        out.put_table("decisions.parquet", table)
        out.commit()
        rows += [(part, number, row) for number, row in enumerate(of_part)]
    for wanted in (["same"], ["hash", "other"], steps, []):
        counts = Counter(row["duplicate_of"] for _, _, row in rows if row["reason"] in wanted)
        (ranking,) = largest(select, range(5), [wanted], 7)
        assert (ranking.groups, ranking.members) == (len(counts), counts.total())
        right = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:7]
        assert list(ranking.largest) == [Size(pair, number) for pair, number in right]
    groups = gather(select, range(5), kept, 3)
    assert groups.keys() == set(kept)
    for pair, group in groups.items():
        own = [(part, number, row) for part, number, row in rows if row["duplicate_of"] == pair]
        assert group.members == len(own)
        for step, caught in group.caught.items():
            of_step = [item for item in own if item[2]["reason"] == step]
            of_step.sort(key=lambda item: (item[2]["duplicate_similarity"] or 2.0, *item[:2]))
            assert caught.members == len(of_step)
            assert [member.pair for member in caught.least_alike] == [row["pair_id"] for _, _, row in of_step[:3]]
            assert [member.place.row for member in caught.least_alike] == [number for _, number, _ in of_step[:3]]
        listed = [member.pair for some in members(select, range(5), pair) for member in some]
        assert listed == [row["pair_id"] for _, _, row in own]
