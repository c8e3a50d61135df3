"""The differences between Airflow releases that podrelay meets, all in one place (3.1 to 3.3, and what 3.4 announces)."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from airflow.executors import workloads
from airflow.executors.base_executor import BaseExecutor
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskinstancekey import TaskInstanceKey

ExecuteTask = workloads.ExecuteTask
ExecuteCallback: Any = getattr(workloads, "ExecuteCallback", None)  # 3.2
TestConnection: Any = getattr(workloads, "TestConnection", None)  # 3.3

# The module that a pod runs. Its exit code says nothing of a callback's success, so those get a line of their own.
_EXECUTE = ("python", "-m", "airflow.sdk.execution_time.execute_workload", "--json-string")
_EXECUTE_WITH_EXIT_CODE = (
    "python",
    "-c",
    "import sys; from pydantic import TypeAdapter; from airflow.executors import workloads; "
    "from airflow.executors.base_executor import BaseExecutor; "
    "sys.exit(BaseExecutor.run_workload(TypeAdapter(workloads.All).validate_json(sys.argv[1]), "
    "subprocess_logs_to_stdout=True))",
)


def kind_of(workload: Any) -> str | None:
    """The wire's kind of a workload, or None for one that no pod can run."""
    if isinstance(workload, ExecuteTask):
        return "task"
    if ExecuteCallback is not None and isinstance(workload, ExecuteCallback):
        return "callback"
    if TestConnection is not None and isinstance(workload, TestConnection):
        return "connection_test"
    return None


def subject_of(workload: Any) -> str:
    """The id of what the workload is about: task instance, callback or connection test."""
    if isinstance(workload, ExecuteTask):
        return str(workload.ti.id)
    return str(workload.callback.id if hasattr(workload, "callback") else workload.connection_test_id)


def args_of(workload: Any) -> tuple[str, ...]:
    """Command line of the pod. It holds the token."""
    head = _EXECUTE if isinstance(workload, ExecuteTask) else _EXECUTE_WITH_EXIT_CODE
    return (*head, workload.model_dump_json())


def task_key(executor: BaseExecutor, ti: Any) -> Any:
    """The key under which the scheduler knows a task instance; from 3.4 on the executor is asked for it."""
    get_task_key = getattr(executor, "get_task_key", None)
    return get_task_key(ti) if get_task_key else ti.key


def keys_are_ids(base: type[BaseExecutor]) -> bool:
    """Does the scheduler know a task by its instance's id (3.4), or by dag, task, run, map index and try?"""
    return hasattr(base, "get_task_key")


def workload_key(executor: BaseExecutor, workload: Any) -> Any:
    """The key under which the scheduler waits for news of a workload."""
    return task_key(executor, workload.ti) if isinstance(workload, ExecuteTask) else workload.key


def task_of(workload: Any) -> TaskInstanceKey | None:
    """Dag, task, run, map index and try of a task; its row is found by them even after clearing gave it another id."""
    ti = getattr(workload, "ti", None)
    if ti is None:
        return None
    return TaskInstanceKey(ti.dag_id, ti.task_id, ti.run_id, ti.try_number, ti.map_index)


def record_event(executor: BaseExecutor, key: Any, state: Any, info: Any) -> None:
    """Tell the scheduler; the one place that knows what an event looks like."""
    record = getattr(executor, "record_event", None)  # proposed for a later release: events of three parts
    if record is not None:
        record(key, state, info)
    else:
        executor.event_buffer[key] = (state, info)


def workload_types() -> frozenset[Any]:
    """The kinds of workload that pods can run, as 3.4 wants them declared; empty on releases that have flags instead."""
    known = getattr(workloads, "WorkloadType", None)
    names = ("EXECUTE_TASK", "EXECUTE_CALLBACK", "TEST_CONNECTION")
    return frozenset(getattr(known, name) for name in names if hasattr(known, name))


def only_current() -> tuple[Any, ...]:
    """Conditions that leave out the rows of earlier tries, which 3.4 keeps in the same table."""
    working_set = getattr(TaskInstance, "working_set", None)
    return () if working_set is None else (working_set.is_(True),)


def forget_queued(executor: BaseExecutor, key: Any) -> None:
    """Remove a workload from whatever the base class queues it in."""
    for name in ("queued_tasks", "queued_callbacks", "queued_connection_tests"):
        getattr(executor, name, {}).pop(key, None)
    for queue in getattr(executor, "executor_queues", {}).values():  # 3.4: one dict per workload type
        queue.pop(key, None)


def queued(executor: BaseExecutor, key: Any) -> bool:
    """Does the base class hold a workload of this key that is not handed over yet?"""
    return any(key in getattr(executor, name, {}) for name in ("queued_tasks", "queued_callbacks")) or any(
        key in queue for queue in getattr(executor, "executor_queues", {}).values()
    )


def with_new_token(workload: Any, generator: Any) -> Any:
    """The same workload with a token that begins its life now."""
    return workload.model_copy(update={"token": type(workload).generate_token(subject_of(workload), generator)})


def token_end_s(token: str) -> float:
    """When a JWT ends, in seconds since the epoch; 0 for a token that does not say. The signature is not our business."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return float(claims.get("exp", 0))
    except (IndexError, ValueError, binascii.Error, AttributeError, TypeError):
        return 0.0
