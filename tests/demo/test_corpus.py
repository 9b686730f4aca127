import io
from collections import Counter
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageChops, ImageOps, ImageStat

from curate.demo.answers import answer, picture
from curate.demo.corpus import LIST_SCHEMA, TRUTH_SCHEMA, Corpus
from curate.demo.encode import ENCODINGS
from curate.demo.kinds import COPIES, EVERY_KIND_FROM, KINDS, counts
from curate.demo.scenes import draw_scene, scene_key
from curate.errors import UsageError
from curate.schema import ERROR_CLASSES, clean_caption, pair_id

CORPUS = Corpus(seed=3, pairs=2000)
ROWS = list(CORPUS.rows())
TRUTH = CORPUS.tables()[1].to_pylist()


def of_kind(kind):
    return [row for row in ROWS if row.kind == kind]


def body(row, corpus=CORPUS):
    return answer(corpus, urlsplit(row.url).path).body


def test_two_corpora_of_one_seed_are_equal_to_the_byte():
    twin = Corpus(seed=3, pairs=2000)
    assert twin.tables()[0].equals(CORPUS.tables()[0])
    assert twin.tables()[1].equals(CORPUS.tables()[1])
    for row in ROWS[::40]:
        if row.kind not in ("bomb", "refused", "unknown_host"):
            path = urlsplit(row.url).path
            assert answer(twin, path) == answer(CORPUS, path)


def test_another_seed_is_another_web():
    other = Corpus(seed=4, pairs=2000)
    assert sum(a.caption == b.caption for a, b in zip(other.rows(), ROWS, strict=True)) < 200
    assert other.row(0) != ROWS[0]


def test_every_kind_is_there_with_its_share():
    found = Counter(row.kind for row in ROWS)
    assert set(found) == set(KINDS)
    for name, kind in KINDS.items():
        # The first captions of an image with two have the kind of the second ones.
        share = 2 * kind.share if name == "two_captions" else kind.share
        if name != "clean":
            assert found[name] == pytest.approx(2000 * share, abs=1)
    assert found["clean"] > 800


@pytest.mark.parametrize("pairs", [1, 2, 7, 50, EVERY_KIND_FROM, 100_000])
def test_counts_sum_to_the_list(pairs):
    planted = counts(pairs)
    assert sum(planted.values()) == pairs
    assert min(planted.values()) >= (1 if pairs >= EVERY_KIND_FROM else 0)


@pytest.mark.parametrize("pairs", [1, 3, 40, 300])
def test_short_lists_can_be_made_and_served(pairs):
    corpus = Corpus(0, pairs)
    listed, truth = corpus.tables()
    assert listed.num_rows == truth.num_rows == pairs
    assert answer(corpus, urlsplit(corpus.row(0).url).path).status in (200, 302)


def test_impossible_corpora_are_refused():
    with pytest.raises(UsageError, match="at least 1"):
        Corpus(0, 0)
    with pytest.raises(UsageError, match="1 to 65535"):
        Corpus(0, 1, 70_000)


def test_expected_fetch_reasons_are_classes_of_the_schema():
    classes = {kind.expected.removeprefix("fetch:") for kind in KINDS.values() if "fetch:" in (kind.expected or "")}
    assert classes <= set(ERROR_CLASSES)


def test_truth_table_agrees_with_the_list():
    listed = CORPUS.tables()[0]
    assert listed.schema == LIST_SCHEMA
    assert CORPUS.tables()[1].schema == TRUTH_SCHEMA
    for here, true in zip(listed.to_pylist(), TRUTH, strict=True):
        assert here["URL"] == true["url"]
        assert clean_caption(here["TEXT"]) == true["caption"]
        assert true["pair_id"] == pair_id(here["URL"], clean_caption(here["TEXT"]))
    assert None in listed["TEXT"].to_pylist()
    assert "" in listed["TEXT"].to_pylist()


def test_truth_sums():
    found = Counter(row["truth"] for row in TRUTH)
    assert sum(found.values()) == 2000
    must_drop = sum(count for kind, count in counts(2000).items() if KINDS[kind].truth == "drop")
    assert found["drop"] == must_drop
    assert found["keep"] > 700
    for row in TRUTH:
        if KINDS[row["kind"]].truth != "drop" and row["truth"] == "drop":
            pytest.fail(f"{row} must not be dropped")
        if row["copy_group"] is not None:
            assert row["truth"] == "may"


def test_a_copy_group_has_one_original_and_its_copies():
    groups = {}
    for row in TRUTH:
        if row["copy_group"] is not None:
            groups.setdefault(row["copy_group"], []).append(row)
    assert len(groups) > 100
    assert any(len(group) > 2 for group in groups.values())
    for group in groups.values():
        (original,) = [row for row in group if row["copy_of"] is None]
        assert all(row["copy_of"] == original["url"] for row in group if row is not original)
        assert len({row["kind"] for row in group} - COPIES - {"clean"}) <= 1


def test_repeats_and_second_captions_stand_under_the_url_of_their_source():
    for row in of_kind("repeated"):
        source = ROWS[row.source]
        assert (row.url, row.caption) == (source.url, source.caption)
        assert source.index != row.index
    for row in of_kind("two_captions"):
        assert row.url == ROWS[row.source].url
    assert any(row.caption != ROWS[row.source].caption for row in of_kind("two_captions"))


