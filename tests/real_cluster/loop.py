"""One scheduler's executor, driven by a test, and the pods of its tasks. The test writes the statuses of the pods."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from airflow.utils.session import create_session

from podrelay.executor import RedisKubernetesExecutor
from podrelay.protocol import identifiers
from tests.harness.parity_rig import Task
from tests.harness.task_instances import make_task_instances, update, workload_of
from tests.real_cluster.server import LONG_S, Json, Server, running

OWNER = 61_000


class Loop:
    """One scheduler's executor and the pods of its tasks."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.executor = RedisKubernetesExecutor()
        self.executor.job_id = OWNER
        self.executor.start()

    def submit(self, count: int = 1, **values: Any) -> list[Task]:
        """Queued task instances, handed over by one heartbeat."""
        tasks = []
        for ti_id in make_task_instances(count, queued_by_job_id=OWNER, **values):
            workload = workload_of(ti_id, self.executor.jwt_generator)
            with create_session() as session:
                self.executor.queue_workload(workload, session)
            ti = workload.ti
            tasks.append(Task(ti_id, workload.key, str(ti.external_executor_id), ti.dag_id, ti.task_id))
        self.executor.heartbeat()
        return tasks

    def until(self, condition: Callable[[], Any], what: str = "") -> Any:
        """Send heartbeats until `condition` holds; returns its value."""
        end = time.monotonic() + LONG_S
        while not (value := condition()):
            assert time.monotonic() < end, f"not within {LONG_S:g} s: {what}"
            time.sleep(0.05)
            self.executor.heartbeat()
        return value

    def pods(self, task: Task) -> list[Json]:
        """The pods of this task, by attempt."""
        found = self.server.pods(f"?labelSelector={identifiers.LABEL_LAUNCH_ID}={task.launch_id}")
        return sorted(found, key=lambda pod: int(pod["metadata"]["labels"][identifiers.LABEL_ATTEMPT]))

    def pod(self, task: Task, number: int = 0) -> str:
        """The name of a pod of this task, once it exists."""
        found = self.until(lambda: self.pods(task)[number:], f"pod {number} of {task.key}")
        return str(found[0]["metadata"]["name"])

    def run(self, **values: Any) -> tuple[Task, str]:
        """One task that runs, in its pod and in the database; with the pod's name."""
        (task,) = self.submit(**values)
        name = self.pod(task)
        self.server.set_status(name, running())
        update(task.ti_id, state="running")
        return task, name

    def event(self, task: Task) -> tuple[str, str]:
        """The state and the message of the task's event, once the executor has it."""

        def found() -> Any:
            event = self.executor.event_buffer.get(task.key)
            return event if event and str(event[0]) != "queued" else None

        state, info = self.until(found, f"an event of {task.key}")
        assert task.key not in self.executor.running
        return str(state), str(info)
