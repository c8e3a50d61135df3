"""Processes die in the middle; no task is lost and no pod is made twice."""

from __future__ import annotations

from collections import Counter
from typing import Any
from urllib.parse import urlencode

import pytest

from demo.stack import NAMESPACE
from tests.end_to_end.stack_rig import Run, StackRig

pytestmark = pytest.mark.timeout(600)

COUNT = 5


def test_launcher_killed_in_the_middle_of_a_batch(rig: StackRig) -> None:
    # Slow creation, so that the kill finds launches which are claimed and have no pod, and requests on their way.
    rig.cluster.faults({"verbs": ["create"], "resource": "pods", "name_prefix": "spread-work", "latency_s": 4.0})
    run = rig.trigger("spread", count=COUNT)
    rig.until("launches are claimed", lambda: _held(run, "work"))
    victim = rig.launcher_of(_held(run, "work")[0])
    rig.stack.processes.kill(victim)
    rig.cluster.faults()
    assert run.finish() == "success"
    run.settle()
    assert run.pods_made() == _one_pod_each()
    assert victim not in rig.stack.launchers


def test_watcher_killed_while_pods_end(rig: StackRig) -> None:
    run = rig.trigger("spread", count=COUNT, seconds=4.0, dies=3)
    rig.until("tasks run", lambda: _running(run) >= 3)
    rig.stack.processes.kill("watcher.1")
    rig.until("pods have ended", lambda: sum(_ended(pod) for pod in rig.pods()) >= COUNT // 2)
    rig.stack.start_watcher("watcher.1")
    assert run.finish() == "success"
    run.settle()
    # The task whose process died without a report: only the new watcher's first list could show it.
    assert {task.label: task.try_number for task in run.tasks() if task.try_number > 1} == {"work[3]": 2}
    assert run.pods_made() == _one_pod_each() + Counter({("work[3]", 2): 1})


def test_pod_deleted_while_its_task_runs(rig: StackRig) -> None:
    """Before the task has ended: after SIGTERM, Airflow's supervisor lets a task that runs its own code go on, and kills one
    that does not.
    """
    run = rig.trigger("spread", count=1, seconds=12.0)
    rig.until("the task's own code runs", lambda: _began(run, "work", 0))
    (launch,) = [launch for launch in run.launches() if launch.label == "work[0]"]
    rig.cluster.call("DELETE", f"/api/v1/namespaces/{NAMESPACE}/pods/{launch.pod}", {"gracePeriodSeconds": 1})
    rig.until("the event log has a row about the deletion", lambda: _rows(run, "pod failed"))
    (row,) = _rows(run, "pod failed")
    assert "PodDeleted" in row
    assert "deleted from outside, not by podrelay, at " in row
    assert " on node " in row
    assert run.finish() == "success"
    run.settle()
    assert {task.label: task.try_number for task in run.tasks() if task.try_number > 1} == {"work[0]": 2}


def _began(run: Run, task_id: str, map_index: int) -> list[Any]:
    """What the task's own code has written down; empty before it runs."""
    query = urlencode({"map_index": map_index, "xcom_key": "began"})
    path = f"/api/v2/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/{task_id}/xcomEntries?{query}"
    found: list[Any] = run.rig.api.get(path)["xcom_entries"]
    return found


def _rows(run: Run, event: str) -> list[str]:
    """The rows of this event in Airflow's event log of the run."""
    query = urlencode({"dag_id": run.dag_id, "run_id": run.run_id, "event": event})
    return [row["extra"] for row in run.rig.api.get(f"/api/v2/eventLogs?{query}")["event_logs"]]


def _one_pod_each() -> Counter[tuple[str, int]]:
    return Counter([("numbers", 1), *((f"work[{number}]", 1) for number in range(COUNT))])


def _held(run: Run, task: str) -> list[str]:
    """Launchers that hold a launch of this mapped task without a pod, once for each such launch."""
    held = [launch for launch in run.launches() if launch.t_claimed and not launch.t_created]
    return [launch.launcher for launch in held if launch.label.startswith(f"{task}[")]


def _running(run: Run) -> int:
    return sum(task.state == "running" for task in run.tasks())


def _ended(pod: dict[str, dict[str, str]]) -> bool:
    return pod["status"].get("phase") in ("Succeeded", "Failed")
