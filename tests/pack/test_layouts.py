"""A result layout is one file: found by itself, asked for by name in a recipe, and known by name to nothing else."""

import ast
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.made_run import COLUMNS, SETTINGS, MadeRun, make_run, pack, write_manifest

import curate.pack
from curate.commands.verify import verify
from curate.embed.model.facts import ModelFacts
from curate.errors import RecipeError, UsageError
from curate.layout import lay_out
from curate.pack.layouts import registry
from curate.pack.layouts.contract import (
    CheckedFiles,
    Description,
    LayoutFiles,
    Packed,
    ResultLayout,
    ShardWriter,
    StoredImage,
    differences,
)
from curate.pack.layouts.registry import LAYOUTS
from curate.prepare import Prepared
from curate.recipe import Recipe, parse
from curate.registry import Registry
from curate.store import Store
from curate.stored_images import Images

PACK = "pack-ffffffff"


class Keys(ResultLayout):
    """A text file of keys for each shard, as somebody else's package may bring it; it takes no images."""

    name = "keys"
    version = 3

    def open_shard(self, shard: int, scratch: Path) -> ShardWriter:
        assert not list(scratch.iterdir())
        return KeysWriter(shard)

    def describe(self, packed: Packed) -> Description:
        return Description(f"{len(packed.sizes)} lists of keys", ["- `keys/*.txt`: a key each line."], ["`cat keys/*`"])

    def check_shard(self, shard: int, expected: Sequence[str] | None, packed: Packed, files: CheckedFiles) -> None:
        assert packed.embeddings == COLUMNS.embeddings()
        with files.file(f"keys/{shard}.txt") as path:
            if path:
                for fault in differences(path.read_text().split(), expected or []):
                    files.fault(f"keys/{shard}.txt", fault)


class KeysWriter(ShardWriter):
    def __init__(self, shard: int) -> None:
        self.shard = shard

    def finish(self, table: pa.Table, embeddings: pa.Table, files: LayoutFiles) -> None:
        assert table["uid"].equals(embeddings["uid"])
        text = "".join(f"{key}\n" for key in table["key"].to_pylist())
        files.put(f"keys/{self.shard}.txt", text.encode(), rows=len(table))


class Pictures(ResultLayout):
    """Every image as a file, and how many there are; it takes images, like webdataset."""

    name = "pictures"
    takes_images = True

    def open_shard(self, shard: int, scratch: Path) -> ShardWriter:
        return PicturesWriter()

    def write_whole(self, packed: Packed, files: LayoutFiles) -> None:
        files.put_json("pictures/count.json", {"count": sum(packed.sizes)})

    def describe(self, packed: Packed) -> Description:
        return Description("a folder of pictures", [], [])

    def check_shard(self, shard: int, expected: Sequence[str] | None, packed: Packed, files: CheckedFiles) -> None:
        for key in expected or []:
            with files.file(f"pictures/{key}"):
                pass

    def check_whole(self, packed: Packed, files: CheckedFiles) -> None:
        with files.file("pictures/count.json") as path:
            if path and json.loads(path.read_bytes())["count"] != sum(packed.sizes):
                files.fault("pictures/count.json", "is another number")


class PicturesWriter(ShardWriter):
    def __init__(self) -> None:
        self.images: dict[str, bytes] = {}

    def add(self, rows: pa.Table, images: Sequence[StoredImage]) -> None:
        for key, image in zip(rows["key"].to_pylist(), images, strict=True):
            assert image.extension in ("jpg", "png", "webp")
            self.images[key] = image.data

    def finish(self, table: pa.Table, embeddings: pa.Table, files: LayoutFiles) -> None:
        assert list(self.images) == table["key"].to_pylist()
        for key, data in self.images.items():
            files.put(f"pictures/{key}", data)


