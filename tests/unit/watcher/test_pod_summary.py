"""The pods of a table, by phase and by the reason for which they wait."""

from __future__ import annotations

from typing import Any

from podrelay.protocol.snapshots import WaitingPods
from podrelay_workers.watcher.pod_state import Rules
from podrelay_workers.watcher.pod_summary import PodSummary, summarize
from podrelay_workers.watcher.pod_table import PodTable

NOW_S = 1_800_000_000.0
RUNNING = {"running": {"startedAt": "2026-11-20T10:00:05Z"}}
UNSCHEDULED = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node fits"}]


def pod(name: str, phase: str, state: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    container = [{"name": "base", "state": state}] if state else []
    return {
        "metadata": {
            "name": name, "namespace": "n", "uid": f"u-{name}",
            "labels": {"podrelay/launch-id": f"l-{name}", "podrelay/attempt": "0"},
        },
        "spec": {"containers": [{"name": "base", "image": "i"}]},
        "status": {"phase": phase, "containerStatuses": container, **status},
    }  # fmt: skip


def pulling(name: str, reason: str = "ErrImagePull") -> dict[str, Any]:
    return pod(name, "Pending", {"waiting": {"reason": reason, "message": "no such image"}})


def test_pods_are_counted_by_phase_and_by_reason() -> None:
    table = PodTable(Rules())
    events = [
        (0.0, pod("new", "Pending")), (0.0, pod("runs", "Running", RUNNING)),
        (10.0, pod("waits-1", "Pending", conditions=UNSCHEDULED)), (5.0, pod("waits-2", "Pending", conditions=UNSCHEDULED)),
        (20.0, pulling("image")), (0.0, pulling("started")), (30.0, pod("started", "Running", RUNNING)),
        (0.0, pod("ended", "Succeeded", {"terminated": {"exitCode": 0, "reason": "Completed"}})),
    ]  # fmt: skip
    for clock_s, seen in events:
        table.observe("MODIFIED", seen, NOW_S, clock_s)
    assert summarize(table, NOW_S, 60.0) == PodSummary(
        starting=4, running=2, ending=1,
        waits=(
            WaitingPods("Unschedulable", 2, NOW_S - 55.0, "l-waits-2", "no node fits"),
            WaitingPods("ErrImagePull", 1, NOW_S - 40.0, "l-image", "no such image"),
        ),
    )  # fmt: skip


def test_a_pod_that_has_left_its_wait_waits_no_more() -> None:
    table = PodTable(Rules())
    table.observe("ADDED", pod("p", "Pending", conditions=UNSCHEDULED), NOW_S, 0.0)
    assert [wait.reason for wait in summarize(table, NOW_S, 1.0).waits] == ["Unschedulable"]
    scheduled = pod("p", "Pending")
    scheduled["spec"]["nodeName"] = "k"
    table.observe("MODIFIED", scheduled, NOW_S, 1.0)
    assert summarize(table, NOW_S, 1.0).waits == ()


def test_a_running_pod_on_a_lost_node_ends() -> None:
    table = PodTable(Rules())
    lost = pod("p", "Running", RUNNING)
    lost["metadata"]["deletionTimestamp"] = "2026-11-20T10:00:00Z"
    table.observe("ADDED", lost, NOW_S, 0.0)
    for entry, due in table.pop_due(60.0):
        table.record(entry, due.report, NOW_S, 60.0)
    found = summarize(table, NOW_S, 60.0)
    assert (found.running, found.ending) == (0, 1)
    assert [wait.reason for wait in found.waits] == ["NodeNotResponding"]
