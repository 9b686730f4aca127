"""Which pair a command means."""

import pyarrow as pa
import pytest

from curate import schema
from curate.commands.find_pairs import rows
from curate.errors import UsageError
from curate.store import WHOLE, Folder, Store

PARTS = 3
IDS = [
    "0123456789abcdef0123456789abcdef",
    "0123456789abcdef1123456789abcdef",
    "01234567ffffffffffffffffffffffff",
    "ffffffff000000000000000000000000",
    "ffffffff000000000000000000000000",
]
URLS = ["http://host/a.jpg", "http://host/b.jpg", "no url at all", "http://host/c.jpg", "http://host/c.jpg"]


@pytest.fixture
def plan(tmp_path):
    """A plan of these pairs, the last one of which is listed twice."""
    store = Store(str(tmp_path))
    store.put("run.json", b'{"seed": 0}')
    folder = Folder(store, "plan", "0")
    listed = [[] for _ in range(PARTS)]
    for number, (pair, url) in enumerate(zip(IDS, URLS, strict=True)):
        image = schema.image_id(url)
        row = {"pair_id": bytes.fromhex(pair), "image_id": image, "url": url, "caption": "", "source_row": number}
        listed[schema.part_of(image, 0, PARTS)].append(row | {"repeated": number == 4})
    for part, of_part in enumerate(listed):
        out = folder.outputs(part)
        out.put_table("pairs.parquet", pa.Table.from_pylist(of_part, schema.PLAN))
        out.commit()
    whole = folder.outputs(WHOLE)
    whole.counts["parts"] = PARTS
    whole.commit()
    return folder


def found(plan, wanted):
    return sorted(plan.table("pairs.parquet", part)["source_row"][row].as_py() for part, row in rows(plan, wanted))


@pytest.mark.parametrize(
    ("wanted", "source_rows"),
    [
        (IDS[0], [0]),
        (IDS[0].upper(), [0]),
        ("01234567f", [2]),
        ("01234567F", [2]),
        ("01234567fff…", [2]),
        ("01234567fff...", [2]),
        ("0123456789abcdef1", [1]),
        ("ffffffff", [3, 4]),
        ("http://host/b.jpg", [1]),
        ("http://host/c.jpg", [3, 4]),
        ("no url at all", [2]),
    ],
)
def test_a_pair_is_meant_by_its_id_its_beginning_or_its_url(plan, wanted, source_rows):
    assert found(plan, wanted) == source_rows


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("01234567", "3 pairs begin with 01234567; write more of its 32 digits"),
        ("0123456789ABCDEF", "2 pairs begin with 0123456789abcdef; write more"),
        ("deadbeef", "has no pair deadbeef…"),
        ("d" * 32, f"has no pair {'d' * 32}"),
        ("http://host/d.jpg", "has no URL http://host/d.jpg"),
        ("0123456", "'0123456' is neither a pair's id (32 hex digits, or the first 8 or more of them) nor a URL"),
        ("hello", "'hello' is neither a pair's id"),
        ("0" * 33, "is neither a pair's id"),
    ],
)
def test_what_means_no_pair_or_several_is_one_line(plan, wanted, said):
    with pytest.raises(UsageError) as caught:
        rows(plan, wanted)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
