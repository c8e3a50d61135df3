"""A scheduler reduced to what an executor sees of it: queue, heartbeat, events, adoption; the last two are Airflow's code.

One process of the harness; killed and started again like any other. It records its state in a JSON file.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections import deque
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

_TURN_S = 0.1
_ADOPT_EVERY_S = 2.0
_UNSTICK_EVERY_S = 1.0
_SLOW_S = 0.25
_QUEUED_AT_ONCE = 32


class Stalls:
    """When this process got no processor although it wanted one: a busy machine is not the executor's fault."""

    def __init__(self) -> None:
        self._late: deque[tuple[float, float]] = deque(maxlen=1000)
        threading.Thread(target=self._look, daemon=True).start()

    def during(self, began_s: float, ended_s: float) -> float:
        return sum(late for at, late in list(self._late) if began_s < at < ended_s + 0.1)

    def _look(self) -> None:
        while True:
            due_s = time.monotonic() + 0.02
            time.sleep(0.02)
            now_s = time.monotonic()
            if now_s - due_s > 0.02:
                self._late.append((now_s, now_s - due_s))


class Driver:
    """Takes tasks in SCHEDULED from the database, as many as there are free slots."""

    def __init__(self, status: Path) -> None:
        from airflow.jobs.job import Job, JobState
        from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
        from airflow.models.dagbag import DBDagBag
        from airflow.utils.session import create_session

        from podrelay.executor import RedisKubernetesExecutor

        self._status = status
        self._stalls = Stalls()
        self._beats: list[tuple[float, float]] = []
        self.executor = RedisKubernetesExecutor()
        with create_session() as session:
            job = Job(state=JobState.RUNNING, latest_heartbeat=datetime.now(timezone.utc))
            job.job_type = "SchedulerJob"
            session.add(job)
            session.flush()
            self.job_id = int(job.id)
        self._runner = SchedulerJobRunner(job=job, executors=[self.executor])
        self._bag = DBDagBag()
        self.executor.job_id = self.job_id
        self.executor.start()
        self._adopted_s = self._unstuck_s = 0.0
        # The longest time for which tasks past the queue timeout held the loop.
        self._stuck_s = 0.0

    def run(self) -> None:
        while os.getppid() != 1:
            began_s = time.monotonic()
            self._turn()
            time.sleep(max(0.01, _TURN_S - (time.monotonic() - began_s)))

    def _turn(self) -> None:
        from airflow.utils.session import create_session

        self._live()
        if time.monotonic() - self._adopted_s > _ADOPT_EVERY_S:
            self._adopted_s = time.monotonic()
            with create_session() as session:
                self._runner.adopt_or_reset_orphaned_tasks(session=session)
        if time.monotonic() - self._unstuck_s > _UNSTICK_EVERY_S:
            self._unstuck_s = time.monotonic()
            self._unstick()
        self._queue()
        began_s = time.monotonic()
        self.executor.heartbeat()
        ended_s = time.monotonic()
        took_s = max(0.0, ended_s - began_s - self._stalls.during(began_s, ended_s))
        if took_s > _SLOW_S:
            self._beats.append((time.time(), took_s))
        with create_session() as session:
            self._runner.process_executor_events(self.executor, self.job_id, self._bag, session)
        self._report()

    def _unstick(self) -> None:
        """Airflow's own look for tasks past the queue timeout; only the executor's part of its time counts."""
        from airflow.utils.session import create_session

        revoke, spent_s = self.executor.revoke_task, 0.0

        def timed(**words: Any) -> None:
            nonlocal spent_s
            began_s = time.monotonic()
            revoke(**words)
            spent_s += time.monotonic() - began_s

        self.executor.revoke_task = timed  # type: ignore[method-assign]
        try:
            with create_session() as session:
                self._runner._handle_tasks_stuck_in_queued(session=session)
        finally:
            del self.executor.revoke_task
        self._stuck_s = max(self._stuck_s, spent_s)

    def _live(self) -> None:
        from airflow.jobs.job import Job
        from airflow.utils.session import create_session

        with create_session() as session:
            job = session.get(Job, self.job_id)
            if job is not None:
                job.latest_heartbeat = datetime.now(timezone.utc)

    def _queue(self) -> None:
        from airflow.executors import workloads
        from airflow.models.dagrun import DagRun
        from airflow.models.taskinstance import TaskInstance
        from airflow.utils.session import create_session
        from airflow.utils.state import TaskInstanceState
        from sqlalchemy import select
        from sqlalchemy.orm import joinedload

        free = min(self.executor.slots_available, _QUEUED_AT_ONCE)
        if free <= 0:
            return
        with create_session() as session:
            found = session.scalars(
                select(TaskInstance)
                .where(TaskInstance.state == TaskInstanceState.SCHEDULED)
                .order_by(TaskInstance.id)
                .limit(free)
                .options(
                    joinedload(TaskInstance.dag_run).joinedload(DagRun.dag_model), joinedload(TaskInstance.dag_model)
                )
                .with_for_update(of=TaskInstance, skip_locked=True)
            ).unique()
            for ti in found.all():
                ti.state = TaskInstanceState.QUEUED
                ti.queued_dttm = datetime.now(timezone.utc)
                ti.queued_by_job_id = self.job_id
                ti.external_executor_id = str(uuid.uuid4())
                session.flush()
                workload = workloads.ExecuteTask.make(ti, generator=self.executor.jwt_generator)
                self.executor.queue_workload(workload, session)

    def _report(self) -> None:
        record: dict[str, Any] = {
            "job_id": self.job_id,
            "at_s": time.time(),
            "running": [str(key) for key in list(self.executor.running)[:5]],
            "slots": self.executor.slots_occupied,
            "launches": len(self.executor.launches),
            "stuck_s": self._stuck_s,
            "beats": self._beats[-50:],
        }
        new = self._status.with_suffix(".new")
        new.write_text(json.dumps(record))
        new.replace(self._status)
