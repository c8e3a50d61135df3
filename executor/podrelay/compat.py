"""The one place for differences between Airflow releases: 3.1 to 3.3, and what is announced for 3.4.

Used by the executor and the parts of a heartbeat. Where a function takes an executor, any object with the attributes of
Airflow's base class is accepted.
"""

from __future__ import annotations

import base64
import binascii
import inspect
import logging
from collections import deque
from typing import Any

import msgspec
from airflow.configuration import conf as airflow_conf
from airflow.executors import workloads
from airflow.executors.base_executor import BaseExecutor
from airflow.executors.executor_loader import ExecutorLoader
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskinstancekey import TaskInstanceKey
from airflow.providers.cncf.kubernetes.kube_config import KubeConfig

from podrelay import pod_command

log = logging.getLogger(__name__)

ExecuteTask = workloads.ExecuteTask
ExecuteCallback: Any = getattr(workloads, "ExecuteCallback", None)  # 3.2
TestConnection: Any = getattr(workloads, "TestConnection", None)  # 3.3


def kind_of(workload: Any) -> str | None:
    """The kind of a workload in messages; None for one that no pod can run."""
    if isinstance(workload, ExecuteTask):
        return "task"
    if ExecuteCallback is not None and isinstance(workload, ExecuteCallback):
        return "callback"
    if TestConnection is not None and isinstance(workload, TestConnection):
        return "connection_test"
    return None


def subject_of(workload: Any) -> str:
    """The id of the task instance, callback or connection test that the workload runs."""
    if isinstance(workload, ExecuteTask):
        return str(workload.ti.id)
    return str(workload.callback.id if hasattr(workload, "callback") else workload.connection_test_id)


def args_of(workload: Any) -> tuple[str, ...]:
    """The command line of the pod. It contains the token."""
    return pod_command.with_argument(workload.model_dump_json(), exit_code=not isinstance(workload, ExecuteTask))


def task_key(executor: Any, ti: Any) -> Any:
    """The key by which the scheduler knows a task instance; from 3.4 on the executor decides it."""
    get_task_key = getattr(executor, "get_task_key", None)
    return get_task_key(ti) if get_task_key else ti.key


def keys_are_ids(base: type[BaseExecutor]) -> bool:
    """Are the scheduler's keys the ids of task instances (3.4)? Before, they consist of dag, task, run, map index and try."""
    return hasattr(base, "get_task_key")


def workload_key(executor: Any, workload: Any) -> Any:
    """The key by which the scheduler expects events about a workload."""
    return task_key(executor, workload.ti) if isinstance(workload, ExecuteTask) else workload.key


def task_of(workload: Any) -> TaskInstanceKey | None:
    """Dag, task, run, map index and try of a task: they find its row even after clearing has changed its id."""
    ti = getattr(workload, "ti", None)
    if ti is None:
        return None
    return TaskInstanceKey(ti.dag_id, ti.task_id, ti.run_id, ti.try_number, ti.map_index)


def is_queued_by_nobody(ti: Any) -> bool:
    """Does the task instance lack the job id of a scheduler? The scheduler's own query leaves that column out, because it
    selects by it: a column that is not loaded is set, and loading it would cost a query for each task instance.
    """
    return vars(ti).get("queued_by_job_id", "not loaded") is None


def record_event(executor: Any, key: Any, state: Any, info: Any) -> None:
    """Send an event to the scheduler. Nothing else knows the format of events."""
    record = getattr(executor, "record_event", None)  # proposed for a later release, whose events have three parts
    if record is not None:
        record(key, state, info)
    else:
        executor.event_buffer[key] = (state, info)


def workload_types() -> frozenset[Any]:
    """The kinds of workload that pods can run, as 3.4 declares them; empty on releases that have flags instead."""
    known = getattr(workloads, "WorkloadType", None)
    names = ("EXECUTE_TASK", "EXECUTE_CALLBACK", "TEST_CONNECTION")
    return frozenset(getattr(known, name) for name in names if hasattr(known, name))


