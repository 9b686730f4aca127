"""Samples that are there already: every one is a right pair, a row that says why it is none, or one clear line."""

import dataclasses
import gzip
import hashlib
import io
import json
import re
import socket
import tarfile
import tempfile
from pathlib import Path

import pyarrow.compute as pc
import pytest
import webdataset as wds
from helpers.c2pa_boxes import assertion, in_jpeg
from helpers.c2pa_boxes import store as store_of
from helpers.said import errors
from helpers.sample_run import jpeg, read_samples, sample, write_tar
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import phash, schema
from curate.commands.main import main
from curate.commands.verify import verify
from curate.embed.model import describe
from curate.errors import SourceError
from curate.plan import places, shards
from curate.plan.rows import NO_CAPTION
from curate.store import Folder, Store
from pipelines import rescore


@pytest.fixture
def no_network(monkeypatch):
    """Refuses all sockets but pairs of two processes of this machine, such as those of decoding processes."""

    def refuse(*_args, **_more):
        raise AssertionError("a socket was opened")

    class Local(socket.socket):
        def __init__(self, family=-1, kind=-1, proto=-1, fileno=None):
            if family != socket.AF_UNIX and fileno is None:
                refuse()
            super().__init__(family, kind, proto, fileno)

    monkeypatch.setattr(socket, "socket", Local)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def ends(rows):
    return [(row["url"], row["caption"], row["error_class"]) for row in rows]


# What people have ---------------------------------------------------------------------------------------------


def test_img2datasets_tars_without_a_socket(tmp_path, no_network):
    (tmp_path / "in").mkdir()
    for shard in range(3):
        with wds.TarWriter(str(tmp_path / "in" / f"{shard:05d}.tar")) as sink:
            for number in range(4):
                key, seed = f"{shard:05d}{number:04d}", 10 * shard + number
                about = {"url": f"http://h/{seed}.jpg", "caption": f"picture {seed}", "key": key, "width": seed}
                about |= {"status": "success", "error_message": None, "sha256": "0" * 64, "exif": "{}"}
                sink.write({"__key__": key, "jpg": jpeg(seed), "txt": f"picture {seed}", "json": json.dumps(about)})
        (tmp_path / "in" / f"{shard:05d}_stats.json").write_text("{}")
        (tmp_path / "in" / f"{shard:05d}.parquet").write_bytes(b"PAR1")
    rows = read_samples(tmp_path / "run", tmp_path / "in", part_size=5)
    seeds = [10 * shard + number for shard in range(3) for number in range(4)]
    assert ends(rows) == [(f"http://h/{seed}.jpg", f"picture {seed}", None) for seed in seeds]
    assert [row["data"] for row in rows] == [jpeg(seed) for seed in seeds], "bytes that need no change stay"
    assert [row["source_width"] for row in rows] == seeds
    assert {row["status"] for row in rows} == {schema.FETCHED}
    assert {row["source_error_message"] for row in rows} == {None}
    assert [row["pair_id"] for row in rows] == [schema.pair_id(row["url"], row["caption"]) for row in rows]
    assert not {"source_url", "source_caption", "source_uid"} & set(rows[0])


def test_datacomps_uid_names_the_pair(tmp_path):
    lower, upper = "0123456789abcdef" * 2, "ABCDEF0123456789" * 2
    uids = [lower, "not one", 7, None, upper]
    members = [part for n, uid in enumerate(uids) for part in sample(str(n), n, "x", uid=uid, url=f"http://h/{n}")]
    rows = read_samples(tmp_path / "run", write_tar(tmp_path / "a.tar", members))
    expected = [schema.pair_id(f"http://h/{n}", "x") for n in range(5)]
    expected[0], expected[4] = bytes.fromhex(lower), bytes.fromhex(upper)
    assert [row["pair_id"] for row in rows] == expected


