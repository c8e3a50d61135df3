"""Why a pod ended and why a task still waits, as its user reads it in the task's event log. Ours only."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Any

import pytest
from kubernetes.client import models as k8s

from tests.harness.parity_rig import Rig, Task, _path
from tests.harness.task_instances import update
from tests.integration.parity.conftest import Rigs

Json = dict[str, Any]

HOLD = {"local-cluster/hold": "true"}
NEVER: Json = {"pod_launch_failure_retries": 0}


def override(**spec: Any) -> Json:
    pod = k8s.V1Pod(metadata=k8s.V1ObjectMeta(annotations=HOLD))
    if spec:
        pod.spec = k8s.V1PodSpec(containers=[k8s.V1Container(name="base")], **spec)
    return {"pod_override": pod}


# --- the end -------------------------------------------------------------------------------------------------------------
DISRUPTED = [{"type": "DisruptionTarget", "reason": "DeletionByPodGC", "message": "PodGC: node no longer exists"}]
ENDS: dict[str, tuple[Json, list[str]]] = {
    "OOMKilled": (
        {"exit_code": 137, "signal": 9, "reason": "OOMKilled"},
        ["because of OOMKilled", "main container base", "exit code 137", "class application"],
    ),
    "Evicted": (
        {"exit_code": 137, "pod_reason": "Evicted", "pod_message": "The node was low on resource: memory"},
        ["pod reason Evicted", "exit code 137", "class infrastructure", "The node was low on resource: memory"],
    ),
    "StartError": (
        {"exit_code": 128, "reason": "StartError", "message": "exec: no such file"},
        ["because of StartError", "exit code 128", "class configuration", "image apache/airflow:3.3.2", "no such file"],
    ),
    "exit 1": ({"exit_code": 1, "reason": "Error"}, ["because of Error", "exit code 1", "class application"]),
    "node deletion": (
        {"exit_code": 137, "conditions": DISRUPTED},
        ["pod reason DeletionByPodGC", "exit code 137", "class infrastructure", "node no longer exists"],
    ),
}


def failure(rig: Rig, task: Task) -> str:
    """The one row about the end of the task's pod."""
    rig.event(task)
    rows = [row for row in rig.event_log(task).split("\n") if row.startswith("pod failed: ")]
    assert len(rows) == 1
    return rows[0]


@pytest.mark.parametrize("end", ENDS)
def test_why_a_pod_ended(ours: Rig, end: str) -> None:
    ending, words = ENDS[end]
    task, pod = ours.run()
    ours.end_pod(pod, **ending)
    log_text = failure(ours, task)
    for word in [*words, f"node {pod['spec']['nodeName']}", pod["metadata"]["name"]]:
        assert word in log_text


def test_that_a_pod_was_deleted_from_outside(ours: Rig) -> None:
    task, pod = ours.run()
    ours.delete_pod(pod)
    log_text = failure(ours, task)
    for word in ("PodDeleted", "class infrastructure", pod["metadata"]["name"]):
        assert word in log_text


KEPT = {"local-cluster/hold-deletion": "true"}


