"""Airflow's executor base class as its main branch has it for 3.4, for tests on an older release, and our executor on it.

What differs from 3.3: a task's key is its instance's id; one queue per type of workload in place of three attributes; one
budget of slots for all of them; and a set of supported types in place of two flags. All else is the installed class.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any
from unittest import mock
from uuid import UUID

from airflow.executors import base_executor, workloads
from airflow.utils.state import TaskInstanceState

from tests.harness.parity_rig import PodrelayRig


class WorkloadType(str, Enum):
    EXECUTE_TASK = "ExecuteTask"
    EXECUTE_CALLBACK = "ExecuteCallback"
    TEST_CONNECTION = "TestConnection"


# Callbacks finish what is begun, a test of a connection is the first to wait.
_ORDER = (WorkloadType.EXECUTE_CALLBACK, WorkloadType.EXECUTE_TASK, WorkloadType.TEST_CONNECTION)


@dataclass(frozen=True)
class TaskInstanceUuid:
    id: UUID

    def __str__(self) -> str:
        return str(self.id)


class ComingBaseExecutor(base_executor.BaseExecutor):
    supported_workload_types: frozenset[WorkloadType] = frozenset({WorkloadType.EXECUTE_TASK})

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        del self.queued_tasks, self.queued_callbacks, self.queued_connection_tests
        self.executor_queues: dict[WorkloadType, dict[Any, Any]] = {kind: {} for kind in WorkloadType}

    def get_task_key(self, ti: Any) -> TaskInstanceUuid:
        return TaskInstanceUuid(UUID(str(ti.id)))

    def queue_workload(self, workload: Any, session: Any) -> None:
        kind = WorkloadType(type(workload).__name__)
        if kind not in self.supported_workload_types:
            raise NotImplementedError(f"{type(self).__name__} does not support {kind}")
        task = isinstance(workload, workloads.ExecuteTask)
        key = self.get_task_key(workload.ti) if task else workload.key
        self.executor_queues[kind][key] = workload

    def has_task(self, task_instance: Any) -> bool:
        key: Any = self.get_task_key(task_instance)
        return key in self.executor_queues[WorkloadType.EXECUTE_TASK] or key in self.running

    @property
    def slots_available(self) -> int:
        return self.parallelism - self.slots_occupied

    @property
    def slots_occupied(self) -> int:
        return len(self.running) + sum(map(len, self.executor_queues.values()))

    def heartbeat(self) -> None:
        self.trigger_workloads(self.parallelism - len(self.running))
        self.sync()

    def trigger_workloads(self, open_slots: int) -> None:
        ready = [workload for kind in _ORDER for workload in self._in_order(kind)][: max(0, open_slots)]
        if ready:
            self._process_workloads(ready)

    def _in_order(self, kind: WorkloadType) -> Sequence[Any]:
        queue = list(self.executor_queues[kind].values())
        if kind is WorkloadType.EXECUTE_TASK:
            queue.sort(key=lambda workload: -workload.ti.priority_weight)
        return queue

    def fail(self, key: Any, info: Any = None) -> None:
        if isinstance(key, TaskInstanceUuid):
            self.change_state(key, TaskInstanceState.FAILED, info)  # type: ignore[arg-type]
        else:
            super().fail(key, info)


def executor_class() -> Any:
    """Our executor, from its source, as it would be on an Airflow with that base class."""
    name = "podrelay.executor_on_3_4"
    if name not in sys.modules:
        found = importlib.util.find_spec("podrelay.executor")
        assert found is not None
        assert found.origin is not None
        spec = importlib.util.spec_from_file_location(name, found.origin)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        with (
            mock.patch.object(base_executor, "BaseExecutor", ComingBaseExecutor),
            mock.patch.object(workloads, "WorkloadType", WorkloadType, create=True),
        ):
            spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name].RedisKubernetesExecutor


class ComingRig(PodrelayRig):
    """Ours on that base class."""

    def start(self, job_id: int) -> Any:
        executor = executor_class()()
        executor.job_id = job_id
        executor.start()
        return executor

    def key_of(self, ti: Any) -> Any:
        return self.executor.get_task_key(ti)  # type: ignore[attr-defined]
