import io
import tarfile
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers.embed_parts import Part, Tiny, draw, encode, worker_of
from helpers.memory_faults import OUT_OF_MEMORY, TooLarge
from helpers.open_clip_oracle import check_against_open_clip, rows_of
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from curate import schema
from curate.embed.decode.prepare import Prepare
from curate.embed.model.names import POCKET
from curate.embed.model.text import Captions
from curate.errors import BrokenResult, DeviceLost, ModelError, UsageError


@pytest.fixture(scope="session")
def vit_worker(tiny):
    """A worker with one model, for tests that leave it as it is."""
    return worker_of(m=tiny("vit"))


@pytest.mark.parametrize("family", ["vit", "resnet", "sigmoid", "coca"])
def test_embeddings_are_those_of_open_clip(family, part, tiny):
    model = tiny(family)
    tables = part.embed(worker_of(m=model), "pixels", "embed-m")
    check_against_open_clip(part, tables, "m", model)
    assert part.markers["pixels"].counts == {"images": 9, "undecodable": 2}
    assert part.markers["embed-m"].counts == {"images": 6, "pairs": 11}
    dim = len(model.embed_text(""))
    assert tables["embed-m", "images.parquet"]["image_embedding"].type == schema.embedding(dim)
    assert tables["embed-m", "pairs.parquet"]["text_embedding"].type == schema.embedding(dim)


def test_the_built_in_model_is_read_as_open_clip_reads_it(part):
    import open_clip

    open_clip.add_model_config(POCKET / "config.json")
    clip, _, preprocess = open_clip.create_model_and_transforms("config", str(POCKET / "weights.safetensors"))
    pocket = Tiny("pocket", None, clip.eval(), preprocess, open_clip.get_tokenizer("config"))
    tables = part.embed(worker_of(m=pocket), "embed-m")
    check_against_open_clip(part, tables, "m", pocket)


def test_decoded_says_what_became_of_each_image(part, vit_worker):
    table = part.embed(vit_worker, "pixels")["pixels", "pixels.parquet"]
    assert table.schema.equals(schema.PIXELS)
    by_size = {data and len(data): row for (_, data), row in zip(part.images, table.to_pylist(), strict=True)}
    assert by_size[None]["decoded"] is None
    assert by_size[len(b"not an image")]["decoded"] is False
    assert by_size[len(b"not an image")]["phash"] is None
    assert table["decoded"].to_pylist().count(True) == 6
    assert all(len(row["phash"]) == 16 for row in table.to_pylist() if row["decoded"])


def files_of(part, name, run):
    folder = part.store.local_root / f"{name}-{run}-x"
    data = (path for path in folder.glob("*/*") if path.parent.name != "done" and path.is_file())
    return {(path.parent.name, path.suffix): path.read_bytes() for path in data}


def test_a_part_gives_the_same_bytes_again_and_models_do_not_meet(part, tiny):
    vit, resnet = tiny("vit"), tiny("resnet")
    names = ("pixels", "embed-vit", "embed-resnet")
    part.embed(worker_of(vit=vit, resnet=resnet), *names, run="together")
    again = worker_of(vit=vit, resnet=resnet)
    part.embed(again, *names, run="again")
    part.embed(again, *names, run="third")
    for name in names:
        alone = worker_of(**({"resnet": resnet} if name == "embed-resnet" else {"vit": vit}))
        part.embed(alone, name, run="alone")
        expected = files_of(part, name, "together")
        for run in ("again", "third", "alone"):
            assert files_of(part, name, run) == expected


def test_only_what_is_missing_is_computed(part, tiny):
    worker = worker_of(vit=tiny("vit"), resnet=tiny("resnet"))
    assert part.embed(worker, "pixels").keys() == {("pixels", "pixels.parquet")}
    tables = part.embed(worker, "embed-resnet")
    assert tables.keys() == {("embed-resnet", "images.parquet"), ("embed-resnet", "pairs.parquet")}
    assert set(worker._loaded) == {"resnet"}