def only_current() -> tuple[Any, ...]:
    """Conditions that exclude the rows of earlier tries, which 3.4 keeps in the same table."""
    working_set = getattr(TaskInstance, "working_set", None)
    return () if working_set is None else (working_set.is_(True),)


def forget_queued(executor: Any, key: Any) -> None:
    """Remove a workload from the base class's queues."""
    for name in ("queued_tasks", "queued_callbacks", "queued_connection_tests"):
        getattr(executor, name, {}).pop(key, None)
    for queue in getattr(executor, "executor_queues", {}).values():  # 3.4: one dict per workload type
        queue.pop(key, None)


def queued(executor: Any, key: Any) -> bool:
    """Does the base class hold a workload with this key that has not been handed over yet?"""
    return any(key in getattr(executor, name, {}) for name in ("queued_tasks", "queued_callbacks")) or any(
        key in queue for queue in getattr(executor, "executor_queues", {}).values()
    )


def with_new_token(workload: Any, generator: Any) -> Any:
    """The same workload with a token that is valid from now on."""
    return workload.model_copy(update={"token": type(workload).generate_token(subject_of(workload), generator)})


def token_times(token: str) -> tuple[float, float]:
    """When a JWT expires, in seconds since the epoch, and how long it lives; 0 for what it does not say.

    The signature is not checked.
    """
    try:
        payload = token.split(".")[1]
        claims = msgspec.json.decode(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        end_s, begin_s = float(claims.get("exp", 0)), float(claims.get("iat", claims.get("nbf", 0)))
    except (IndexError, ValueError, binascii.Error, AttributeError, TypeError, msgspec.MsgspecError):
        return 0.0, 0.0
    return end_s, max(0.0, end_s - begin_s) if begin_s else 0.0


def coordinator_extra(queue: str | None) -> dict[str, Any]:
    """What the coordinator of this queue declares (3.3); an invalid declaration counts as none."""
    if not queue:
        return {}
    try:
        from airflow.sdk.exceptions import AirflowConfigException
        from airflow.sdk.execution_time.coordinator import get_coordinator_manager
    except ImportError:
        return {}
    try:
        return dict(get_coordinator_manager().extra_for_queue(queue) or {})
    except (AirflowConfigException, ValueError):
        log.warning("Coordinator of queue %s ignored: its [sdk] configuration is invalid", queue, exc_info=True)
        return {}


def is_executed_by_podrelay(ti: Any) -> bool:
    """Is this task's executor one of ours? False where that cannot be determined, as for the executors of a team."""
    try:
        name = ExecutorLoader.lookup_executor_name_by_str(ti.executor) if ti.executor else None
        cls = ExecutorLoader.import_executor_cls(name) if name else ExecutorLoader.import_default_executor_cls()
    except Exception:  # noqa: BLE001  a name that this machine's configuration does not have, or a class it cannot import
        return False
    return any(base.__module__ == "podrelay.executor" for base in cls[0].__mro__)


def executor_conf(executor: Any) -> Any:
    """The configuration of an executor: from 3.2 on the one of its team."""
    conf = getattr(executor, "conf", None)
    return conf if hasattr(conf, "getint") else airflow_conf


def kube_config(conf: Any) -> KubeConfig:
    """`[kubernetes_executor]` of an executor; providers before teams read the global configuration."""
    if "executor_conf" in inspect.signature(KubeConfig.__init__).parameters:
        return KubeConfig(executor_conf=conf)
    return KubeConfig()


class EventLogKeeper:
    """Signs event log rows, and holds references to the last ones.

    Airflow 3.3.2 saves them from a generator that releases each row before it is written, and then writes empty rows. Rows
    that are referenced here as well are written correctly.
    """

    def __init__(self) -> None:
        self._rows: deque[Any] = deque(maxlen=2000)

    def keep_newest(self, rows: Any, owner: str) -> None:
        """:param owner: what the user interface shows as the user; the base class has no argument for it."""
        if rows:
            rows[-1].owner = rows[-1].owner_display_name = owner
            self._rows.append(rows[-1])
