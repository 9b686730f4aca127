"""Captions that a list of strangers holds, through the whole way and into the shards."""

import json
import tarfile

import pytest
import yaml
from helpers.fetch_samples import picture
from helpers.hostile_server import HostileServer, ok

from curate.commands.main import main
from curate.commands.verify import verify
from curate.schema import clean_caption
from curate.store import Store

pytestmark = pytest.mark.usefixtures("in_process")

CAPTIONS = [
    None,
    "",
    "x" * 100_000,
    "a\0b",
    "two\nlines\r\nand\ttabs",
    "\u202eright to left\u202c العربية עברית",
    "lone \ud800 surrogate \udfff",
    "<script>alert(1)</script>\x1b[31m",
    "\ufeff\u200b",
    "🐈" * 500,
]


def test_every_caption_arrives_as_it_is_identified(tmp_path, capsys):
    with HostileServer() as server:
        rows = []
        for number, caption in enumerate(CAPTIONS):
            server.answers[f"/{number}.jpg"] = ok(picture(number))
            rows.append({"url": server.url(f"/{number}.jpg"), "caption": caption})
        (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        recipe = {
            "version": 1,
            "source": {"paths": [str(tmp_path / "list.jsonl")]},
            "output": str(tmp_path / "run"),
            "fetch": {"allow": [server.address], "timeout": 30},
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        assert main(["run", str(tmp_path / "recipe.yaml"), "--engine", "local"]) == 0
    store = Store(str(tmp_path / "run"))
    assert verify(store, deep=True) == []
    (shard,) = (tmp_path / "run").glob("pack-*/shards/*.tar")
    with tarfile.open(shard) as tar:
        texts = [tar.extractfile(name).read().decode() for name in tar.getnames() if name.endswith(".txt")]
    assert sorted(texts) == sorted(clean_caption(caption) for caption in CAPTIONS if caption and caption.strip())
    html = next((tmp_path / "run").glob("report-*/index.*.html")).read_text()
    assert "<script>alert" not in html
    capsys.readouterr()
    for row in rows:
        assert main(["explain", store.url, row["url"]]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "\u202e" not in said
