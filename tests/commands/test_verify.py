import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.made_run import MadeRun, make_run, pack, write_manifest
from helpers.rewritten import put_counts, put_info, put_table

from curate.commands.verify import verify
from curate.errors import BrokenResult, StoreError
from curate.store import FileInfo, Folder, Store

PACK = "pack-ffffffff"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    run = make_run(tmp_path_factory.mktemp("run"))
    write_manifest(run, pack(run))
    return run


@pytest.fixture
def copy(finished: MadeRun, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished.store.url, tmp_path / "run"))


def agree(root: Path, *names: str) -> None:
    """Makes the manifest say what the files now hold, as a faulty writer would have."""
    manifest = json.loads((root / "manifest.json").read_bytes())
    folder = Folder(Store(str(root)), "pack", "f" * 8).outputs(0)
    for info in manifest["result"]:
        if info["name"] in names:
            data = (root / PACK / info["name"]).read_bytes()
            info |= vars(folder.put("x", data, name=info["name"], rows=info["rows"]))
            put_info(folder.folder, FileInfo(**info))
    (root / "manifest.json").write_text(json.dumps(manifest))


def rewrite_tar(path: Path, change: Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]]) -> None:
    with tarfile.open(path) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]
    with tarfile.open(path, "w") as tar:
        for name, data in change(members):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            scratch = path.with_suffix(".member")
            scratch.write_bytes(data)
            with scratch.open("rb") as opened:
                tar.addfile(member, opened)
            scratch.unlink()


def swap_rows(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.take([1, 0, *range(2, len(table))]), path)


def test_a_whole_result_has_no_fault(finished: MadeRun) -> None:
    assert verify(finished.store) == []
    assert verify(finished.store, deep=True) == []


@pytest.mark.parametrize(
    "name",
    [
        "shards/00000001.tar",
        "shards/00000000.parquet",
        "shards/00000002_stats.json",
        "shards/sizes.json",
        "embeddings/00000002.parquet",
        "README.md",
    ],
)
def test_a_flipped_bit_and_a_lost_file_are_each_named_alone(copy: Path, name: str) -> None:
    path = copy / PACK / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    (fault,) = verify(Store(str(copy)))
    assert fault == f"{PACK}/{name}: its bytes changed after they were written (sha256 differs)"
    path.write_bytes(data[:-1])
    (fault,) = verify(Store(str(copy)))
    assert fault == f"{PACK}/{name}: has {len(data) - 1} bytes, not {len(data)}"
    path.unlink()
    assert verify(Store(str(copy))) == [f"{PACK}/{name}: is missing"]


@pytest.mark.parametrize("name", ["shards/00000001.parquet", "embeddings/00000001.parquet"])
def test_swapped_rows_are_found(copy: Path, finished: MadeRun, name: str) -> None:
    swap_rows(copy / PACK / name)
    agree(copy, name)
    first, second = (row["pair_id"].hex() for row in finished.kept[5:7])
    faults = verify(Store(str(copy)))
    assert faults[0] == f"{PACK}/{name}: row 0 is {second}, where {first} belongs"


def test_swapped_samples_are_found(copy: Path, finished: MadeRun) -> None:
    rewrite_tar(copy / PACK / "shards/00000001.tar", lambda members: members[3:6] + members[:3] + members[6:])
    agree(copy, "shards/00000001.tar")
    first, second = (row["pair_id"].hex() for row in finished.kept[5:7])
    faults = verify(Store(str(copy)))
    assert f"{PACK}/shards/00000001.tar: row 0 is {second}, where {first} belongs" in faults
    assert all(fault.startswith(f"{PACK}/shards/00000001.tar: ") for fault in faults)


def test_a_sample_with_a_lost_doubled_or_foreign_member_is_found(copy: Path) -> None:
    name, path = "shards/00000000.tar", copy / PACK / "shards/00000000.tar"
    whole = path.read_bytes()
    changes = {
        "has the members": lambda members: members[1:],
        "has the members ": lambda members: [*members[:1], *members],
        "is not that of the table": lambda members: [(n, b"other" if n.endswith("txt") else d) for n, d in members],
    }
    for words, change in changes.items():
        path.write_bytes(whole)
        rewrite_tar(path, change)
        agree(copy, name)
        faults = verify(Store(str(copy)))
        assert any(fault.startswith(f"{PACK}/{name}: sample 0") and words.strip() in fault for fault in faults)
    path.write_bytes(whole)
    rewrite_tar(path, lambda members: [(n, d.replace(b'"uid": "', b'"uid": "f')) for n, d in members])
    agree(copy, name)
    assert any("its json names another pair" in fault for fault in verify(Store(str(copy))))


def test_a_lost_shard_is_a_gap_even_where_the_manifest_forgot_it_too(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_bytes())
    manifest["result"] = [info for info in manifest["result"] if "00000001" not in info["name"]]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    faults = verify(Store(str(copy)))
    assert f"{PACK}/shards/00000001.tar: is not listed in the manifest" in faults
    assert f"{PACK}/done/000001.json: differs from the manifest" in faults
    assert len(faults) == 5


def test_wrong_sizes_and_stats_are_found(copy: Path) -> None:
    names = ["shards/sizes.json", "shards/00000002_stats.json"]
    for name in names:
        path = copy / PACK / name
        path.write_text(path.read_text().replace("2,", "3,").replace(": 2", ": 3"))
    agree(copy, *names)
    assert verify(Store(str(copy))) == [
        f"{PACK}/shards/00000002_stats.json: does not count 2 samples",
        f"{PACK}/shards/sizes.json: does not give the shards' samples",
    ]