@pytest.mark.parametrize("end", ["deletion", "eviction"])
def test_that_a_task_was_interrupted_although_its_pod_ended_well(ours: Rig, end: str) -> None:
    """Airflow's supervisor ends with exit code 0 after SIGTERM, and the row holds the state that it reported."""
    pod_override = k8s.V1Pod(metadata=k8s.V1ObjectMeta(annotations=KEPT))
    task, pod = ours.run(executor_config={"pod_override": pod_override})
    ours.cluster.call("DELETE", _path(pod), {"gracePeriodSeconds": 30})
    now = datetime.now(timezone.utc)
    update(task.ti_id, state="failed")
    evicted = {"type": "DisruptionTarget", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting"}
    ours.end_pod(pod, exit_code=0, conditions=[evicted] if end == "eviction" else [])
    text = failure(ours, task)
    reason = "PodDeleted" if end == "deletion" else "EvictionByEvictionAPI"
    node = pod["spec"]["nodeName"]
    for word in (
        f"because of {reason}",
        "deleted from outside, not by podrelay",
        f"at {now:%Y-%m-%d %H:}",
        f"on node {node}",
    ):
        assert word in text
    ledger = ours.executor._breaker._client.hgetall(f"podrelay:default:launch:{task.launch_id}")  # type: ignore[attr-defined]
    assert (ledger[b"outcome"], ledger[b"reason"]) == (b"failed", reason.encode())
    assert b"not by podrelay" in ledger[b"message"]


def test_that_a_waiting_pod_was_deleted_and_replaced(ours: Rig) -> None:
    task = ours.submit(executor_config=override())
    pod = ours.pod(task, phase="Pending")
    ours.delete_pod(pod)
    ours.until(lambda: len(ours.creates(task)) == 2)
    assert "pod replaced: Pod failed because of PodDeleted" in ours.event_log(task)
    assert "from outside, not by podrelay" in ours.event_log(task)


def test_that_podrelay_itself_deleted_a_pod_is_not_reported(ours: Rig) -> None:
    """A task that is cleared or marked while it runs: its pod is revoked."""
    task, pod = ours.run()
    update(task.ti_id, state="success", external_executor_id=None, queued_by_job_id=None)
    ours.end_pod(pod, exit_code=0)
    ours.until(lambda: ours.look(pod) is None, "the pod is cleaned up")
    waiting = ours.submit(executor_config=override())
    second = ours.pod(waiting, phase="Pending")
    update(waiting.ti_id, state=None)
    ours.until(lambda: ours.look(second) is None, "the pod is revoked")
    ours.quiet(lambda: "from outside" not in ours.event_log(task) + ours.event_log(waiting))


def test_that_the_policy_forbids_a_pod(ours: Rig) -> None:
    task = ours.submit(executor_config=override(host_pid=True))
    assert failure(ours, task) == "pod failed: [podrelay] pod_policy forbids this pod: host_pid: spec.hostPID is true"
    ours.quiet(lambda: not ours.creates(task))


def test_that_an_init_container_failed(rigs: Rigs) -> None:
    rig = rigs("podrelay", **NEVER)
    init = [k8s.V1Container(name="git-sync", image="git:1")]
    task = rig.submit(executor_config=override(init_containers=init))
    pod = rig.pod(task, phase="Pending")
    state = {"terminated": {"exitCode": 2, "reason": "Error", "message": "no such ref"}}
    status = {
        "phase": "Failed",
        "initContainerStatuses": [{"name": "git-sync", "image": "git:1", "imageID": "", "restartCount": 0, "ready": False,
                                   "state": state}],
        "containerStatuses": [{"name": "base", "image": "x", "imageID": "", "restartCount": 0, "ready": False,
                               "state": {"waiting": {"reason": "PodInitializing"}}}],
    }  # fmt: skip
    rig.patch(pod, {"status": status}, "/status")
    log_text = failure(rig, task)
    for word in ("init container git-sync", "exit code 2", "image git:1", "class configuration", "no such ref"):
        assert word in log_text


# --- the wait ------------------------------------------------------------------------------------------------------------
# Within this time a user reads why the task waits.
SOON_S = 15.0


def why(rig: Rig, task: Task, *words: str) -> None:
    """One row says it soon, with launch and pod, and does not come again at once."""
    began = time.monotonic()
    rig.until(lambda: all(word in rig.event_log(task) for word in words), f"{words} in the event log", SOON_S)
    assert time.monotonic() - began < SOON_S
    rig.quiet(lambda: True)
    reason, where = rig.event_log(task).split("\n")
    assert reason.startswith("pod pending: ")
    pods = [f"pod {pod['metadata']['namespace']}/{pod['metadata']['name']}" for pod in rig.pods(task)]
    assert where == f"Launch {task.launch_id}, attempt 0, {(pods or ['no pod'])[0]}"


def test_that_no_node_fits(ours: Rig) -> None:
    task = ours.submit(executor_config=override(node_selector={"gpu": "none-has-it"}))
    why(ours, task, "Unschedulable", "nodes are available")


def test_that_a_secret_is_missing(ours: Rig) -> None:
    task = ours.submit(executor_config=override())
    pod = ours.pod(task, phase="Pending")
    state = {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "db" not found'}}
    base = {"name": "base", "image": "x", "imageID": "", "restartCount": 0, "ready": False, "state": state}
    ours.patch(pod, {"status": {"containerStatuses": [base]}}, "/status")
    why(ours, task, "CreateContainerConfigError", 'secret "db" not found')


def test_that_the_quota_is_used_up(ours: Rig) -> None:
    ours.cluster.faults(quota={"other": 0})
    other = override()
    other["pod_override"].metadata.namespace = "other"
    task = ours.submit(executor_config=other)
    why(ours, task, "QuotaExceeded", "exceeded quota")


def test_that_the_api_server_throttles(ours: Rig) -> None:
    ours.cluster.faults({"verbs": ["create"], "resource": "pods", "status": 429, "retry_after_s": 6})
    task = ours.submit()
    why(ours, task, "Throttled")


# --- the times -----------------------------------------------------------------------------------------------------------
def test_all_times_of_a_launch(ours: Rig) -> None:
    """From the hand-over to the acknowledgement, in order, and as `airflow podrelay status --launch` shows them."""
    from podrelay.cli.launch_text import render_launch
    from podrelay.cli.status import describe_launch
    from podrelay.protocol.lifecycle import STEPS, durations_s

    task, pod = ours.run()
    ours.end_pod(pod, exit_code=1)
    ours.event(task)
    for which in (task.launch_id, pod["metadata"]["name"]):
        launch = describe_launch(which, time.time())
        assert launch is not None
        entry = launch.entry
        assert entry["state"] == "acknowledged"
        assert [step for step, _ in durations_s(entry)] == list(STEPS[1:])
    # Kubernetes' own times are whole seconds.
    times = [float(entry[f"t_{step}"]) for step in STEPS]
    assert all(later >= earlier - 1.0 for earlier, later in zip(times, times[1:], strict=False))
    assert launch is not None
    lines = render_launch(launch, time.time()).splitlines()
    assert [line.split()[0] for line in lines if line.split()[:1] and line.split()[0] in STEPS] == list(STEPS)