@settings(max_examples=5, deadline=None)
@given(captions=st.lists(st.text(max_size=60).map(schema.clean_caption), min_size=1, max_size=7))
def test_a_pair_does_not_depend_on_the_others_of_its_part(captions, tmp_path_factory, vit_worker):
    """Tails are filled up: alone or among others a pair goes through batches of the same size."""
    worker = vit_worker
    rows = [(encode(draw(i)), [caption]) for i, caption in enumerate(captions)]
    many = Part(tmp_path_factory.mktemp("many"), rows)
    one = Part(tmp_path_factory.mktemp("one"), rows[:1])
    many_tables, one_tables = many.embed(worker, "embed-m"), one.embed(worker, "embed-m")
    at = [image_id for image_id, _ in many.images].index(one.images[0][0])
    assert many_tables["embed-m", "images.parquet"].slice(at, 1).equals(one_tables["embed-m", "images.parquet"])
    at = [row[0] for row in many.pairs].index(one.pairs[0][0])
    found, alone = (
        tables["embed-m", "pairs.parquet"].slice(i, 1).to_pylist()[0]
        for tables, i in ((many_tables, at), (one_tables, 0))
    )
    if not one.pairs[0][3].strip():
        assert found == alone == {**found, "text_embedding": None, "clip_similarity": None}
        return
    # The captions of a batch are cut to its longest: equal but for rounding.
    np.testing.assert_allclose(found["text_embedding"], alone["text_embedding"], atol=1e-3)
    assert found["clip_similarity"] == pytest.approx(alone["clip_similarity"], abs=1e-5)


def test_every_batch_is_full(part, tiny):
    """Kernels round differently for other shapes: a tail must not be one."""
    worker = worker_of(m=tiny("vit"))
    clip = worker._model("m")[0].clip
    seen = {"images": [], "captions": []}
    clip.visual.conv1.register_forward_hook(lambda _, args, __: seen["images"].append(len(args[0])))
    clip.token_embedding.register_forward_hook(lambda _, args, __: seen["captions"].append(len(args[0])))
    part.embed(worker, "embed-m")
    assert seen == {"images": [4, 4], "captions": [4, 4, 4]}


def test_repeated_captions_are_encoded_once(tmp_path, tiny, monkeypatch):
    part = Part(tmp_path, [(encode(draw(i)), ["the same", f"number {i % 2}"]) for i in range(5)])
    worker = worker_of(m=tiny("vit"))
    seen = []
    model, size = worker._model("m")

    def tokenize(texts):
        seen.append(sorted(texts))
        return model.tokenize(texts)

    monkeypatch.setitem(worker._loaded, "m", (type(model)(**{**vars(model), "tokenize": tokenize}), size))
    part.embed(worker, "embed-m")
    assert seen == [["number 0", "number 1", "the same"]]


def test_long_captions_are_cut_and_the_marker_says_so(tmp_path, tiny):
    model, long = tiny("vit"), "b" * 120_000
    part = Part(tmp_path, [(encode(draw(0)), ["a cat", long]), (encode(draw(1)), [long])])
    pairs = part.embed(worker_of(m=model), "embed-m")["embed-m", "pairs.parquet"]
    assert part.markers["embed-m"].counts == {"images": 2, "pairs": 3, "shortened": 2}
    (note,) = part.markers["embed-m"].notes
    assert note.startswith("2 captions cut before tokenizing: longer than 10,000 characters")
    found = rows_by_id(pairs, "text_embedding")
    for pair_id, _, _, caption, *_ in part.pairs:
        np.testing.assert_allclose(found[pair_id], model.embed_text(caption[:1000]), atol=1e-3)


