"""Entries on training in C2PA manifests; hostile ones raise nothing."""

import pytest
from helpers.bounded import printed
from helpers.c2pa_boxes import (
    C2PA_UUID,
    FILES,
    assertion,
    box,
    cbor,
    in_avif,
    in_gif,
    in_jpeg,
    in_png,
    store,
    superbox,
)
from helpers.fetch_samples import decoded
from hypothesis import given
from hypothesis import strategies as st
from PIL import ImageSequence

from curate.fetch.pictures import c2pa
from curate.fetch.pictures.c2pa import forbidding_entry


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("pad", [0, 1])
def test_an_entry_is_found_in_every_kind_of_file(file, pad):
    padding = superbox("json", "x" * pad, box(b"json", b"{}"))
    data = FILES[file](store(padding, assertion()))
    assert forbidding_entry(data) == "C2PA: cawg.training-mining: cawg.ai_generative_training is notAllowed"
    assert forbidding_entry(FILES[file](store())) is None
    assert forbidding_entry(FILES[file](store(assertion(use="allowed")))) is None


@pytest.mark.parametrize("part", [1, 7, 16, 100])
def test_boxes_that_span_segments_are_joined(part):
    assert forbidding_entry(in_jpeg(store(assertion()), part))


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("part", [1, 7, 255])
def test_sub_blocks_of_a_gif_are_joined(part, after):
    data = in_gif(store(assertion()), part, after)
    assert forbidding_entry(data)
    assert forbidding_entry(data.replace(b"C2PA_GIF", b"NETSCAPE")) is None
    # Still a picture of two frames, so it is also one for its reader.
    assert sum(1 for _ in ImageSequence.Iterator(decoded(data))) == 2


@pytest.mark.skipif("avif" not in FILES, reason="this Pillow has no AVIF")
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(("purpose", "found"), [(b"manifest", True), (b"update", True), (b"merkle", False)])
def test_the_uuid_box_of_an_avif(after, large, purpose, found):
    data = in_avif(store(assertion()), purpose, after, large)
    assert (forbidding_entry(data) is not None) is found
    assert forbidding_entry(data.replace(C2PA_UUID, bytes(16))) is None
    if after:  # a box before the pixels moves them, and their offsets with them
        assert decoded(data).size == (96, 64)


@pytest.mark.parametrize(
    ("of", "found"),
    [
        ({"label": "c2pa.training-mining", "name": "c2pa.ai_training"}, True),
        ({"label": "cawg.training-mining__2", "name": "cawg.data_mining"}, True),
        ({"label": "c2pa.training-mining.v2"}, True),
        ({"use": "constrained", "constraints_info": "ask me"}, True),
        ({"kind": "json"}, True),
        ({"name": "cawg.ai_inference"}, False),
        ({"name": "other.ai_training"}, False),
        ({"label": "c2pa.training-mining-else"}, False),
        ({"use": "NotAllowed"}, False),
        ({"use": "unknown"}, False),
    ],
)
def test_what_forbids(of, found):
    assert (forbidding_entry(in_jpeg(store(assertion(**of)))) is not None) is found


def test_entries_of_the_first_release_and_of_endless_maps():
    bare = superbox("cbor", "cawg.training-mining", box(b"cbor", cbor({"cawg.ai_training": {"use": "notAllowed"}})))
    assert forbidding_entry(in_png(store(bare)))
    endless = b"\xbf\x67entries\xbf\x70cawg.ai_training\xbf\x63use\x7f\x63not\x67Allowed\xff\xff\xff\xff"
    assert forbidding_entry(in_png(store(superbox("cbor", "cawg.training-mining", box(b"cbor", endless)))))
    tagged = b"\xd8\x20" + cbor({"entries": {"cawg.ai_training": {"n": [1, True, 3000], "use": "notAllowed"}}})
    assert forbidding_entry(in_png(store(superbox("cbor", "cawg.training-mining", box(b"cbor", tagged)))))


@given(st.sampled_from(list(FILES)), st.data())
def test_mutated_boxes_raise_nothing(file, data):
    boxes = bytearray(store(assertion(), assertion(kind="json")))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(boxes) - 1))
        boxes[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    whole = bytearray(FILES[file](bytes(boxes)))
    if data.draw(st.booleans()):
        del whole[data.draw(st.integers(0, len(whole))) :]
    found = forbidding_entry(bytes(whole))
    assert found is None or found.startswith("C2PA: ")


@given(st.binary(max_size=200))
def test_any_cbor_raises_nothing(content):
    forbidding_entry(in_png(store(superbox("cbor", "cawg.training-mining", box(b"cbor", content)))))


def nested(depth):
    inner = assertion()
    for _ in range(depth):
        inner = superbox("c2as", "x", inner)
    return inner


def test_depth_and_size_are_bounded():
    assert forbidding_entry(in_png(nested(c2pa.MAX_DEPTH - 1)))
    assert forbidding_entry(in_png(nested(c2pa.MAX_DEPTH))) is None
    assert forbidding_entry(in_png(store(assertion(info="x" * 50_000))))
    assert forbidding_entry(in_png(store(assertion(kind="json", info="x" * c2pa.MAX_ASSERTION)))) is None
    deep = superbox("cbor", "cawg.training-mining", box(b"cbor", b"\x81" * 60_000))
    deep_json = superbox("json", "cawg.training-mining", box(b"json", b"[" * 60_000))
    assert forbidding_entry(in_png(store(deep, deep_json))) is None


def test_files_made_of_the_smallest_boxes_take_bounded_time():
    """Twenty megabytes of empty segments, chunks, boxes and values."""
    program = """
from curate.fetch.pictures.c2pa import forbidding_entry
size = 20_000_000
png = b"\\x89PNG\\r\\n\\x1a\\n"
boxes = b"\\0\\0\\0\\x08jumb" * (size // 8)
uuid = bytes.fromhex("d8fec3d61b0e483c92975828877ec481") + bytes(4) + b"manifest" + bytes(9) + boxes[:80]
uuids = (8 + len(uuid)).to_bytes(4, "big") + b"uuid" + uuid
for data in (
    b"\\xff\\xd8" + b"\\xff\\xeb\\0\\x02" * (size // 4),
    b"\\xff\\xd8" + b"\\xff" * size,
    png + b"\\0\\0\\0\\0IDAT\\0\\0\\0\\0" * (size // 12),
    b"RIFF\\0\\0\\0\\0WEBP" + b"VP8 \\0\\0\\0\\0" * (size // 8),
    png + len(boxes).to_bytes(4, "big") + b"caBX" + boxes,
    b"GIF89a" + bytes(7) + b"\\x21\\xff\\x0bC2PA_GIF\\1\\0\\0" + b"\\1x" * (size // 2),
    b"GIF89a" + bytes(7) + b"\\x21\\xff\\0" * (size // 3),
    b"GIF89a" + bytes(7) + (b"\\x2c" + bytes(11)) * (size // 12),
    b"GIF89a" + bytes(7) + b"\\x21\\xff\\x0bC2PA_GIF\\1\\0\\0\\0" * (size // 15),
    b"\\0\\0\\0\\x10ftypavif\\0\\0\\0\\0" + b"\\0\\0\\0\\x08uuid" * (size // 8),
    b"\\0\\0\\0\\x10ftypavif\\0\\0\\0\\0" + uuids * (size // len(uuids)),
):
    print(forbidding_entry(data))
"""
    assert printed(program, seconds=10) == ["None"] * 11