def test_a_folder_of_images(tmp_path):
    place = tmp_path / "photos"
    for name, data in {
        "cats/1.jpg": jpeg(1),
        "cats/1.txt": "\ufeffa cat\n".encode(),
        "cats/2.v2.JPG": jpeg(2),
        "cats/2.v2.json": b'{"caption": "second", "stars": 5}',
        "3.jpeg": jpeg(3),
        "4.jpg": jpeg(4),
        "4.JPEG": jpeg(5),
        "README.txt": b"about",
        ".hidden.jpg": jpeg(6),
        "ä %.jpg": jpeg(7),
    }.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    rows = read_samples(tmp_path / "run", place)
    assert sorted(ends(rows)) == [
        ("sample:photos/%C3%A4 %25", "", None),
        ("sample:photos/3", "", None),
        ("sample:photos/4", "", "ambiguous"),
        ("sample:photos/cats/1", "a cat", None),
        ("sample:photos/cats/2.v2", "second", None),
    ]
    by_url = {row["url"].rpartition("/")[2]: row for row in rows}
    assert [by_url[key]["data"] for key in ("1", "2.v2", "3", "%C3%A4 %25")] == [jpeg(n) for n in (1, 2, 3, 7)]
    assert by_url["2.v2"]["source_stars"] == 5
    assert rows[0]["notes"] == [
        f"{place}: {NO_CAPTION} (3)",
        f"{place}: txt and json files without an image of the same name were left out (1)",
    ]


def test_captions_and_urls(tmp_path):
    tar = write_tar(
        tmp_path / "in" / "a b.tar",
        [
            *sample("1", 1, "the text", caption="the json's", url="http://h/1"),
            *sample("2", 2, None, caption="the json's", url=" "),
            *sample("3", 3, None, text="other key", url=7),
            *sample("./sub/4", 4),
            *sample("5", 5, ""),
            *sample("6", 6, None, caption=["a", 1]),
        ],
    )
    assert ends(read_samples(tmp_path / "run", tar)) == [
        ("http://h/1", "the text", None),
        ("sample:a b.tar/2", "the json's", None),
        ("sample:a b.tar/3", "", None),
        ("sample:a b.tar/sub/4", "", None),
        ("sample:a b.tar/5", "", None),
        ("sample:a b.tar/6", "a", None),
        ("sample:a b.tar/6", "1", None),
    ]
    rows = read_samples(tmp_path / "other", tar, caption="text", url="")
    assert ends(rows)[:3] == [
        ("sample:a b.tar/1", "the text", None),
        ("sample:a b.tar/2", "", None),
        ("sample:a b.tar/3", "other key", None),
    ]


def test_places_of_one_name_are_told_apart_and_their_samples_too(tmp_path):
    for folder in ("x/train", "y/train"):
        write_tar(tmp_path / folder / "0.tar", sample("a", len(folder) + ord(folder[0]), folder))
    rows = read_samples(tmp_path / "run", tmp_path / "x", tmp_path / "y" / "*" / "*.tar")
    assert ends(rows) == [("sample:x/train/0.tar/a", "x/train", None), ("sample:y/train/0.tar/a", "y/train", None)]
    assert rows[0]["data"] != rows[1]["data"]


def test_from_s3(tmp_path, s3):
    served = tmp_path / "s3" / "bucket"
    write_tar(served / "in" / "0.tar", [m for n in range(30) for m in sample(f"{n}", n, f"number {n}")])
    (served / "loose").mkdir()
    (served / "loose" / "a b.jpg").write_bytes(jpeg(50))
    (served / "loose" / "a b.txt").write_text("loose")
    rows = read_samples(tmp_path / "run", "s3://bucket/in/*.tar", "s3://bucket/loose", part_size=7)
    named = [(f"sample:0.tar/{n}", f"number {n}", None) for n in range(30)]
    assert ends(rows) == [*named, ("sample:loose/a b", "loose", None)]
    assert [row["data"] for row in rows] == [jpeg(n) for n in [*range(30), 50]]
    with pytest.raises(SourceError, match=r"s3://bucket/none does not exist"):
        read_samples(tmp_path / "other", "s3://bucket/none")


# What may be wrong --------------------------------------------------------------------------------------------


