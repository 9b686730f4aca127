"""Every error of Ray is the result of a unit: `died` where the start counts against it, `lost` where it does not."""

from typing import Any

import pytest
import ray
from ray import exceptions as failures
from ray.core.generated import common_pb2

from curate.engine import ray as engine
from curate.errors import DeviceLost

MESSAGES: Any = common_pb2  # generated, without types
ACTOR = b"\x01" * 16


def actor_died(message, **context):
    cause = MESSAGES.ActorDiedErrorContext(actor_id=ACTOR, error_message=message, **context)
    return failures.ActorDiedError(cause)


PREEMPTED = MESSAGES.NodeDeathInfo(reason=MESSAGES.NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED)

ERRORS = [
    (actor_died("The actor's process was ended. Some common causes include: many"), "died"),
    (actor_died("The actor died because its node has died. Node Id: 12"), "lost"),
    (actor_died("The node was drained.", node_death_info=PREEMPTED), "lost"),
    (failures.RayActorError(), "died"),
    (failures.ActorUnavailableError("RpcError: RPC Error message: Socket closed", ACTOR), "lost"),
    (failures.WorkerCrashedError(), "died"),
    (failures.OutOfMemoryError("1 worker(s) were killed\nObject store memory usage: [- objects 0"), "died"),
    (failures.NodeDiedError("The node is unreachable."), "lost"),
    (failures.RaySystemError("the raylet is gone", "Traceback: …"), "lost"),
    (failures.LocalRayletDiedError(), "lost"),
    (failures.ObjectLostError("0" * 56, None, ""), "lost"),
    (failures.OwnerDiedError("0" * 56, None, ""), "lost"),
    (failures.ObjectStoreFullError("full"), "lost"),
    (failures.OutOfDiskError("full"), "lost"),
    (failures.RpcError("unavailable"), "lost"),
    (failures.AuthenticationError("the token has expired"), "lost"),
    (failures.ActorUnschedulableError("its node is gone"), "lost"),
    (failures.TaskUnschedulableError("its node is gone"), "lost"),
    (failures.RuntimeEnvSetupError("no such package"), "lost"),
    (failures.TaskCancelledError(), "lost"),
    (failures.GetTimeoutError("late"), "lost"),
    (failures.PendingCallsLimitExceeded("many"), "died"),
]


def result_of(error, monkeypatch):
    def get(_reference):
        raise error

    monkeypatch.setattr(ray, "get", get)
    return engine._result(None, 7)


@pytest.mark.parametrize(("error", "status"), ERRORS, ids=[type(error).__name__ for error, _ in ERRORS])
def test_an_error_of_ray_is_a_result_of_one_line(error, status, monkeypatch):
    result = result_of(error, monkeypatch)
    assert (result.unit, result.status) == (7, status)
    assert result.error
    assert "\n" not in result.error
    assert len(result.error) <= 300
    assert not any(end in result.error for end in ("Some common causes", "Object store memory"))


def test_a_worker_whose_gpu_failed_has_died(monkeypatch):
    """It leaves the worker as an exception of a task, in a class that Ray makes for it."""
    raised = failures.RayTaskError("run", "Traceback: …", DeviceLost("the GPU failed"))
    result = result_of(raised.as_instanceof_cause(), monkeypatch)
    assert (result.status, result.error) == ("died", "DeviceLost: the GPU failed")


def test_each_row_of_the_table_is_provoked_above():
    provoked = {kind for error, _ in ERRORS for kind in type(error).__mro__} | {failures.RayTaskError}
    assert set(engine.OUTCOMES) <= provoked


def test_errors_that_a_later_ray_adds_have_an_outcome(monkeypatch):
    class Added(failures.RayError):
        pass

    assert result_of(Added("new"), monkeypatch).status == "died"