@pytest.fixture
def layouts(monkeypatch: pytest.MonkeyPatch) -> Registry[ResultLayout]:
    """The layouts there are and the two above, in a registry of the test's own."""
    copied: Registry[ResultLayout] = Registry("result layout", ResultLayout)  # type: ignore[type-abstract]
    for name in LAYOUTS:
        copied.add(LAYOUTS[name], LAYOUTS.origin(name))
    for layout in (Keys(), Pictures()):
        copied.add(layout, "tests 1.0")
    monkeypatch.setattr(registry, "LAYOUTS", copied)
    return copied


def packed(root: Path, *names: str) -> tuple[MadeRun, Path]:
    """A run with its result in these layouts."""
    run = make_run(root)
    settings = {**SETTINGS, "layouts": list(names)}
    write_manifest(run, pack(run, settings=settings), settings)
    return run, root / PACK


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The members of the part's tars that are read, in order."""
    found: list[str] = []
    read = Images.read
    monkeypatch.setattr(Images, "read", lambda self, member: found.append(member) or read(self, member))
    return found


def files(result: Path) -> dict[str, bytes]:
    return {
        name: path.read_bytes()
        for path in result.rglob("*")
        if path.is_file() and not (name := str(path.relative_to(result))).startswith(("done/", "pass.json"))
    }


def test_every_module_that_offers_a_layout_is_found() -> None:
    folder = Path(curate.pack.__file__).parent / "layouts"
    offering = {path.stem for path in folder.glob("*.py") if "\nLAYOUT = " in path.read_text()}
    assert {LAYOUTS.origin(name).rpartition(".")[2] for name in LAYOUTS} == offering
    assert "webdataset" in LAYOUTS


def test_every_layout_is_documented() -> None:
    docs = Path(__file__).parents[2] / "docs"
    for name in LAYOUTS:
        assert f"\n- `{name}`: " in (docs / "recipes.md").read_text()
        assert f"\n### Layout `{name}`\n" in (docs / "data-format.md").read_text()


def test_no_layout_is_known_by_name_but_to_the_recipes_default() -> None:
    source = Path(curate.__file__).parent
    naming = set()
    for path in [
        *source.glob("*.py"),
        *(p for room in ("pack", "commands", "runs") for p in (source / room).glob("*.py")),
    ]:
        words = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
        if words & set(LAYOUTS):
            naming.add(path.relative_to(source).as_posix())
    assert naming == {"recipe.py"}


def test_layouts_are_written_side_by_side_and_images_read_once(
    tmp_path: Path, layouts: Registry[ResultLayout], reads: list[str]
) -> None:
    run, result = packed(tmp_path / "both", "webdataset", "keys", "pictures")
    assert len(reads) == len(run.kept), "two layouts take images, and each image was read once"
    written = files(result)
    assert {name: data for name, data in written.items() if name.startswith("pictures/")} == {
        "pictures/count.json": b'{\n "count": 12\n}\n',
        **{f"pictures/{row['pair_id'].hex()}": row["bytes"] for row in run.kept},
    }
    keys = [line for shard in range(3) for line in written[f"keys/{shard}.txt"].decode().split()]
    assert keys == [row["pair_id"].hex() for row in run.kept]
    alone = files(packed(tmp_path / "alone", "webdataset")[1])
    for name, data in alone.items():
        assert name == "README.md" or written[name] == data, "a layout's bytes depend on no other one"
    assert verify(run.store) == []