def test_missing_doubled_and_unordered_members_are_statuses(tmp_path):
    tar = write_tar(
        tmp_path / "a.tar",
        [
            *sample("good", 1, "good"),
            ("lone.txt", b"no image"),
            ("lone.json", b"{}"),
            ("two.jpg", jpeg(2)),
            ("two.png", jpeg(3)),
            ("two.txt", b"two images"),
            *sample("twice", 4, "one")[:1],
            *sample("twice", 5, "other"),
            ("texts.jpg", jpeg(6)),
            ("texts.txt", b"one"),
            ("texts.TXT", b"other"),
            *sample("again", 7, "first"),
            *sample("between", 8, "between"),
            ("again.txt", b"second"),
            ("broken.jpg", jpeg(9)),
            ("broken.json", b"{"),
            ("page.jpg", b"<html></html>"),
            ("cut.jpg", jpeg(10)[:300]),
            ("big.jpg", jpeg(11, (300, 300)) + bytes(60_000)),
            ("array.npy", b"x"),
            *sample("end", 12, "end"),
        ],
    )
    rows = read_samples(tmp_path / "run", tar, fetch={"max_bytes": 50_000})
    assert [(row["url"].rpartition("/")[2], row["caption"], row["error_class"]) for row in rows] == [
        ("good", "good", None),
        ("lone", "no image", "no_image"),
        ("two", "two images", "ambiguous"),
        ("twice", "other", "ambiguous"),
        ("texts", "one", "ambiguous"),
        ("again", "first", "ambiguous"),
        ("between", "between", None),
        ("again", "second", "ambiguous"),
        ("broken", "", None),
        ("page", "", "not_an_image"),
        ("cut", "", "undecodable"),
        ("big", "", "too_large"),
        ("array", "", "no_image"),
        ("end", "end", None),
    ]
    assert rows[1]["error"] == "no image lies under its key, only txt, json"
    for row in rows:
        assert (row["data"] is None) == (row["error_class"] is not None)
    assert {row["url"][-3:]: row["data"] for row in rows if row["data"]} == {
        name: jpeg(seed) for name, seed in {"ood": 1, "een": 8, "ken": 9, "end": 12}.items()
    }
    notes = [
        f"{tar}: {NO_CAPTION} (5)",
        f"{tar}: samples whose key occurs again are ambiguous (2)",
    ]
    assert rows[0]["notes"] == [*notes, f"{tar}: txt and json members that cannot be read count as missing (1)"]


def test_one_url_with_two_images_is_no_pair_and_with_one_image_it_is(tmp_path):
    members = [
        *sample("a", 1, "one", url="http://h/same"),
        *sample("b", 1, "another caption", url="http://h/same"),
        *sample("c", 2, "one", url="http://h/differ"),
        *sample("d", 3, "other", url="http://h/differ"),
        *sample("e", 4, "has an image", url="http://h/half"),
        ("f.json", b'{"url": "http://h/half", "caption": "has none"}'),
    ]
    tar = write_tar(tmp_path / "a.tar", members)
    rows = read_samples(tmp_path / "run", tar)
    assert [row["error_class"] for row in rows] == [None, None, "ambiguous", "ambiguous", "no_image", "no_image"]
    assert rows[0]["data"] == rows[1]["data"] == jpeg(1)
    assert rows[2]["error"] == "2 samples give its URL, with different images"
    rows = read_samples(tmp_path / "apart", tar, url="")
    assert [row["data"] for row in rows] == [jpeg(1), jpeg(1), jpeg(2), jpeg(3), jpeg(4), None]


def test_a_blocklist_holds_for_samples(tmp_path):
    tar = write_tar(tmp_path / "a.tar", [*sample("a", 1), *sample("b", 2)])
    (tmp_path / "bad").write_text(hashlib.sha256(jpeg(1)).hexdigest() + "\n")
    rows = read_samples(tmp_path / "run", tar, fetch={"blocklists": [str(tmp_path / "bad")]})
    assert [row["error_class"] for row in rows] == ["blocked_digest", None]


