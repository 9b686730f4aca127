"""The PDQ hash against a plain transcription of its definition, and against hashes of its reference code."""

import json
import math
from operator import mul
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from helpers.embed_parts import draw, encode
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from curate.embed.decode.prepare import Prepare
from curate.embed.pixels.kinds.pdq import hash_and_quality
from curate.embed.pixels.registry import opened, scorers
from curate.errors import RecipeError
from curate.layout import lay_out
from curate.prepare import Prepared, prepare
from curate.recipe import parse

TWELVE = 12
"""A whole multiple of every number of pixels in a window (1 to 4): a mean times this is a whole number."""


def box(values: list[int], window: int) -> list[int]:
    """Twelve times the mean of a sliding window, in the four phases of the definition."""
    half = (window + 2) // 2
    found, total, size, left, right = [], 0, 0, 0, 0
    for _ in range(half - 1):
        total, size, right = total + values[right], size + 1, right + 1
    for _ in range(window - half + 1):
        total, size, right = total + values[right], size + 1, right + 1
        found.append(total * TWELVE // size)
    for _ in range(len(values) - window):
        total, left, right = total + values[right] - values[left], left + 1, right + 1
        found.append(total * TWELVE // size)
    for _ in range(half - 1):
        total, size, left = total - values[left], size - 1, left + 1
        found.append(total * TWELVE // size)
    return found


def transposed(matrix: list[list[int]]) -> list[list[int]]:
    return [list(column) for column in zip(*matrix, strict=True)]


def transcribed(picture: Image.Image) -> tuple[list[float], int]:
    """The definition in loops, for sides of 5 to 512 pixels: the 16 × 16 frequencies, and the quality.

    Filters and quality are in whole numbers, the transform in float64.
    """
    levels: list[list[list[int]]] = np.asarray(picture).tolist()
    luma = [[299 * red + 587 * green + 114 * blue for red, green, blue in row] for row in levels]
    height, width = len(luma), len(luma[0])
    for _ in range(2):
        luma = [box(row, (width + 127) // 128) for row in luma]
        luma = transposed([box(column, (height + 127) // 128) for column in transposed(luma)])
    unit = 1000 * TWELVE**4
    small = [[luma[int((i + 0.5) * height / 64)][int((j + 0.5) * width / 64)] for j in range(64)] for i in range(64)]

    gradient = 0
    for i in range(64):
        for j in range(64):
            if i < 63:
                gradient += abs(small[i][j] - small[i + 1][j]) * 100 // (255 * unit)
            if j < 63:
                gradient += abs(small[i][j] - small[i][j + 1]) * 100 // (255 * unit)

    basis = [
        [math.sqrt(2 / 64) * math.cos(math.pi / 128 * (i + 1) * (2 * j + 1)) for j in range(64)] for i in range(16)
    ]
    columns = [[level / unit for level in column] for column in transposed(small)]
    half = [[sum(map(mul, row, column)) for column in columns] for row in basis]
    found = [sum(map(mul, row, other)) for row in half for other in basis]
    return found, min(100, gradient // 90)


def hashed(frequencies: list[float]) -> str:
    """One bit for each frequency that is above the lower median."""
    median = sorted(frequencies)[127]
    return f"{sum(1 << place for place, value in enumerate(frequencies) if value > median):064x}"


def expected(picture: Image.Image) -> tuple[str, int]:
    """The hash of the definition, where frequencies that differ by rounding errors are equal; and the quality."""
    frequencies, quality = transcribed(picture)
    return hashed([round(value, 6) for value in frequencies]), quality


def noise(seed: int, size: tuple[int, int]) -> Image.Image:
    width, height = size
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def pattern(width: int, height: int) -> npt.NDArray[np.uint8]:
    """A picture of waves, the same on every machine."""
    y, x = np.mgrid[:height, :width]
    return np.stack([(x * y // 7 + x) % 256, (3 * x + y * y // 50) % 256, (x + y) % 200], axis=2).astype(np.uint8)


SIZES = st.one_of(
    st.tuples(st.integers(5, 70), st.integers(5, 70)),
    st.sampled_from([(500, 5), (5, 512), (64, 64), (128, 129), (129, 128), (257, 60), (60, 385), (384, 9), (256, 12)]),
)


@given(st.integers(0, 2**32 - 1), SIZES, st.sampled_from([noise, draw]))
@settings(deadline=None, max_examples=40)
def test_every_bit_is_that_of_the_definition(seed, size, picture):
    drawn = picture(seed, size)
    assert hash_and_quality(drawn) == expected(drawn)


@pytest.mark.parametrize("size", [(512, 512), (300, 400)])
def test_a_picture_as_it_is_stored(size):
    # Without symmetry, rounding of the transform decides nothing.
    frequencies, quality = transcribed(noise(1, size))
    assert hash_and_quality(noise(1, size)) == (hashed(frequencies), quality)


@pytest.mark.parametrize(
    ("size", "stated"),
    [
        ((512, 512), ("87d5a7df2fffafffafb8be88f8a2f88af8a0f888f0b0f2a0f00af0a050085080", 100)),
        ((300, 200), ("bf3fead8c0389dddb59de07aca80153fbfd5b795612a606aeac0cac4ca80ca80", 100)),
        ((64, 64), ("ad554b509a9536aa2565cb4a96556e95ddad236ac4d539b24665a88b5753a8ae", 91)),
        ((97, 411), ("394e314ce3cce3598f590f132e523a16fa56ea54e2d403f40af42af4ffa4fa80", 100)),
        # Shrunk to 512 × 398 first.
        ((900, 700), ("ffbf5557012b5555555555575555555547553e5510bb415544d700011015fffb", 100)),
    ],
)
def test_hashes_are_those_of_the_reference(size, stated):
    # Computed by ThreatExchange's pdqhashing (Python), whose filters are in float64.
    assert hash_and_quality(Image.fromarray(pattern(*size))) == stated


@pytest.mark.parametrize("level", [0, 1, 127, 255])
@pytest.mark.parametrize("size", [(5, 5), (64, 64), (300, 200), (512, 512)])
def test_a_blank_picture_has_no_bits_and_no_quality(level, size):
    blank = Image.new("RGB", size, (level, level, level))
    assert hash_and_quality(blank) == ("0" * 64, 0)


def test_a_symmetric_picture_has_no_bits_that_rounding_decides():
    half = pattern(32, 64)
    mirrored = Image.fromarray(np.concatenate([half, half[:, ::-1]], axis=1))
    assert hash_and_quality(mirrored) == expected(mirrored)
    # Every second frequency along the rows is zero, as is the median of all.
    digits = int(hash_and_quality(mirrored)[0], 16)
    assert not any(digits >> (16 * i + j) & 1 for i in range(16) for j in range(0, 16, 2))


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (4, 4), (512, 4), (2000, 8)])
def test_a_picture_that_is_too_small_has_none(size):
    assert hash_and_quality(noise(0, size)) == ("0" * 64, 0)


def test_a_large_picture_is_shrunk_first_and_left_as_it_is():
    large = noise(3, (900, 700))
    small = large.copy()
    small.thumbnail((512, 512))
    assert small.size == (512, 398)
    assert hash_and_quality(large) == hash_and_quality(small)
    assert large.size == (900, 700)


def test_quality_tells_pictures_with_detail_from_those_without():
    assert hash_and_quality(noise(0, (64, 64)))[1] == 100
    shades = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (256, 256, 3))
    assert hash_and_quality(Image.fromarray(shades.copy()))[1] < 50


def prepared(folder: Path, *select: dict[str, object]) -> Prepared:
    (folder / "list.csv").write_text("url,caption\nhttp://x/1.jpg,a\n")
    content = {"version": 1, "source": {"paths": [str(folder / "list.csv")]}, "output": str(folder / "run")}
    return prepare(parse({**content, "select": list(select)}), probe=False)


@pytest.mark.parametrize("where", ["pdq_quality < 50", "PDQ is null"])
def test_only_a_run_whose_steps_read_its_columns_computes_them(where, tmp_path):
    plain = prepared(tmp_path, {"drop": "small", "where": "width < 9"})
    asking = prepared(tmp_path, {"drop": "poor", "where": where})
    assert not plain.pixels
    assert not {"pdq", "pdq_quality"} & set(plain.columns.types())
    assert {"pdq": pa.string(), "pdq_quality": pa.int32()}.items() <= asking.columns.types().items()
    (scorer,) = asking.pixels
    data = encode(draw(1, (90, 90)), "PNG")
    opened_scorer = opened(scorer.name, json.loads(json.dumps(scorer.settings())))
    assert Prepare([], [], False, True, [opened_scorer])(data).values == [hash_and_quality(draw(1, (90, 90)))]
    # No other pass is computed anew for them, but those that follow.
    one, other = (lay_out(prepared, 1, 1).passes for prepared in (plain, asking))
    differing = {name for name in other if name not in one or one[name].folder.path != other[name].folder.path}
    assert differing == {"pixels-pdq", "select", "pack", "report"}


def test_a_step_by_pdq_computes_the_hashes_that_its_search_reads(tmp_path):
    asking = prepared(tmp_path, {"drop": "near", "duplicates": {"by": "pdq", "within": 20}})
    assert [scorer.name for scorer in asking.pixels] == ["pdq"]
    layout = lay_out(asking, 1, 1)
    assert {"fetch", "pixels-pdq"} <= layout.inputs("nodes-pdq").folders.keys()


def test_a_misspelt_column_is_one_line_that_names_it(tmp_path):
    with pytest.raises(RecipeError, match=r"'pdq_qality'.*'pdq_quality'"):
        prepared(tmp_path, {"drop": "poor", "where": "pdq_qality < 50"})


def test_kinds_without_keys_are_no_section_of_a_recipe(tmp_path):
    content = {"version": 1, "source": {"paths": ["x"]}, "output": str(tmp_path)}
    with pytest.raises(RecipeError, match=r"unknown key 'pixels\.pdq'"):
        parse({**content, "pixels": {"pdq": {"a": {}}}})
    assert [scorer.name for scorer in scorers(parse(content).pixels)] == ["pdq"]