def test_batches_of_images_stand_for_the_right_rows(
    tmp_path: Path, layouts: Registry[ResultLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curate.pack.worker._BATCH_BYTES", 1500)
    sizes: list[int] = []
    add = PicturesWriter.add
    monkeypatch.setattr(
        PicturesWriter, "add", lambda self, rows, images: sizes.append(len(images)) or add(self, rows, images)
    )
    run, result = packed(tmp_path, "webdataset", "pictures")
    assert sum(sizes) == len(run.kept)
    assert len(run.kept) > len(sizes) > 5, "some batches hold one image, some several"
    assert {path.name: path.read_bytes() for path in (result / "pictures").glob("?" * 32)} == {
        row["pair_id"].hex(): row["bytes"] for row in run.kept
    }
    assert verify(run.store) == []


def test_without_a_layout_that_takes_them_no_image_is_read(
    tmp_path: Path, layouts: Registry[ResultLayout], reads: list[str]
) -> None:
    run, result = packed(tmp_path, "keys")
    assert not reads
    assert set(files(result)) == {"README.md", "keys/0.txt", "keys/1.txt", "keys/2.txt"}
    assert verify(run.store) == []


def test_the_card_says_what_each_layout_says(tmp_path: Path, layouts: Registry[ResultLayout]) -> None:
    card = (packed(tmp_path, "keys", "webdataset")[1] / "README.md").read_text()
    assert "12 pairs of an image and a caption in 3 lists of keys and 3 WebDataset shards, kept from" in card
    _, contents = card.split("## Files")
    contents, reading = contents.split("## Reading")
    assert contents.index("- `keys/*.txt`: a key each line.\n\n") < contents.index("- `shards/{:08d}.tar`")
    assert reading.index("`cat keys/*`\n\n") < reading.index("import webdataset")


def test_faults_of_any_layouts_files_are_found(tmp_path: Path, layouts: Registry[ResultLayout]) -> None:
    run, result = packed(tmp_path, "keys", "pictures")
    manifest = json.loads((tmp_path / "manifest.json").read_bytes())

    def written_as(name: str, data: bytes) -> None:
        """The file as a faulty writer would have written it."""
        infos = {info["name"]: info for info in manifest["result"]}
        infos[name] |= vars(run.folder("pack").outputs(0).put("x", data, name=name, rows=infos[name]["rows"]))

    first, second, third = (row["pair_id"].hex() for row in run.kept[:3])
    keys = (result / "keys/0.txt").read_text().split()
    written_as("keys/0.txt", "\n".join([keys[1], keys[0], *keys[2:]]).encode())
    written_as("keys/1.txt", b"\xff")
    written_as("pictures/count.json", b'{"count": 3}')
    manifest["result"] = [info for info in manifest["result"] if info["name"] != f"pictures/{second}"]
    manifest["result"].append({**manifest["result"][0], "name": "pictures/other"})
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (result / f"pictures/{third}").unlink()
    # The markers still name what the manifest does not.
    faults = [fault for fault in verify(run.store) if "/done" not in fault]
    assert faults[1].startswith(f"{PACK}/keys/1.txt: cannot be read: 'utf-8' codec")
    assert [faults[0], *faults[2:]] == [
        f"{PACK}/keys/0.txt: row 0 is {second}, where {first} belongs",
        f"{PACK}/pictures/{second}: is not listed in the manifest",
        f"{PACK}/pictures/{third}: is missing",
        f"{PACK}/pictures/count.json: is another number",
        f"{PACK}/pictures/other: belongs to no shard of the kept pairs",
    ]


def test_two_layouts_with_one_file_stop_the_run_and_are_named(
    tmp_path: Path, layouts: Registry[ResultLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clashing(Keys):
        name = "clashing"

    layouts.add(Clashing(), "tests 1.0")
    with pytest.raises(UsageError, match=r"^the result layout 'clashing' writes keys/0\.txt, which the result already"):
        packed(tmp_path / "a", "keys", "clashing")
    monkeypatch.setattr(Keys, "write_whole", lambda self, packed, files: files.put("README.md", b""))
    with pytest.raises(UsageError, match=r"^the result layout 'keys' writes README\.md, which the result already has"):
        packed(tmp_path / "b", "keys")


def test_what_a_writer_holds_open_is_closed_though_it_failed(
    tmp_path: Path, layouts: Registry[ResultLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []
    monkeypatch.setattr(KeysWriter, "close", lambda self: closed.append(self.shard))
    monkeypatch.setattr(PicturesWriter, "add", ShardWriter.add)
    with pytest.raises(NotImplementedError, match="PicturesWriter takes images and has no `add`"):
        packed(tmp_path, "keys", "pictures")
    assert closed == [0]


def recipe(**pack: object) -> Recipe:
    return parse({"version": 1, "source": {"paths": ["a.csv"]}, "output": "out", "pack": pack})


def test_a_recipe_names_known_layouts_each_once(layouts: Registry[ResultLayout]) -> None:
    assert recipe().pack.layouts == ["webdataset"]
    assert recipe(layouts=["keys"]).pack.layouts == ["keys"]
    for named, message in (
        (["webdatset"], "recipe: pack.layouts: there is no result layout 'webdatset'; did you mean 'webdataset'?"),
        (["keys", "keys"], "recipe: pack.layouts: a layout is named twice"),
        ([], "recipe: pack.layouts: a list of 0 entries is not allowed"),
    ):
        with pytest.raises(RecipeError) as error:
            recipe(layouts=named)
        assert str(error.value).startswith(message)


def test_layouts_and_their_versions_are_in_packs_fingerprint_alone(
    tmp_path: Path, layouts: Registry[ResultLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fingerprints(**pack: object) -> dict[str, str]:
        facts = {"pocket": ModelFacts("w", "c", 8, 77, (224, 224), 100.0, None, {})}
        passes = lay_out(Prepared(recipe(**pack), Store(str(tmp_path)), {}, facts), 1).passes
        depends.update(passes["pack"].declared.depends)
        return {name: pass_.folder.fingerprint for name, pass_ in passes.items()}

    depends: dict[str, object] = {}
    usual = fingerprints()
    assert set(depends) == {"source", "fetch", "models"}, "as before there were layouts"
    assert fingerprints(layouts=["webdataset"]) == usual
    others = [fingerprints(layouts=names) for names in (["keys"], ["pictures"], ["webdataset", "pictures"])]
    assert len({each["pack"] for each in (usual, *others)}) == 4
    monkeypatch.setattr(Keys, "version", 4)
    assert fingerprints(layouts=["keys"])["pack"] != others[0]["pack"]
    assert fingerprints(layouts=["pictures"]) == others[1]
    unlike = {name for each in others for name in usual if each[name] != usual[name]}
    assert unlike == {"pack", "report"}
    monkeypatch.setattr(type(layouts["webdataset"]), "version", 2)
    assert fingerprints()["pack"] != usual["pack"]


def test_a_result_in_a_layout_that_is_not_installed_is_one_line(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    write_manifest(run, pack(run), {**SETTINGS, "layouts": ["webdataset", "elsewhere"]})
    with pytest.raises(RecipeError, match=r"^there is no result layout 'elsewhere'; known: "):
        verify(run.store)


def test_another_package_brings_a_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "rows_of_pairs-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rows-of-pairs\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[curate.layouts]\nrows = rows_of_pairs:LAYOUT\n")
    (tmp_path / "rows_of_pairs.py").write_text(
        "from curate.pack.layouts.contract import Description, ResultLayout, ShardWriter\n\n\n"
        "class Writer(ShardWriter):\n"
        "    def finish(self, table, embeddings, files):\n"
        "        files.put_table('rows.parquet', table)\n\n\n"
        "class Rows(ResultLayout):\n"
        "    name = 'rows'\n\n"
        "    def open_shard(self, shard, scratch):\n"
        "        return Writer()\n\n"
        "    def describe(self, packed):\n"
        "        return Description('a table', [], [])\n\n"
        "    def check_shard(self, shard, expected, packed, files):\n"
        "        with files.file('rows.parquet'):\n"
        "            pass\n\n\n"
        "LAYOUT = Rows()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(LAYOUTS, "_found", None)
    assert recipe(layouts=["rows"]).pack.layouts == ["rows"]
    assert LAYOUTS.origin("rows") == "rows-of-pairs 1.2 (rows_of_pairs:LAYOUT)"
    run = make_run(tmp_path / "run")
    settings = {**SETTINGS, "layouts": ["rows"], "shard_size": 12}
    write_manifest(run, pack(run, settings=settings), settings)
    table = pq.read_table(tmp_path / "run" / PACK / "rows.parquet")
    assert table["key"].to_pylist() == [row["pair_id"].hex() for row in run.kept]
    assert verify(run.store) == []
    monkeypatch.undo()
    sys.modules.pop("rows_of_pairs", None)
    assert "rows" not in LAYOUTS