def test_manifests_hold_for_samples(tmp_path):
    """Their bytes are at hand, so what their authors say about training counts as it does for downloads."""
    reserved = in_jpeg(store_of(assertion()), image=jpeg(1))
    tar = write_tar(tmp_path / "a.tar", [("a.jpg", reserved), ("a.txt", b"one"), *sample("b", 2)])
    rows = read_samples(tmp_path / "run", tar)
    assert [row["error_class"] for row in rows] == ["opt_out", None]
    assert rows[0]["error"] == "C2PA: cawg.training-mining: cawg.ai_generative_training is notAllowed"
    assert rows[0]["data"] is None
    rows = read_samples(tmp_path / "ignored", tar, fetch={"c2pa": False})
    assert [row["error_class"] for row in rows] == [None, None]


def test_a_blocklist_of_perceptual_hashes_holds_for_samples(tmp_path):
    tar = write_tar(tmp_path / "a.tar", [*sample("a", 1), *sample("b", 2)])
    stored = [row["data"] for row in read_samples(tmp_path / "all", tar)]
    hashes = [phash.of_stored(data) for data in stored]
    assert (int(hashes[0], 16) ^ int(hashes[1], 16)).bit_count() > 4
    (tmp_path / "near").write_text(f"{int(hashes[0], 16) ^ 0b101:016x}\n")
    keys = {"phash_blocklists": [str(tmp_path / "near")], "phash_within": 2}
    rows = read_samples(tmp_path / "run", tar, fetch=keys)
    assert [row["error_class"] for row in rows] == ["blocked_phash", None]
    assert rows[0]["error"] == (
        f"phash {hashes[0]} differs in 2 bits from {int(hashes[0], 16) ^ 0b101:016x} of a blocklist"
    )
    rows = read_samples(tmp_path / "closer", tar, fetch={**keys, "phash_within": 1})
    assert [row["error_class"] for row in rows] == [None, None]


GOOD = [member for n in range(5) for member in sample(f"{n}", n, f"number {n}")]