def test_parts_without_images_or_pairs(tmp_path, vit_worker):
    worker = vit_worker
    lost = Part(tmp_path / "lost", [(None, ["a"]), (b"torn", ["b"])])
    tables = lost.embed(worker, "pixels", "embed-m")
    assert tables["embed-m", "images.parquet"]["image_embedding"].null_count == 2
    assert tables["embed-m", "pairs.parquet"]["clip_similarity"].null_count == 2
    assert tables["embed-m", "pairs.parquet"]["text_embedding"].null_count == 0
    empty = Part(tmp_path / "empty", [])
    tables = empty.embed(worker, "pixels", "embed-m")
    assert {table.num_rows for table in tables.values()} == {0}
    assert tables["embed-m", "images.parquet"].schema.field("image_embedding").type == schema.embedding(32)


@pytest.mark.parametrize(
    "change",
    [
        lambda members: members[1:],
        lambda members: members[:-1],
        lambda members: [members[0], *members],
        lambda members: members[::-1],
        lambda members: [*members, (b"\xff" * 16, b"more")],
    ],
    ids=["first missing", "last missing", "doubled", "unordered", "unknown"],
)
def test_a_tar_that_is_not_its_table_is_refused(change, part, vit_worker):
    part.commit_fetch(change([m for m in part.images if m[1] is not None]), "other")
    part.folders["fetch"] = part.folders["other"]
    with pytest.raises(BrokenResult, match=r"images/000003\.\w+\.tar"):
        part.embed(vit_worker, "pixels")


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_torn_tar_is_refused(kept, part, vit_worker):
    name = part.folders["fetch"].file("images.tar", part.part)
    data = part.store.read(name)
    length = len(data.rstrip(b"\0"))
    part.store.put(name, data[: int(kept * length)])
    with pytest.raises(BrokenResult, match=r"images/000003\.\w+\.tar"):
        part.embed(vit_worker, "pixels")


def test_a_member_that_is_no_file_is_refused(part, vit_worker):
    name = part.folders["fetch"].file("images.tar", part.part)
    data = bytearray(part.store.read(name))
    header = tarfile.TarInfo(data[:100].rstrip(b"\0").decode())
    header.type = tarfile.SYMTYPE
    data[:512] = header.tobuf()
    part.store.put(name, bytes(data))
    with pytest.raises(BrokenResult, match=r"images/000003\.\w+\.tar"):
        part.embed(vit_worker, "pixels")


@settings(max_examples=25)
@given(share=st.floats(0, 1))
def test_a_tar_cut_anywhere_is_refused_or_whole(share, tmp_path_factory, vit_worker):
    part = Part(tmp_path_factory.mktemp("cut"), [(encode(draw(i), "JPEG"), ["a"]) for i in range(4)])
    whole = part.embed(vit_worker, "pixels", run="whole")
    name = part.folders["fetch"].file("images.tar", part.part)
    data = part.store.read(name)
    part.store.put(name, data[: int(share * len(data))])
    try:
        tables = part.embed(vit_worker, "pixels", run="cut")
    except BrokenResult:
        return
    assert tables == whole


def test_images_of_another_plan_are_refused(part, vit_worker, tmp_path):
    other = Part(tmp_path / "other", [(encode(draw(0)), ["a"])])
    part.folders["fetch"] = other.folders["fetch"]
    with pytest.raises(BrokenResult, match="not those of its plan"):
        part.embed(vit_worker, "pixels")


def test_embeddings_that_are_not_numbers_stop_the_run(part, tiny):
    worker = worker_of(m=tiny("vit"))
    with torch.no_grad():
        worker._model("m")[0].clip.visual.proj.fill_(float("nan"))
    with pytest.raises(ModelError, match=r"fp32.*not finite"):
        part.embed(worker, "embed-m")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(tiny):
    with pytest.raises(UsageError, match="no CUDA device"):
        worker_of("cuda", m=tiny("vit"))


def test_empty_captions_are_not_embedded():
    captions = Captions.of(pa.chunked_array([["a", None, " "], ["", "a", "\u3000\n"]]))
    assert captions.distinct == ["a"]
    assert captions.of_pair.tolist() == [0, -1, -1, -1, 0, -1]
    assert Captions.of(pa.chunked_array([[""]])).distinct == []