def test_chance_look_alikes_may_go_either_way():
    sources = {row.source for row in ROWS if KINDS[row.kind].truth != "drop"}
    shown = Counter(scene_key(CORPUS.scene(ROWS[source])) for source in sources)
    for row, true in zip(ROWS, TRUTH, strict=True):
        if row.kind in ("clean", "redirect"):
            assert (true["truth"] == "keep") == (
                true["copy_group"] is None and shown[scene_key(CORPUS.scene(row))] == 1
            )
    assert [key for key, count in shown.items() if count > 1]


def test_junk_captions_are_of_their_kind():
    assert all(row.caption.strip() == "" for row in of_kind("empty_caption"))
    assert all(row.caption.startswith("http") for row in of_kind("url_caption"))
    assert all("." in row.caption and " " not in row.caption for row in of_kind("file_name"))


@pytest.mark.parametrize("name", sorted(ENCODINGS))
def test_encodings_decode_to_what_they_say_and_show_the_picture(name):
    row = next(row for row in ROWS if row.encoding == name and row.kind == "clean" and row.source == row.index)
    image = Image.open(io.BytesIO(body(row)))
    formats = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP", "image/gif": "GIF"}
    assert image.format == formats[ENCODINGS[name].content_type]
    modes = {"png_palette": "P", "png_alpha": "RGBA", "jpeg_cmyk": "CMYK", "jpeg_grey": "L", "gif": "P"}
    modes |= {"png_grey_16bit": "I;16", "gif_animated": "P"}
    assert image.mode == modes.get(name, "RGB")
    assert bool(image.info.get("progressive")) == (name == "jpeg_progressive")
    assert getattr(image, "n_frames", 1) == (2 if name == "gif_animated" else 1)
    if "16bit" in name:
        assert body(row)[24] == 16
    upright = ImageOps.exif_transpose(image)
    assert upright.size == row.size
    assert (image.getexif().get(0x0112, 1) != 1) == (name == "jpeg_rotated")
    if name == "png_alpha":
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
    if name == "png_grey_16bit":
        upright = upright.point(lambda value: value / 257).convert("L")
    left, top, right, bottom = (round(side * share) for share in (0.1, 0.9) for side in row.size)
    apart = ImageChops.difference(upright.convert("RGB"), picture(CORPUS, row)).crop((left, top, right, bottom))
    assert sum(ImageStat.Stat(apart).mean) / 3 < 12


def test_sizes_are_skewed_to_the_small_side_of_64_to_2000():
    sides = [min(row.size) for row in ROWS if row.kind != "tiny"]
    longest = [max(row.size) for row in ROWS]
    assert min(sides) >= 64
    assert 1200 < max(longest) <= 2000
    assert sorted(longest)[1000] < 300
    assert all(max(row.size) <= 40 for row in of_kind("tiny"))


def test_exact_copies_are_equal_and_near_copies_are_near():
    for row in of_kind("exact_copy")[:5]:
        assert row.url != ROWS[row.source].url
        assert body(row) == body(ROWS[row.source])
    for kind in COPIES - {"exact_copy"}:
        for row in of_kind(kind)[:3]:
            original, copied = picture(CORPUS, ROWS[row.source]), Image.open(io.BytesIO(body(row)))
            assert copied.size == row.size
            assert body(row) != body(ROWS[row.source])
            small = [image.convert("RGB").resize((16, 16)) for image in (original, copied)]
            assert sum(ImageStat.Stat(ImageChops.difference(*small)).mean) / 3 < 40


def test_blank_pictures_have_one_colour_and_watermarked_ones_differ_from_the_scene():
    image = Image.open(io.BytesIO(body(of_kind("blank")[0]))).convert("RGB")
    assert max(ImageStat.Stat(image.crop(image.getbbox())).stddev) < 40
    row = of_kind("watermark")[0]
    plain = draw_scene(CORPUS.scene(row), row.size)
    assert ImageChops.difference(plain, picture(CORPUS, row)).getbbox() is not None


def test_a_bomb_is_small_and_says_how_large_it_is():
    (row, *_) = of_kind("bomb")
    data = body(row)
    assert len(data) < 200_000
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(data))


def test_truncated_files_open_and_do_not_decode():
    for row in of_kind("truncated"):
        with pytest.raises(OSError, match=r"truncated|broken|decoder|failed"):
            Image.open(io.BytesIO(body(row))).load()


def test_writing_again_touches_nothing_that_stays_the_same(tmp_path):
    written = Corpus(0, 60).write(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in written.urls] == ["urls/00000.parquet"]
    assert pq.read_table(written.urls[0]).num_rows == pq.read_table(written.truth).num_rows == 60
    stamps = {path: path.stat().st_mtime_ns for path in (*written.urls, written.truth)}
    (tmp_path / "urls" / "00001.parquet").write_bytes(b"of a longer list")
    assert Corpus(0, 60).write(tmp_path) == written
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert not (tmp_path / "urls" / "00001.parquet").exists()
    Corpus(1, 60).write(tmp_path)
    assert all(path.stat().st_mtime_ns != stamp for path, stamp in stamps.items())
