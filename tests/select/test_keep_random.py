"""`keep_random` against its definition in plain Python."""

import dataclasses
import hashlib
from pathlib import Path

import pytest
from helpers.select_run import Image, Row, run_select, step, write_inputs
from hypothesis import given
from hypothesis import strategies as st

from curate.select.database import connect
from curate.select.steps.contract import RowWise
from curate.select.steps.registry import read


def stays(pair_id: bytes, fraction: float, seed: int) -> bool:
    digest = hashlib.sha256(f"{seed}:{pair_id.hex()}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


@given(st.binary(min_size=16, max_size=16), st.floats(0, 1), st.integers(0, 2**63 - 1))
def test_the_draw_is_that_of_the_definition(pair_id, fraction, seed):
    (one,) = read([step("rest", keep_random={"fraction": fraction, "seed": seed})])
    assert isinstance(one.kind, RowWise)
    with connect() as con:
        query = f"SELECT NOT ({one.kind.condition(one)}) FROM (SELECT '{pair_id.hex()}' AS pair_id)"
        ((kept,),) = con.execute(query).fetchall()
    assert kept == stays(pair_id, fraction, seed)


@pytest.fixture(scope="module")
def decided(tmp_path_factory: pytest.TempPathFactory):
    """2,000 rows in two parts under draws of two sizes, and of two seeds."""
    rows = [Row(Image(f"http://a/{n}"), "a", part=n % 2) for n in range(2000)]
    inputs = write_inputs(tmp_path_factory.mktemp("drawn"), rows, 2)

    def run(root: Path, parts: list[int] | None = None, **keys):
        chosen = dataclasses.replace(inputs, parts=parts or inputs.parts)
        funnel, found, _ = run_select(chosen, [step("rest", keep_random=keys)], root)
        return funnel["steps"][-1], {row["pair_id"] for part in found.values() for row in part if row["kept"]}

    return run


def test_a_draw_is_near_its_fraction_and_a_smaller_one_is_part_of_it(decided, tmp_path: Path):
    facts, tenth = decided(tmp_path / "a", fraction=0.1)
    # Five standard deviations of a binomial distribution.
    assert abs(len(tenth) - 200) < 5 * (2000 * 0.1 * 0.9) ** 0.5
    assert (facts["dropped"], facts["would_drop"], facts["nulls"]) == (2000 - len(tenth), 2000 - len(tenth), 0)
    assert facts["says"] == "keeps a random draw of 10 % (seed 0)"
    assert facts["rule"] == "all but a random draw of 10 % (seed 0)"
    _, third = decided(tmp_path / "b", fraction=0.3)
    assert tenth < third
    _, other = decided(tmp_path / "c", fraction=0.3, seed=1)
    assert abs(len(third & other) - 180) < 5 * (2000 * 0.09 * 0.91) ** 0.5


def test_a_pair_is_drawn_whatever_else_there_is(decided, tmp_path: Path):
    _, whole = decided(tmp_path / "whole", fraction=0.2)
    halves = [decided(tmp_path / f"half{part}", [part], fraction=0.2)[1] for part in (0, 1)]
    assert halves[0] | halves[1] == whole
    assert all(halves)


def test_nothing_and_everything(decided, tmp_path: Path):
    assert decided(tmp_path / "none", fraction=0.0)[1] == set()
    assert len(decided(tmp_path / "all", fraction=1.0)[1]) == 2000
