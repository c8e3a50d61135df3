"""The same key again: deferral, reschedule, retry, a clear while it runs (items 154 to 165). No row of the stock contract
names a launch; ours do, so that the outcome of an older launch never touches a newer one.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from airflow.executors import workloads
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from sqlalchemy import select
from sqlalchemy.orm import joinedload

from podrelay.executor import RedisKubernetesExecutor
from tests.harness.parity_rig import Rig
from tests.harness.redis_server import RedisServer
from tests.harness.task_instances import OWNER, make_task_instances, update
from tests.integration.parity.conftest import Rigs
from tests.integration.scheduling.conftest import Outside

both = pytest.mark.parametrize("which", ["podrelay", "stock"])


@both
def test_cleared_while_it_runs(rigs: Rigs, which: str) -> None:
    """RESTARTING, a new id at once, the same try (item 163): the pod's end is what lets the task run again."""
    rig = rigs(which)
    task, pod = rig.run()
    update(task.ti_id, id=uuid.uuid4(), state="restarting", external_executor_id=None)
    rig.quiet(lambda: task.key in rig.executor.running, 1.0)
    rig.end_pod(pod, exit_code=0)
    assert rig.event(task) == (TaskInstanceState.RESTARTING, None)


def test_a_pod_that_outlives_its_task_is_cleaned_up_at_once(ours: Rig) -> None:
    """The row says success seconds before the pod ends: it is still uploading its log."""
    task, pod = ours.run()
    update(task.ti_id, state="success")
    ours.quiet(lambda: ours.look(pod) is not None and task.key in ours.executor.running, 1.5)
    ours.end_pod(pod, exit_code=0)
    assert ours.event(task) == (TaskInstanceState.SUCCESS, None)
    ours.until(lambda: ours.look(pod) is None)


def test_a_retry_is_another_key(ours: Rig) -> None:
    first, pod = ours.run()
    update(
        first.ti_id, id=(again := uuid.uuid4()), state="queued", try_number=2, external_executor_id=str(uuid.uuid4())
    )
    second = ours.queue(str(again))
    assert second.key != first.key
    ours.executor.heartbeat()
    ours.pod(second, 1, phase="Running")
    update(str(again), state="running")
    ours.end_pod(pod, exit_code=1)
    ours.quiet(lambda: second.key in ours.executor.running and ours.executor.event_buffer == {})


RESUMES = 500
# Outcomes come up to 30 s late where triggers fire within 200 ms; here all of it a hundred times faster.
LATE_S = 0.3


def test_hundreds_of_resumes_whose_old_outcomes_come_late(
    airflow_db: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each task defers and is queued again at once, under the same key; the outcome of its first pod is still on its way."""
    with RedisServer(tmp_path) as server:
        monkeypatch.setenv("AIRFLOW__PODRELAY__REDIS_URL", server.url)
        monkeypatch.setenv("AIRFLOW__PODRELAY__RECONCILE_INTERVAL_S", "0.2")
        monkeypatch.setenv("AIRFLOW__CORE__PARALLELISM", str(2 * RESUMES))
        Resumes(Outside(server.url)).play()


class Resumes:
    """Many tasks that defer once; launchers and watcher are played by the scripts that they use."""

    def __init__(self, outside: Outside) -> None:
        self.outside = outside
        self.executor = RedisKubernetesExecutor()
        self.executor.job_id = OWNER
        self.executor.start()
        self.events: dict[Any, list[tuple[Any, Any]]] = {}
        self.begun = time.monotonic()

    def play(self) -> None:
        ti_ids = make_task_instances(RESUMES)
        first = self.run(ti_ids)
        self.change(ti_ids, state="queued", new_launch=True)
        second = self.run(ti_ids)
        assert len({*first, *second}) == 2 * RESUMES
        self.change(ti_ids, state="running")
        self.end_late(first)
        self.until(lambda: len(self.outside.cleanups()) == RESUMES)
        assert self.events == {}, "nothing was said about any of them"
        assert len(self.executor.running) == RESUMES
        self.change(ti_ids, state="success")
        for launch_id in second:
            self.outside.publish(launch_id, pod=f"pod-{launch_id}")
        self.until(lambda: not self.executor.running)
        assert set(self.events) == set(second.values())
        assert all(said == [(TaskInstanceState.SUCCESS, None)] for said in self.events.values())
        assert {self.outside.ledger(launch_id)["attempt"] for launch_id in second} == {"0"}, "launched once"
        self.executor.end()

    def run(self, ti_ids: list[str]) -> dict[str, Any]:
        """Queue all, hand them over, and let their pods start; the keys by launch id."""
        made = {}
        with create_session() as session:
            wanted = select(TaskInstance).where(TaskInstance.id.in_(map(uuid.UUID, ti_ids)))
            related = joinedload(TaskInstance.dag_run).joinedload(DagRun.dag_model), joinedload(TaskInstance.dag_model)
            for ti in session.scalars(wanted.options(*related)).unique():
                workload = workloads.ExecuteTask.make(ti)
                self.executor.queue_workload(workload, session)
                made[str(ti.external_executor_id)] = workload.key
        self.until(lambda: not self.executor.queued_tasks)
        for launch_id in made:
            self.outside.create(launch_id, f"pod-{launch_id}")
            self.outside.publish(launch_id, "started", pod=f"pod-{launch_id}")
        return made

    def end_late(self, launches: Iterable[str]) -> None:
        """The outcomes of these, in any order and late. Most pods end well; some are killed on their way out."""
        chance = random.Random(7)
        begun = time.monotonic()
        for at_s, launch_id in sorted((chance.uniform(0, LATE_S), launch_id) for launch_id in launches):
            while time.monotonic() - begun < at_s:
                self.beat()
            outcome = chance.choice(["succeeded", "succeeded", "failed"])
            self.outside.publish(launch_id, outcome, pod=f"pod-{launch_id}")

    def change(self, ti_ids: list[str], state: str, new_launch: bool = False) -> None:
        with create_session() as session:
            for ti in session.scalars(select(TaskInstance).where(TaskInstance.id.in_(map(uuid.UUID, ti_ids)))):
                ti.state = TaskInstanceState(state)
                if new_launch:
                    ti.external_executor_id = str(uuid.uuid4())

    def beat(self) -> None:
        """A heartbeat, and what the scheduler does with its events."""
        self.executor.heartbeat()
        for key, event in self.executor.get_event_buffer().items():
            self.events.setdefault(key, []).append(event)

    def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            assert time.monotonic() - self.begun < 90
            self.beat()
