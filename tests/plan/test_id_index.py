"""The index of ids against a search of all parts."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from helpers.plan_run import run_plan, source
from hypothesis import given
from hypothesis import strategies as st

from curate import schema
from curate.commands.find_pairs import rows as find_rows
from curate.plan import id_index
from curate.plan.id_index import IdIndex, parts_of
from curate.scratch import scratch
from curate.store import Folder, Store

# Few different beginnings, so that ids share them, and the ends of the range.
IDS = st.builds(
    lambda start, rest: bytes.fromhex(start) + rest,
    st.sampled_from(["00000000", "00000001", "7fffffff", "80000000", "ffffffff", "fffffffe"]),
    st.binary(min_size=12, max_size=12),
)


def write_list(path, rows):
    path.write_text("url,caption\n" + "".join(f"http://a.b/{n}.jpg,caption {n}\n" for n in range(rows)))


@pytest.fixture(autouse=True)
def small_tables(monkeypatch):
    monkeypatch.setattr(id_index, "ROWS", 3)


@given(st.lists(st.tuples(IDS, st.integers(0, 9)), min_size=1, max_size=40), st.data())
def test_the_parts_of_a_prefix(tmp_path_factory, pairs, data):
    folder = Folder(Store(str(tmp_path_factory.mktemp("run"))), "plan", "0")
    out = folder.outputs()
    with scratch("ids") as spill:
        index = IdIndex(spill, len(pairs))
        cut = data.draw(st.integers(0, len(pairs)))
        for some in (pairs[:cut], pairs[cut:]):
            if some:
                ids = pa.chunked_array([pa.array([pair for pair, _ in some], schema.ID)])
                index.add(ids, np.array([part for _, part in some], np.int64))
        index.write(out)
    out.commit()
    pair, _ = data.draw(st.sampled_from(pairs))
    prefix = pair.hex()[: data.draw(st.integers(8, 32))]
    found = parts_of(folder, prefix)
    assert found is not None
    holding = {part for pair, part in pairs if pair.hex().startswith(prefix)}
    # Ids are indexed by their first 16 digits, so a longer prefix may be answered with a part more.
    assert holding <= set(found) <= {part for pair, part in pairs if pair.hex().startswith(prefix[:16])}
    assert found == sorted(found)


def test_an_id_opens_the_part_of_its_row(tmp_path: Path, monkeypatch):
    (tmp_path / "list.csv").write_text(
        "url,caption\n" + "".join(f"http://a.b/{n}.jpg,caption {n}\n" for n in range(60))
    )
    plan, _ = run_plan(tmp_path / "run", source(tmp_path / "list.csv"), part_size=6)
    assert plan.marker().counts["parts"] == 10
    wanted = schema.pair_id("http://a.b/7.jpg", "caption 7").hex()
    opened = []
    opens = Store.open

    def counting(self, name, block=None):
        opened.append(name)
        return opens(self, name, block)

    monkeypatch.setattr(Store, "open", counting)
    ((part, row),) = find_rows(plan, wanted[:12])
    assert [name for name in opened if "/pairs/" in name] == [plan.file("pairs.parquet", part)]
    assert plan.table("pairs.parquet", part)["pair_id"][row].as_py().hex() == wanted


def test_a_plan_without_an_index_is_searched_as_a_whole(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(IdIndex, "write", lambda self, out: None)
    (tmp_path / "list.csv").write_text(
        "url,caption\n" + "".join(f"http://a.b/{n}.jpg,caption {n}\n" for n in range(20))
    )
    plan, _ = run_plan(tmp_path / "run", source(tmp_path / "list.csv"), part_size=6)
    assert parts_of(plan, "0" * 8) is None
    wanted = schema.pair_id("http://a.b/7.jpg", "caption 7").hex()
    assert len(find_rows(plan, wanted)) == 1