def test_a_source_without_captions_has_image_embeddings_alone(part, tiny):
    worker, usual = worker_of(vit=tiny("vit")), worker_of(vit=tiny("vit"))
    worker.has_captions = False
    tables = part.embed(worker, "embed-vit")
    assert tables.keys() == {("embed-vit", "images.parquet")}
    images = part.embed(usual, "embed-vit", run="usual")["embed-vit", "images.parquet"]
    assert tables["embed-vit", "images.parquet"].equals(images)


def rows_by_id(table, column):
    return dict(zip(table.column(0).to_pylist(), table[column].to_pylist(), strict=True))


def test_the_mirrored_similarity_is_that_of_open_clip_on_a_mirrored_image(tmp_path, tiny):
    model = tiny("vit")
    # Sizes whose centre is the same from both sides.
    rows = [(encode(draw(i, size)), [f"number {i}"]) for i, size in enumerate([(90, 60), (64, 64), (60, 90)])]
    part = Part(tmp_path, [*rows, (None, ["lost"]), (b"torn", ["torn"])])
    table = part.embed(worker_of(m=model, mirror=True), "embed-m")["embed-m", "pairs.parquet"]
    found, plain = rows_by_id(table, schema.MIRRORED), rows_by_id(table, schema.SIMILARITY)
    pictures = dict(part.images)
    for pair_id, image_id, _, caption, _, _ in part.pairs:
        if caption in ("lost", "torn"):
            assert found[pair_id] is None
            continue
        with Image.open(io.BytesIO(pictures[image_id])) as image:
            mirrored = model.embed_image(ImageOps.mirror(image))
        assert found[pair_id] == pytest.approx(float(mirrored @ model.embed_text(caption)), abs=1e-4)
        assert found[pair_id] != pytest.approx(plain[pair_id], abs=1e-4)
    without = part.embed(worker_of(m=model), "embed-m", run="without")["embed-m", "pairs.parquet"]
    assert without.equals(table.drop_columns([schema.MIRRORED]))


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_a_batch_that_memory_does_not_hold_is_halved_and_the_marker_says_so(error, part, tiny):
    usual = part.embed(worker_of(m=tiny("vit")), "embed-m", run="usual")
    assert part.markers["embed-m"].notes == ()
    worker = worker_of(m=tiny("vit"))
    memory = TooLarge(worker._model("m")[0].clip.visual.conv1, 1, error)
    tables = part.embed(worker, "embed-m", run="halved")
    # Six images: a batch of four, twice halved; what follows, and the next part, stays so.
    assert memory.seen == [4, 2, *[1] * 6]
    counts, notes = part.markers["embed-m"].counts, part.markers["embed-m"].notes
    assert counts == {"images": 6, "pairs": 11, "smaller_batches": 1}
    assert notes == ("out of memory: embedded in batches of 1 instead of 4",)
    for role in ("images.parquet", "pairs.parquet"):
        assert tables["embed-m", role].column_names == usual["embed-m", role].column_names
    for role, column in (("images.parquet", "image_embedding"), ("pairs.parquet", "text_embedding")):
        found, wanted = (rows_of(of["embed-m", role][column]) for of in (tables, usual))
        np.testing.assert_allclose(found, wanted, atol=1e-3)
    memory.seen.clear()
    part.embed(worker, "embed-m", run="next")
    assert memory.seen == [1] * 6


def test_captions_are_halved_too(part, tiny):
    usual = part.embed(worker_of(m=tiny("vit")), "embed-m", run="usual")["embed-m", "pairs.parquet"]
    worker = worker_of(m=tiny("vit"))
    TooLarge(worker._model("m")[0].clip.token_embedding, 2, OUT_OF_MEMORY[0])
    tables = part.embed(worker, "embed-m", run="halved")["embed-m", "pairs.parquet"]
    np.testing.assert_allclose(rows_of(tables["text_embedding"]), rows_of(usual["text_embedding"]), atol=1e-3)
    assert part.markers["embed-m"].notes == ("out of memory: embedded in batches of 2 instead of 4",)


