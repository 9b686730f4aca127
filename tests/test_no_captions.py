"""Empty captions drop before all steps; a source without captions is curated by image alone, from plan to report."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from helpers.sample_run import sample, write_tar

from curate import recipe
from curate.columns import describe
from curate.commands.main import main
from curate.commands.verify import verify
from curate.errors import RecipeError, SourceError
from curate.plan.rows import NO_CAPTION
from curate.prepare import Prepared, prepare
from curate.schema import PLAN, SAMPLE
from curate.store import Folder, Store

pytestmark = pytest.mark.usefixtures("in_process")


def write_recipe(folder: Path, **more) -> Path:
    content = {
        "version": 1,
        "source": {"kind": "samples", "paths": [str(folder / "in")], **more.pop("source", {})},
        "output": str(folder / "run"),
        "part_size": 3,
        "fetch": {"resize": "no"},
        **more,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def run(path: Path) -> tuple[Store, dict, Path]:
    """Runs a recipe; the store, the funnel, and the result's folder."""
    assert main(["run", str(path), "--engine", "local"]) == 0
    store = Store(str(path.parent / "run"))
    manifest = store.read_json("manifest.json")
    funnel = Folder(store, *manifest["folders"]["select"].rsplit("-", 1)).json("funnel.json")
    return store, funnel, path.parent / "run" / manifest["pack"]


def dropped(funnel: dict) -> dict[str, int]:
    return {step["name"]: step["dropped"] for step in funnel["steps"] if step["dropped"]}


def test_an_empty_caption_does_not_beat_the_real_one_of_the_same_bytes(tmp_path, capsys):
    # '' has a similarity to every picture, and to a noisy one a higher one than true words.
    members = [
        *sample("a", 1, ""),
        *sample("b", 1, "a red ball on a green table"),
        *sample("c", 2, " \n"),
        *sample("d", 3),
        *sample("e", 4, "something else"),
        ("f.txt", b""),
    ]
    write_tar(tmp_path / "in" / "0.tar", members)
    steps = [{"drop": "same", "duplicates": {"by": "sha256"}}]
    store, funnel, pack = run(write_recipe(tmp_path, select=steps))
    assert dropped(funnel) == {"fetch:no_image": 1, "no_caption": 3}
    assert (funnel["planned"], funnel["kept"]) == (6, 2)
    kept = pq.read_table(pack / "shards" / "00000000.parquet")
    assert sorted(kept["caption"].to_pylist()) == ["a red ball on a green table", "something else"]
    assert verify(store, deep=True) == []
    assert f"{NO_CAPTION} (4)" in capsys.readouterr().err
    assert main(["explain", str(tmp_path / "run"), "sample:0.tar/a"]) == 0
    said = capsys.readouterr().out
    assert "dropped: no_caption" in said
    assert "clip_similarity              –" in said
    report = next((tmp_path / "run").glob("report-*/index.*.html"))
    assert "its caption is empty, where the source has captions" in report.read_text()


