"""The differences between Airflow releases that podrelay meets, all in one place (3.1 to 3.3, and what 3.4 announces)."""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING, Any

from airflow.executors import workloads
from airflow.executors.base_executor import BaseExecutor

if TYPE_CHECKING:
    from airflow.models.taskinstance import TaskInstance

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


def task_key(executor: BaseExecutor, ti: TaskInstance) -> Any:
    """The key under which the scheduler knows a task instance; from 3.4 on the executor is asked for it."""
    get_task_key = getattr(executor, "get_task_key", None)
    return get_task_key(ti) if get_task_key else ti.key


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