def test_a_model_that_memory_does_not_hold_stops_the_run_in_one_line(part, tiny):
    worker = worker_of(m=tiny("vit"))
    TooLarge(worker._model("m")[0].clip.visual.conv1, 0, OUT_OF_MEMORY[0])
    with pytest.raises(ModelError, match="memory does not hold a batch of one") as raised:
        part.embed(worker, "embed-m")
    assert "\n" not in str(raised.value)


def test_other_errors_of_a_model_are_not_taken_for_a_lack_of_memory(part, tiny):
    worker = worker_of(m=tiny("vit"))
    memory = TooLarge(worker._model("m")[0].clip.visual.conv1, 0, RuntimeError("CUDA error: an illegal memory access"))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        part.embed(worker, "embed-m")
    assert memory.seen == [4]


def test_a_gpu_that_failed_ends_the_worker(part, tiny):
    worker = worker_of(m=tiny("vit"))
    error = torch.AcceleratorError("CUDA error: device-side assert triggered\nCompile with TORCH_USE_CUDA_DSA")
    TooLarge(worker._model("m")[0].clip.visual.conv1, 0, error)
    with pytest.raises(DeviceLost, match="the GPU failed: CUDA error: device-side assert triggered Compile"):
        part.embed(worker, "embed-m")


def large_part(root):
    """Pictures that a reduced decode makes smaller: two JPEGs at 1/2, one at 1/4; the others stay."""
    sizes = [(1100, 900), (900, 1400), (2000, 1800), (895, 1200), (300, 200)]
    rows = [(encode(draw(i, size), "JPEG"), [f"number {i}"]) for i, size in enumerate(sizes)]
    return Part(root, [*rows, (encode(draw(9, (1000, 950))), ["a large png"])])


def test_a_reduced_decode_is_that_of_libjpeg_and_the_pixel_columns_do_not_depend_on_it(tmp_path, tiny):
    part, model = large_part(tmp_path), tiny("vit")
    exact = part.embed(worker_of(m=model), "pixels", "embed-m", run="exact")
    check_against_open_clip(part, exact, "m", model)
    fast = part.embed(worker_of(m=model, decode="fast"), "pixels", "embed-m", run="fast")
    only = part.embed(worker_of(m=tiny("resnet"), decode="fast"), "pixels", run="only")
    for tables in (fast, only):
        assert tables["pixels", "pixels.parquet"].equals(exact["pixels", "pixels.parquet"])
    found = rows_by_id(fast["embed-m", "images.parquet"], "image_embedding")
    before = rows_by_id(exact["embed-m", "images.parquet"], "image_embedding")
    reduced = 0
    for image_id, data in part.images:
        with Image.open(io.BytesIO(data)) as image:
            short, kind = min(image.size), image.format
            image.draft(None, (448, 448))
            halvings = 0 if kind == "PNG" else (short // 448 or 1).bit_length() - 1
            assert min(image.size) == -(-short // 2**halvings)
            np.testing.assert_allclose(found[image_id], model.embed_image(image), atol=1e-3)
        reduced += halvings > 0
        if not halvings:
            np.testing.assert_allclose(found[image_id], before[image_id], atol=1e-3)
    assert reduced == 3


def test_a_reduced_decode_keeps_what_the_largest_model_needs():
    side = 400
    sizes_of: list[Any] = [size_of, size_of]
    prepare = Prepare(sizes_of, [side, 32], with_measures=False, is_exact=False)
    sizes = [min(size) for size in prepare(encode(draw(0, (1700, 1600)), "JPEG")).crops]
    # 1600 / 2 is twice 400; the small one's 448 allow no more than 1/2 either. 1600 / 4 is less.
    assert sizes == [800, 800]
    prepare = Prepare(sizes_of, [side, 32], with_measures=False, is_exact=False)
    assert [min(size) for size in prepare(encode(draw(0, (1200, 1200)), "JPEG")).crops] == [1200, 600]


def size_of(image, exact):
    """A preprocessing that says how large a picture it is given."""
    assert not exact
    return image.size