KINDS = [{"by": "phash", "within": 2}, {"by": "image_embedding", "above": 0.99}]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run by image alone, over samples of which some have captions."""
    folder = tmp_path_factory.mktemp("alone")
    members = [*sample("a", 1, "not read"), *sample("b", 1), *sample("c", 2, n=2), *sample("d", 3, caption="nor this")]
    write_tar(folder / "in" / "0.tar", members)
    signals = {"concepts": {"ball": ["a red ball", "a photo"]}}
    steps = [
        {"drop": "small", "where": "width < 10 OR concept_ball > 2"},
        {"drop": "same", "duplicates": {"by": "sha256", "prefer": "width"}},
        {"drop": "near", "duplicates": {"by": "image_embedding", "above": 0.999, "prefer": "width"}},
        {"drop": "alike", "duplicates": {"all": KINDS, "prefer": "width"}},
    ]
    path = write_recipe(folder, source={"caption": None}, signals=signals, select=steps)
    return folder, *run(path)


def test_a_source_without_captions_is_curated_by_image_alone(alone):
    _, store, funnel, _ = alone
    assert funnel["planned"] == 4
    assert dropped(funnel)["same"] == 1
    assert funnel["kept"] + sum(dropped(funnel).values()) == 4
    assert verify(store, deep=True) == []
    folders = store.read_json("manifest.json")["folders"]
    assert "signals-caption" not in folders
    embed = Folder(store, *folders["embed-pocket"].rsplit("-", 1))
    assert list(embed.marker(0).files) == ["images.parquet"]


def test_a_step_by_several_kinds_has_all_of_them_searched_and_described(alone):
    folder, _, funnel, pack = alone
    (alike,) = [step for step in funnel["steps"] if step["name"] == "alike"]
    searched = {search["by"]: search["searched"] for search in alike["searches"]}
    # Three different images are three pairs.
    assert searched == {"phash": 3, "image_embedding": 3}
    card = (pack / "README.md").read_text()
    page = next((folder / "run").glob("report-*/index.*.html")).read_text()
    for kind in searched:
        assert f"The search for `alike` by `{kind}` is exact: each of the 3 pairs of distinct images" in card
        assert f"<h3>Near copies by {kind}</h3>" in page
    assert "all but one of each set of duplicates by `phash` and `image_embedding` (at most 2 of 64 bits" in card


def test_its_result_has_no_txt_and_no_caption_as_img2dataset_writes_it(alone):
    _, _, funnel, pack = alone
    table = pq.read_table(pack / "shards" / "00000000.parquet")
    ours = [name for name in table.column_names if not name.startswith("source_")]
    assert not [name for name in ours if "caption" in name or "clip_similarity" in name]
    assert pq.read_schema(pack / "embeddings" / "00000000.parquet").names == ["uid", "image_embedding"]
    with tarfile.open(pack / "shards" / "00000000.tar") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    assert {name.rpartition(".")[2] for name in members} == {"jpg", "json"}
    assert len(members) == 2 * funnel["kept"]
    assert all("caption" not in json.loads(data) for name, data in members.items() if name.endswith(".json"))
    card = (pack / "README.md").read_text()
    assert "\n# Images\n" in card
    assert "txt" not in card
    assert "open_clip_train" not in card


def test_its_report_and_explain_show_no_caption(alone, capsys):
    folder, _, _, _ = alone
    page = next((folder / "run").glob("report-*/index.*.html")).read_text()
    assert "The source has no captions: images were curated alone" in page
    assert "no caption</span>" not in page
    assert main(["explain", str(folder / "run"), "sample:0.tar/c"]) == 0
    said = capsys.readouterr().out
    assert "caption" not in said
    assert "concept_ball" in said


def test_a_txt_member_that_came_back_is_found(alone, tmp_path):
    _, store, _, pack = alone
    shard = pack / "shards" / "00000000.tar"
    before = shard.read_bytes()
    try:
        with tarfile.open(shard) as tar:
            members = [(member.name, tar.extractfile(member).read()) for member in tar]
        name = members[0][0].rpartition(".")[0]
        write_tar(shard, [*members[:2], (f"{name}.txt", b"words"), *members[2:]])
        assert any("00000000.tar" in problem for problem in verify(store))
    finally:
        shard.write_bytes(before)


# What needs captions ------------------------------------------------------------------------------------------

TXT = "http://host.example/1.jpg\nhttp://host.example/2.jpg\n"


@pytest.mark.parametrize("by", ["txt", "null"])
@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"select": [{"drop": "x", "where": "clip_similarity < 0.2"}]}, "select step 'x': clip_similarity is computed"),
        ({"select": [{"drop": "x", "where": "caption_words < 3"}]}, "select step 'x': caption_words is computed from"),
        ({"select": [{"drop": "x", "where": "length(Caption) < 3"}]}, "select step 'x': caption is computed from"),
        (
            {"select": [{"drop": "x", "keep_top": {"of": "clip_similarity_pocket", "fraction": 0.3}}]},
            "select step 'x': clip_similarity_pocket is computed from captions",
        ),
        (
            {"select": [{"drop": "x", "duplicates": {"by": "sha256"}}]},
            "select step 'x': clip_similarity is computed from captions, .*; it is the default of `prefer`: name",
        ),
        (
            {"select": [{"drop": "x", "duplicates": {"by": "sha256", "prefer": "width", "keep": "all_captions"}}]},
            "select step 'x': caption is computed from captions, and the source has no captions",
        ),
        ({"signals": {"phrases": {"x": {"phrases": ["logo"]}}}}, "signals.phrases.x reads captions, and the source"),
        ({"models": {"pocket": {"name": "pocket", "mirror": True}}}, "models.pocket.mirror scores captions"),
    ],
    ids=["similarity", "words", "caption", "top", "prefer", "keep", "signal", "mirror"],
)
def test_what_needs_captions_says_so_before_the_run(tmp_path, by, more, message):
    (tmp_path / "list.txt").write_text(TXT)
    (tmp_path / "list.csv").write_text("url,caption\n" + TXT)
    source = {"paths": [str(tmp_path / "list.txt")]}
    if by == "null":
        source = {"paths": [str(tmp_path / "list.csv")], "caption": None}
    content = {"version": 1, "source": source, "output": str(tmp_path / "run"), **more}
    with pytest.raises(RecipeError, match=message) as error:
        prepare(recipe.parse(content))
    assert "the source has no captions" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_lists_with_captions_do_not_mix_with_lists_without(tmp_path):
    (tmp_path / "a.txt").write_text(TXT)
    (tmp_path / "b.csv").write_text("url\n" + TXT)

    def prepared(**source: Any) -> Prepared:
        return prepare(recipe.parse({"version": 1, "source": source, "output": str(tmp_path / "run")}))

    both = [f"{tmp_path}/*.*"]
    with pytest.raises(SourceError, match=r"a\.txt has no captions, and .*b\.csv has; say source\.caption: null"):
        prepared(paths=both)
    assert not prepared(paths=both, caption=None).has_captions
    with pytest.raises(SourceError, match=r"no column 'caption'.*; where there are no captions, say source\.caption"):
        prepared(paths=[f"{tmp_path}/b.csv"])


def test_columns_of_a_source_without_captions():
    plan, models = [*PLAN, *SAMPLE], {"a": True, "b": False}
    with_captions = describe(plan, models, {})
    without = describe(plan, models, {}, captions=False)
    gone = {column.name for column in with_captions.columns} - {column.name for column in without.columns}
    assert gone == {
        "caption",
        *("text_embedding", "text_embedding_b", "clip_similarity", "clip_similarity_a", "clip_similarity_b"),
        *("clip_similarity_mirrored", "clip_similarity_mirrored_a"),
    }
    assert set(with_captions.before()) - set(without.before()) == {"caption"}
