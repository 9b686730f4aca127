"""A list that names its pairs itself (`source.uid`), from its rows to the result."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from helpers.hostile_server import HostileServer, ok, status
from helpers.sample_run import jpeg

from curate.commands.main import main
from curate.commands.verify import verify
from curate.store import Folder, Store

TWICE = "ab" * 16


@pytest.mark.usefixtures("in_process")
def test_of_a_uid_that_is_listed_twice_the_row_with_an_image_is_packed(tmp_path, capsys):
    with HostileServer() as server:
        server.answers |= {f"/{number}.jpg": ok(jpeg(number)) for number in range(6)} | {"/0.jpg": status(404)}
        rows = pa.table(
            {
                "uid": [TWICE, *(f"{number:032x}" for number in range(1, 5)), TWICE],
                "url": [server.url(f"/{number}.jpg") for number in range(6)],
                "caption": [f"a grey drawing number {number}" for number in range(6)],
            }
        )
        pq.write_table(rows, tmp_path / "list.parquet")
        recipe = {
            "version": 1,
            "source": {"paths": [str(tmp_path / "list.parquet")], "uid": "uid"},
            "output": str(tmp_path / "run"),
            "fetch": {"allow": [server.address], "retries": 0},
            "select": [{"drop": "same", "duplicates": {"by": "sha256"}}],
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        assert main(["run", str(tmp_path / "recipe.yaml"), "--engine", "local"]) == 0
    store = Store(str(tmp_path / "run"))
    assert verify(store, deep=True) == []
    manifest = store.read_json("manifest.json")
    packed = pq.read_table(tmp_path / "run" / manifest["pack"] / "shards" / "00000000.parquet")
    captions = dict(zip(packed["uid"].to_pylist(), packed["caption"].to_pylist(), strict=True))
    assert len(captions) == 5
    assert captions[TWICE] == "a grey drawing number 5"
    capsys.readouterr()
    assert main(["explain", str(tmp_path / "run"), TWICE]) == 0
    said = capsys.readouterr().out
    assert said.count("decision    kept") == said.count("decision    dropped: repeated") == 1
    similarity = dict(zip(packed["uid"].to_pylist(), packed["clip_similarity"].to_pylist(), strict=True))[TWICE]
    assert f"{similarity:.4f}" in said
    # Plan could not know which of the two would have an image.
    folder = Folder.at(store, manifest["folders"]["plan"])
    assert not any(folder.table("pairs.parquet", 0)["repeated"].to_pylist())
