"""A whole run whose steps compare captions, alone and with images: decisions, commands, report and verify."""

import hashlib
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
from helpers.drawn_web import write_recipe
from helpers.fetch_samples import picture
from helpers.hostile_server import HostileServer, ok
from helpers.near_pairs import all_near

from curate.captions import normal_form
from curate.commands.main import main
from curate.dedup.kinds.text_embedding import TextEmbedding
from curate.store import Folder, Store

pytestmark = pytest.mark.usefixtures("in_process")

COPY = {1: 0, 2: 0, 6: 5}
"""Rows whose picture is that of another row."""

CAPTIONS = {1: "“A grey drawing  number 0.”", 7: "A GREY DRAWING NUMBER 3", 8: "something else entirely"}
SELECT: list[dict[str, Any]] = [
    {"drop": "same_pair", "duplicates": {"all": [{"by": "sha256"}, {"by": "caption"}]}},
    {"drop": "caption", "duplicates": {"by": "caption"}},
    {"drop": "text", "duplicates": {"by": "text_embedding", "above": 0.99}},
]


def folders_of(store: Store) -> dict[str, Folder]:
    return {short: Folder.at(store, path) for short, path in store.read_json("manifest.json")["folders"].items()}


def rows_of(store: Store) -> dict[bytes, dict[str, Any]]:
    """The rows of a run by pair, with what its steps compare and what they decided."""
    folders, rows = folders_of(store), {}
    for part in range(store.read_json("manifest.json")["n_parts"]):
        images = {row["image_id"]: row for row in folders["fetch"].table("images.parquet", part).to_pylist()}
        embedded = folders["embed-pocket"].table("pairs.parquet", part).to_pylist()
        planned = folders["plan"].table("pairs.parquet", part).to_pylist()
        decided = folders["select"].table("decisions.parquet", part).to_pylist()
        for plan, pair, decision in zip(planned, embedded, decided, strict=True):
            rows[plan["pair_id"]] = {**plan, **pair, **decision, "sha256": images[plan["image_id"]]["sha256"]}
    return rows


def cosine(one: list[float], other: list[float]) -> float:
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    return round(dot / math.hypot(*one) / math.hypot(*other), 6)


def alike(step: str, one: dict[str, Any], other: dict[str, Any]) -> float | None:
    """The similarity of two pairs where a step counts them as duplicates."""
    if step == "text":
        similarity = cosine(one["text_embedding"], other["text_embedding"])
        same = one["caption"] == other["caption"]
        return 1.0 if same else similarity if similarity >= 0.99 else None
    is_same = normal_form(one["caption"]) == normal_form(other["caption"])
    if step == "same_pair":
        is_same = is_same and one["sha256"] == other["sha256"]
    return 1.0 if is_same else None


def test_a_run_with_steps_of_captions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with HostileServer() as server:
        for number, of in COPY.items():
            server.answers[f"/{number}.jpg"] = ok(picture(of))
        write_recipe(tmp_path, server, 12, part_size=5, select=SELECT)
        lines = (tmp_path / "list.csv").read_text().splitlines()
        for number, caption in CAPTIONS.items():
            lines[number + 1] = lines[number + 1].split(",")[0] + f",{caption}"
        (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
        monkeypatch.setattr(TextEmbedding, "block_rows", 4)
        assert main(["run", str(tmp_path / "recipe.yaml"), "--engine", "local"]) == 0
    store = Store(str(tmp_path / "run"))
    assert main(["verify", store.url, "--deep"]) == 0
    rows, folders = rows_of(store), folders_of(store)
    kept: list[dict[str, Any]] = []
    for row in sorted(rows.values(), key=lambda row: (-row["clip_similarity"], row["pair_id"])):
        found = [
            (number, -similarity, place)
            for number, step in enumerate(SELECT)
            for place, other in enumerate(kept)
            if (similarity := alike(step["drop"], row, other)) is not None
        ]
        fate = (row["reason"], row["duplicate_of"], row["duplicate_similarity"])
        if found:
            number, similarity, place = min(found)
            assert fate == (SELECT[number]["drop"], kept[place]["pair_id"], -similarity)
        else:
            assert fate == (None, None, None)
            kept.append(row)
    dropped = {row["reason"]: row for row in rows.values() if not row["kept"]}
    assert set(dropped) == {step["drop"] for step in SELECT}, "each step drops a pair"

    captions = {hashlib.sha256(row["caption"].encode()).hexdigest(): row["text_embedding"] for row in rows.values()}
    near = {
        (one, other, similarity)
        for one, other in itertools.combinations(sorted(captions), 2)
        if (similarity := cosine(captions[one], captions[other])) >= 0.95
    }
    assert set(all_near(folders["dedup-text_embedding"], folders["nodes-text_embedding"])) == near
    assert folders["dedup-text_embedding"].marker().counts["tiles"] > 1

    facts = {step["name"]: step for step in folders["select"].json("funnel.json")["steps"]}
    assert facts["same_pair"]["kinds"] == ["sha256", "caption"]
    assert facts["text"]["searches"][0]["compares"] == "caption"
    words = {
        "same_pair": "by sha256 and caption: equal bytes, equal captions after normalisation",
        "caption": "by caption: equal captions after normalisation",
        "text": "by text_embedding: cosine ",
    }
    for step, expected in words.items():
        capsys.readouterr()
        assert main(["explain", store.url, dropped[step]["pair_id"].hex()]) == 0
        assert expected in capsys.readouterr().out
    assert main(["duplicates", store.url]) == 0
    assert "equal captions after normalisation" in capsys.readouterr().out
    (report,) = (path.read_text() for path in (tmp_path / "run" / folders["report"].path).glob("*.html"))
    assert "of distinct captions was compared" in report