def tar_bytes(members=GOOD):
    with tempfile.TemporaryDirectory() as scratch:
        return write_tar(Path(scratch) / "a.tar", members).read_bytes()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "a.tar",
            tar_bytes()[:-9000],
            r"a\.tar is broken: .* after \d+ members?; pack it again or leave it out",
        ),
        ("a.tar", tar_bytes()[:900], r"a\.tar is broken: unexpected end of data, after \d+ members?"),
        ("a.tar", tar_bytes()[:2500] + bytes(20) + tar_bytes()[2500:], r"a\.tar is broken: no valid header at byte"),
        ("a.tar", tar_bytes()[:1536] + b"\xff" * 700 + tar_bytes()[1536:], r"a\.tar is broken"),
        ("a.tar", b"", r"a\.tar is not a tar \(empty file\)"),
        ("a.tar", b"<html>" * 1000, r"a\.tar is not a tar"),
        ("a.tar", b"PAR1" + bytes(2000), r"a\.tar is not a tar"),
        ("a.tar", gzip.compress(tar_bytes()), r"a\.tar is compressed \(gzip\), .* unpack it first"),
        ("a.tar.gz", gzip.compress(tar_bytes()), r"a\.tar\.gz is compressed, .* unpack it to \.tar first"),
        ("a.tar", bytes(10240), r"there are no samples in .*a\.tar"),
        (
            "a.tar",
            tar_bytes(sorted(GOOD, key=lambda m: m[0][-3:])),
            r"a\.tar: its members are not in order: .*--sort=name",
        ),
        ("a.zip", b"PK", r"a\.zip is neither a \.tar nor a folder"),
    ],
)
def test_tars_that_are_none_are_one_line_and_exit_2(tmp_path, capsys, name, data, message):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(data)
    with pytest.raises(SourceError, match=message) as caught:
        read_samples(tmp_path / "run", tmp_path / "in" / name)
    assert "\n" not in str(caught.value)
    code = rescore.main([str(tmp_path / "in" / name), "--output", str(tmp_path / "out"), "--until", "plan"])
    said = [line for line in errors(capsys.readouterr().err) if "the built-in model" not in line]
    assert (code, len(said)) == (2, 1)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("none.tar", "does not exist"),
        ("{00000..00003}.tar", "ranges in braces are not supported, write a glob"),
        ("*.tar", "no tar or folder matches"),
        ("empty", "holds neither .tar files nor images"),
        ("packed", r"a\.tgz is compressed"),
        ("in/*.jpg", "for images in a folder, name the folder"),
    ],
)
def test_paths_that_hold_nothing(tmp_path, path, message):
    (tmp_path / "empty").mkdir()
    for name in ("in/a.jpg", "packed/a.tgz"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(jpeg())
    with pytest.raises(SourceError, match=message):
        read_samples(tmp_path / "run", tmp_path / path)


def test_every_cut_of_a_tar_is_an_error_or_the_whole(tmp_path):
    """Wherever a tar is cut off, no sample is read from it as if it were whole."""
    whole = tar_bytes(GOOD[:6])
    end = max(at for at in range(0, len(whole), 512) if any(whole[at : at + 512])) + 512
    for length in [*range(1, end, 257), *range(512, end + 1, 512)]:
        with pytest.raises(SourceError):
            list(shards.samples(io.BytesIO(whole[:length]), "cut.tar"))
    assert len(list(shards.samples(io.BytesIO(whole[: end + 512]), "cut.tar"))) == 3


@given(st.integers(0, 4000), st.binary(min_size=1, max_size=600))
def test_no_bytes_break_the_reader(at, data):
    whole = tar_bytes(GOOD[:4])
    try:
        found = list(shards.samples(io.BytesIO(whole[:at] + data + whole[at + len(data) :]), "a.tar"))
    except SourceError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert len(found) <= 8


def test_links_folders_sparse_and_hidden_members_are_no_samples(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind in (("d.jpg", tarfile.DIRTYPE), ("l.jpg", tarfile.SYMTYPE), ("h.jpg", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        for name in ("._x.jpg", "noext", "__meta__/a.jpg", "../../up.jpg", "/abs.jpg"):
            info = tarfile.TarInfo(name)
            info.size = len(jpeg())
            tar.addfile(info, io.BytesIO(jpeg()))
    rows = read_samples(tmp_path / "run", path)
    assert [row["url"] for row in rows] == ["sample:a.tar/../../up", "sample:a.tar//abs"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.tar", "run"]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_odd_names(tmp_path, form):
    keys = ["x" * 90 + "/" + "y" * 150, "ümlaut", "日本/猫", "with space", "q'uote\"", "new\nline", "%41"]
    keys += ["b\udcffyte", "b\udcfeyte"]  # no UTF-8
    members = [member for n, key in enumerate(keys) for member in sample(key, n, f"number {n}")]
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=form, encoding="utf-8", errors="surrogateescape") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    rows = read_samples(tmp_path / "run", path, part_size=2)
    assert [(row["caption"], row["data"]) for row in rows] == [(f"number {n}", jpeg(n)) for n in range(len(keys))]
    assert len({row["url"] for row in rows}) == len(keys)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (GOOD, [("new.jpg", jpeg(77)), *GOOD]),
        (GOOD, GOOD[:-2]),
        ([("a.jpg", jpeg(1)), ("b.jpg", jpeg(1))], [("b.jpg", jpeg(1)), ("a.jpg", jpeg(1))]),
    ],
)
def test_a_tar_that_changed_after_it_was_planned_is_one_line(tmp_path, monkeypatch, before, after):
    tar = write_tar(tmp_path / "a.tar", before)
    scan = places.find
    from curate.fetch import from_samples as members

    opened = members.open_worker

    def change_first(settings):
        write_tar(tar, after)
        return opened(settings)

    monkeypatch.setattr(members, "open_worker", change_first)
    with pytest.raises(SourceError, match=r"a\.tar changed since it was planned"):
        read_samples(tmp_path / "run", tar)
    assert scan([str(tar)])[0].name == "a.tar"


# Any samples --------------------------------------------------------------------------------------------------

LETTERS = st.characters(codec="utf-8", exclude_characters="./\0\n\r", exclude_categories=["Cs"])
KEY = st.text(LETTERS, min_size=1, max_size=6)
KEYS = st.lists(st.tuples(st.sampled_from(["", "d/", "d/e/"]), KEY).map("".join), min_size=1, max_size=12, unique=True)
SHAPES = st.lists(st.sets(st.sampled_from(["jpg", "txt", "json", "npy", "JPEG"]), min_size=1), min_size=12, max_size=12)


@given(KEYS, SHAPES, st.integers(1, 5), st.integers(1, 4))
@settings(max_examples=settings.default.max_examples // 2)
def test_any_samples_come_back_as_webdataset_reads_them(keys, shapes, part_size, per_tar):
    with tempfile.TemporaryDirectory() as scratch:
        tars = []
        for first in range(0, len(keys), per_tar):
            members = []
            for number, key in enumerate(keys[first : first + per_tar], first):
                content = {"jpg": jpeg(number), "JPEG": jpeg(100 + number), "txt": f"caption {number}".encode()}
                content |= {"json": json.dumps({"n": number, "caption": f"json {number}"}).encode(), "npy": b"x"}
                members += [(f"{key}.{suffix}", content[suffix]) for suffix in sorted(shapes[number])]
            tars.append(write_tar(Path(scratch) / f"{first:03d}.tar", members))
        expected = []
        for found in wds.WebDataset([str(tar) for tar in tars], shardshuffle=False):
            images = [found[suffix] for suffix in ("jpg", "jpeg") if suffix in found]
            said = json.loads(found["json"]) if "json" in found else {}
            caption = found["txt"].decode() if "txt" in found else said.get("caption", "")
            fault = {0: "no_image", 1: None}.get(len(images), "ambiguous")
            expected.append((caption, said.get("n"), fault, images[0] if len(images) == 1 else None))
        rows = read_samples(Path(scratch) / "run", *tars, part_size=part_size)
        found = [(row["caption"], row.get("source_n"), row["error_class"], row["data"]) for row in rows]
        assert found == expected


# The whole way ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rescored(tmp_path_factory, in_process):
    """A run over two tars, one sample of which has no image."""
    folder = tmp_path_factory.mktemp("rescored")
    for shard in range(2):
        members = [m for n in range(4) for m in sample(f"{shard}{n}", 4 * shard + n, f"a red ball number {n}", n=n)]
        write_tar(folder / "in" / f"{shard}.tar", [*members, *([] if shard else [("lone.txt", b"alone")])])
    command = [str(folder / "in"), "--output", str(folder / "run"), "--set", "part_size=4"]
    assert rescore.main(command) == 0
    return folder, command


def test_a_result_is_whole_and_every_sample_is_in_its_funnel(rescored, capsys):
    folder, command = rescored
    store = Store(str(folder / "run"))
    manifest = store.read_json("manifest.json")
    funnel = Folder.at(store, manifest["folders"]["select"]).json("funnel.json")
    assert (funnel["planned"], funnel["kept"]) == (9, 8)
    assert {step["name"]: step["dropped"] for step in funnel["steps"] if step["dropped"]} == {"fetch:no_image": 1}
    assert verify(store, deep=True) == []
    assert main(["explain", str(folder / "run"), "sample:1.tar/12"]) == 0
    said = capsys.readouterr().out
    assert f"sample      12.jpg in {folder}/in/1.tar" in said
    assert "fetched     " in said
    before = {name for name in store.folders() if name.startswith("fetch-")}
    assert rescore.main([*command, "--set", "fetch.timeout=3", "--set", "fetch.max_redirects=1"]) == 0
    after = {name for name in store.folders() if name.startswith("fetch-")}
    assert after == before, "settings of the network change nothing that is read"


def test_what_was_packed_is_read_again_as_the_same_pairs(rescored, tmp_path):
    folder, _ = rescored
    store = Store(str(folder / "run"))
    packed = folder / "run" / store.read_json("manifest.json")["pack"] / "shards"
    rows = read_samples(tmp_path / "again", packed)
    plan = Folder.at(store, store.read_json("manifest.json")["folders"]["plan"])
    parts = range(plan.marker().counts["parts"])
    first = [row for part in parts for row in plan.table("pairs.parquet", part).to_pylist()]
    fields = ("pair_id", "image_id", "url", "caption")
    expected = {tuple(row[name] for name in fields) for row in first if row["sample_fault"] is None}
    assert {tuple(row[name] for name in fields) for row in rows} == expected
    # The samples' own columns keep their names; what this program says of them is the source's by now.
    assert {row["source_n"] for row in rows} == {row["source_n"] for row in first if row["sample_fault"] is None}
    assert "source_clip_similarity" in rows[0]
    assert [name for name in rows[0] if name.startswith("source_source_")] == ["source_source_row"]
    fetched = Folder.at(store, store.read_json("manifest.json")["folders"]["fetch"])
    digests = [fetched.table("images.parquet", part)["sha256"] for part in parts]
    assert {row["sha256"] for row in rows} == {d for column in digests for d in pc.drop_null(column).to_pylist()}


def test_retry_failed_and_a_changed_tar_are_refused(rescored, capsys):
    folder, command = rescored
    assert main(["retry-failed", str(folder / "run")]) == 2
    assert "its images were read from samples" in capsys.readouterr().err
    write_tar(folder / "in" / "1.tar", [*sample("other", 5, "x")])
    assert rescore.main(command) == 2
    assert "holds a run with another source" in capsys.readouterr().err


def test_a_worker_that_finds_other_weights_than_the_run_began_with_stops_it(tmp_path, in_process, monkeypatch, capsys):
    """As when the file is replaced, or is another one on some machine of a cluster."""
    write_tar(tmp_path / "in" / "0.tar", sample("0", 0, "a red ball"))
    facts_of = describe.facts_of
    monkeypatch.setattr(
        describe, "facts_of", lambda origin: dataclasses.replace(facts_of(origin), weights_sha256="0" * 64)
    )
    assert rescore.main([str(tmp_path / "in"), "--output", str(tmp_path / "run")]) == 2
    assert "are not those that the run began with" in capsys.readouterr().err


def test_a_recipe_for_rescoring_needs_no_version_but_may_have_the_right_one(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(jpeg(1))
    recipe = tmp_path / "recipe.yaml"
    command = [str(tmp_path / "photos"), "--output", str(tmp_path / "run"), "--recipe", str(recipe), "--dry-run"]
    recipe.write_text("fetch: {image_size: 64}\n")
    assert rescore.main(command) == 0
    for text, fault in {
        "version: 2\n": "version",
        "fetch: {image_sise: 64}\n": "did you mean 'image_size'",
        "- 1\n": "is not a mapping of keys",
        "{": "is not YAML",
    }.items():
        recipe.write_text(text)
        assert rescore.main(command) == 2
        assert fault in capsys.readouterr().err


def test_a_picture_near_a_listed_hash_is_accounted_for(tmp_path, in_process, capsys):
    """The list's content counts, and not its path; another list is another fetch."""
    tar = write_tar(tmp_path / "a.tar", [m for n in range(3) for m in sample(f"{n}", n, f"a red ball number {n}")])
    (tmp_path / "near").write_text(phash.of_stored(jpeg(1)))
    command = [str(tar), "--output", str(tmp_path / "run")]
    assert rescore.main([*command, "--set", f"fetch.phash_blocklists=['{tmp_path / 'near'}']"]) == 0
    store = Store(str(tmp_path / "run"))
    manifest = store.read_json("manifest.json")
    funnel = Folder.at(store, manifest["folders"]["select"]).json("funnel.json")
    dropped = {step["name"]: step["dropped"] for step in funnel["steps"] if step["dropped"]}
    assert (dropped, funnel["kept"]) == ({"fetch:blocked_phash": 1}, 2)
    assert verify(store, deep=True) == []
    capsys.readouterr()
    assert main(["explain", str(tmp_path / "run"), "sample:a.tar/1"]) == 0
    explained = capsys.readouterr().out
    assert "decision    dropped: fetch:blocked_phash\n" in explained
    assert f"fetched     no: blocked_phash: phash {phash.of_stored(jpeg(1))} differs in 0 bits from" in explained
    (tmp_path / "near").rename(tmp_path / "moved")
    for lists, fetched in (([tmp_path / "moved"], "reused"), ([], "would run")):
        shown = ", ".join(f"'{path}'" for path in lists)
        assert rescore.main([*command, "--dry-run", "--set", f"fetch.phash_blocklists=[{shown}]"]) == 0
        assert re.search(rf"^fetch +{fetched}", capsys.readouterr().out, re.MULTILINE)
