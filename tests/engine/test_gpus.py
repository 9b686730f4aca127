"""The GPUs of a machine, and which of them a worker of the local engine gets."""

import dataclasses
from types import SimpleNamespace

import pytest
from helpers.works import Silent, single

from curate.engine import gpus, local
from curate.engine.local import LocalEngine
from curate.errors import UsageError
from curate.runs.booking import Booking
from curate.runs.driver import drive
from curate.store import Store


@pytest.mark.parametrize(
    ("value", "names"),
    [("0,1", ["0", "1"]), ("", []), ("-1", []), ("3, GPU-8f", ["3", "GPU-8f"]), ("2,-1,3", ["2"])],
)
def test_the_environment_chooses_the_gpus(value, names, monkeypatch):
    monkeypatch.setenv(gpus.VARIABLE, value)
    assert gpus.visible() == names


def test_the_driver_lists_the_gpus(tmp_path, monkeypatch):
    monkeypatch.delenv(gpus.VARIABLE, raising=False)
    monkeypatch.setattr(gpus, "_DRIVER", tmp_path)
    for bus in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / bus).mkdir()
    assert gpus.visible() == ["0", "1"]


@pytest.mark.parametrize(
    ("listed", "names"),
    [("GPU 0: NVIDIA L4 (UUID: GPU-1)\nGPU 1: NVIDIA L4 (UUID: GPU-2)\n", ["0", "1"]), ("No devices were found\n", [])],
)
def test_nvidia_smi_lists_the_gpus(listed, names, tmp_path, monkeypatch):
    monkeypatch.delenv(gpus.VARIABLE, raising=False)
    monkeypatch.setattr(gpus, "_DRIVER", tmp_path / "none")
    monkeypatch.setattr("subprocess.run", lambda *_, **__: SimpleNamespace(stdout=listed))
    assert gpus.visible() == names


def test_a_machine_without_nvidia_smi_has_no_gpus(tmp_path, monkeypatch):
    monkeypatch.delenv(gpus.VARIABLE, raising=False)
    monkeypatch.setattr(gpus, "_DRIVER", tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus.visible() == []


@pytest.mark.parametrize(
    ("each", "shares"),
    [
        (1, ["a", "b", "c", "a"]),
        (2, ["a,b", "c,a", "b,c", "a,b"]),
        (0.5, ["a", "a", "b", "b"]),
        (0, [None] * 4),
    ],
)
def test_workers_get_gpus_in_turn(each, shares):
    assert [gpus.share(["a", "b", "c"], place, each) for place in range(4)] == shares


def test_without_gpus_the_environment_stays():
    assert gpus.share([], 0, 1) is None


def booked(store, opener, units, booking, processes=2, **settings):
    return dataclasses.replace(single(store, opener, units, **settings), processes=processes, booking=booking)


def test_each_worker_has_a_gpu_of_its_own_and_its_successor_gets_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "visible", lambda: ["4", "7", "9"])
    log = tmp_path / "log"
    # None: one, as there are any. Unit 2 kills its worker twice.
    work = booked(Store(str(tmp_path / "run")), "shows_gpu", range(6), Booking(gpus=None), log=str(log), die=[2])
    engine = LocalEngine()
    assert sorted(drive([work], engine, Silent())["out"]) == [2]
    engine.close()
    shown = dict(line.split() for line in log.read_text().splitlines())
    assert len(shown) > 2, "a worker that died was replaced"
    # The third GPU would be that of a third worker beside these two.
    assert set(shown.values()) == {"4", "7"}


def test_more_gpus_than_the_machine_has_are_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "visible", lambda: ["0"])
    work = booked(Store(str(tmp_path)), "double", range(2), Booking(gpus=8.0, section="workers.embed"))
    with pytest.raises(UsageError, match=r"workers\.embed\.gpus: each worker gets 8 GPUs, .* has 1 NVIDIA GPU$"):
        drive([work], LocalEngine(), Silent())