def change_decisions(root: Path, part: int, change: Callable[[pa.Table], pa.Table]) -> str:
    folder = Folder(Store(str(root)), "select", "f" * 8)
    put_table(folder, "decisions.parquet", part, change(folder.table("decisions.parquet", part)))
    return f"select-ffffffff: decisions of part {part:06d}"


def unkeep(table: pa.Table) -> pa.Table:
    row = table["kept"].to_pylist().index(True)
    kept, reason = table["kept"].to_pylist(), table["reason"].to_pylist()
    kept[row], reason[row] = False, "mismatched"
    table = table.set_column(1, table.schema.field("kept"), [kept])
    return table.set_column(2, "reason", pa.array(reason, pa.string()))


def test_a_pair_that_was_packed_though_dropped_is_found(copy: Path, finished: MadeRun) -> None:
    name = change_decisions(copy, 0, unkeep)
    faults = verify(Store(str(copy)))
    first, second = (row["pair_id"].hex() for row in finished.kept[:2])
    assert f"{PACK}/shards/00000000.tar: row 0 is {first}, where {second} belongs" in faults
    assert any(fault.startswith(f"{name}: the rows differ from parts.parquet's counts") for fault in faults)
    assert any("funnel.json counts 12 of 51 kept, the decisions 11 of 51" in fault for fault in faults)
    assert any("funnel.json counts other rows than the decisions for mismatched" in fault for fault in faults)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda table: table.slice(1), "its rows are not those of the plan, in their order"),
        (
            lambda table: table.set_column(2, "reason", pa.array([None] * len(table), pa.string())),
            "or a dropped one has none",
        ),
        (
            lambda table: table.set_column(2, "reason", pa.array([r and "x" for r in table["reason"].to_pylist()])),
            "`repeated`",
        ),
    ],
)
def test_decisions_that_do_not_account_for_every_row_are_found(
    copy: Path, change: Callable[[pa.Table], pa.Table], fault: str
) -> None:
    name = change_decisions(copy, 1, change)
    assert any(line.startswith(f"{name}: ") and fault in line for line in verify(Store(str(copy))))


def test_rows_that_no_part_planned_are_found(copy: Path) -> None:
    plan = Folder(Store(str(copy)), "plan", "f" * 8)
    put_counts(plan, rows=plan.marker().counts["rows"] + 1)
    (fault,) = verify(Store(str(copy)))
    assert fault == "select-ffffffff: 52 rows were planned, but the decisions hold 51 and the missing parts 0"


def test_lost_decisions_stop_neither_the_check_nor_the_shards(copy: Path) -> None:
    folder = Folder(Store(str(copy)), "select", "f" * 8)
    (copy / folder.file("decisions.parquet", 0)).unlink()
    name = "embeddings/00000001.parquet"
    swap_rows(copy / PACK / name)
    agree(copy, name)
    faults = verify(Store(str(copy)))
    assert faults[0].startswith("select-ffffffff: decisions of part 000000 cannot be read: ")
    assert [fault.partition(":")[0] for fault in faults[1:]] == [f"{PACK}/{name}"]


def test_a_key_that_two_shards_hold_is_found(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    twice = run.kept[0]["pair_id"]
    last = run.kept[-1]["pair_id"]
    for name, role in [("plan", "pairs"), ("select", "decisions"), *((f"embed-{m}", "pairs") for m in ("small", "big")),
                       ("signals-caption", "pairs"), ("signals-concept_mark", "pairs")]:  # fmt: skip
        table = run.folder(name).table(f"{role}.parquet", 2)
        ids = [twice if value == last else value for value in table["pair_id"].to_pylist()]
        number = table.column_names.index("pair_id")
        table = table.set_column(number, table.schema.field(number), [pa.array(ids, pa.binary(16))])
        put_table(run.folder(name), f"{role}.parquet", 2, table)
    write_manifest(run, pack(run))
    assert verify(run.store) == [f"{PACK}: key {twice.hex()} is not unique"]


def test_deep_also_reads_every_pass(copy: Path) -> None:
    folder = Folder(Store(str(copy)), "fetch", "f" * 8)
    name = folder.file("images.tar", 2)
    data = bytearray((copy / name).read_bytes())
    data[700] ^= 1
    (copy / name).write_bytes(data)
    (copy / "pixels-ffffffff/done/000001.json").unlink()
    assert verify(Store(str(copy))) == []
    assert verify(Store(str(copy)), deep=True) == [
        f"{name}: its bytes changed after they were written (sha256 differs)",
        "pixels-ffffffff/done/000001.json: is missing",
    ]


def test_a_run_without_some_parts_is_whole_when_it_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path, parts=2, keep_none_in=None)
    plan = run.folder("plan").outputs(7)
    plan.counts["rows"] = 9
    plan.commit()
    put_counts(run.folder("plan"), rows=run.folder("plan").marker().counts["rows"] + 9)
    write_manifest(run, pack(run), n_parts=3, parts=[0, 1, 7], missing_parts=[7])
    assert verify(run.store) == []


def test_a_folder_without_a_finished_result_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"manifest\.json is missing: this folder holds no finished result"):
        verify(Store(str(tmp_path)))
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(BrokenResult, match=r"run\.json is missing"):
        verify(Store(str(tmp_path)))
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(BrokenResult, match="not a manifest"):
        verify(Store(str(tmp_path)))
