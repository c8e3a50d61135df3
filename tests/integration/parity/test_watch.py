"""What becomes of a pod, and what the executor makes of it (items 76 to 95): ours beside the stock executor.

Where the two differ on purpose, the table gives both.
"""

from __future__ import annotations

from typing import Any

import pytest
from airflow.utils.state import TaskInstanceState
from kubernetes.client import models as k8s

from tests.harness.parity_rig import Rig
from tests.harness.task_instances import update
from tests.integration.parity.conftest import Rigs

both = pytest.mark.parametrize("which", ["podrelay", "stock"])

FAILED = TaskInstanceState.FAILED
HELD: dict[str, Any] = {
    "pod_override": k8s.V1Pod(metadata=k8s.V1ObjectMeta(annotations={"local-cluster/hold": "true"}))
}


def pending(rig: Rig, **values: Any) -> Any:
    """A task whose pod waits until the test says otherwise."""
    task = rig.submit(executor_config=HELD, **values)
    return task, rig.pod(task, phase="Pending")


# --- the end of a pod whose task runs (78, 82, 84) -----------------------------------------------------------------------
ENDS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "exit code": ({"exit_code": 1, "reason": "Error"}, ("Error", "base", "exit code 1")),
    "out of memory": (
        {"exit_code": 137, "signal": 9, "reason": "OOMKilled"},
        ("OOMKilled", "exit code 137", "signal 9"),
    ),
    "evicted": (
        {"exit_code": 137, "pod_reason": "Evicted", "pod_message": "the node was low on memory"},
        ("Evicted", "the node was low on memory", "node"),
    ),
    "provider failed": ({"phase": "Running", "pod_reason": "ProviderFailed", "pod_message": "no"}, ("ProviderFailed",)),
    "deadline": (
        {"exit_code": 143, "pod_reason": "DeadlineExceeded", "pod_message": "it took too long"},
        ("DeadlineExceeded", "it took too long"),
    ),
}


@both
@pytest.mark.parametrize("end", ENDS)
def test_a_failed_pod_fails_a_running_task(rigs: Rigs, which: str, end: str) -> None:
    ending, words = ENDS[end]
    rig = rigs(which)
    task, pod = rig.run()
    rig.end_pod(pod, **ending)
    state, info = rig.event(task)
    assert state == FAILED
    if which == "podrelay":
        for word in words:
            assert word in str(info), info
            assert word in rig.event_log(task), "the event log of the task says it too"


@both
def test_a_deleted_pod_fails_a_running_task(rigs: Rigs, which: str) -> None:
    rig = rigs(which)
    task, pod = rig.run()
    rig.delete_pod(pod)
    state, info = rig.event(task)
    assert state == FAILED
    if which == "podrelay":
        assert "PodDeleted" in str(info)


@both
def test_a_pod_that_is_gone_at_once_fails_a_running_task(rigs: Rigs, which: str) -> None:
    """Its last event has no time of deletion: the stock executor takes that for an adoption, and reports nothing."""
    rig = rigs(which)
    task, pod = rig.run()
    rig.cluster.vanish_pod("default", pod["metadata"]["name"])
    if which == "podrelay":
        assert rig.event(task)[0] == FAILED
    else:
        rig.until(lambda: task.key not in rig.executor.running)
        assert not rig.ended(task)


@both
def test_a_pod_deleted_while_nobody_watches_is_found(rigs: Rigs, which: str) -> None:
    """All watches end, the pod goes, and the versions before are forgotten (D-8): the stock executor never learns of it."""
    rig = rigs(which)
    task, pod = rig.run()
    name = pod["metadata"]["name"]
    silent = rig.cluster.add_fault(verbs=["watch"], resource="pods", status=503)
    rig.cluster.drop_streams()
    rig.cluster.vanish_pod("default", name)
    rig.cluster.compact()
    rig.cluster.remove_fault(silent)
    if which == "podrelay":
        assert rig.event(task)[0] == FAILED
    else:
        rig.quiet(lambda: task.key in rig.executor.running and not rig.ended(task), 3.0)


# --- a pod that ended well: the database says how its task ended (83, 94, 95) --------------------------------------------
@both
@pytest.mark.parametrize(
    "state", ["success", "failed", "up_for_retry", "deferred", "up_for_reschedule", "scheduled", None]
)
def test_a_pod_that_ended_well_reports_the_state_of_its_task(rigs: Rigs, which: str, state: str | None) -> None:
    rig = rigs(which)
    task, pod = rig.run()
    update(task.ti_id, state=state)
    rig.end_pod(pod, exit_code=0)
    rig.until(lambda: task.key not in rig.executor.running)
    assert rig.executor.event_buffer[task.key] == (None if state is None else TaskInstanceState(state), None)
    rig.until(lambda: rig.look(pod) is None, "the pod is deleted, whether its task failed or not")


@both
def test_a_pod_that_ended_well_beside_a_running_row_fails_nothing(rigs: Rigs, which: str) -> None:
    rig = rigs(which)
    task, pod = rig.run()
    rig.executor.get_event_buffer()
    rig.end_pod(pod, exit_code=0)
    rig.until(lambda: task.key not in rig.executor.running)
    event = rig.executor.event_buffer.get(task.key)
    # (RUNNING, None) would erase the launch id that the database holds.
    assert event == (None if which == "podrelay" else (TaskInstanceState.RUNNING, None))


def test_a_pod_that_ended_well_beside_its_running_task_fails_it(ours: Rig) -> None:
    """Where the row names the pod. The stock executor leaves the task to Airflow's heartbeat timeout, 300 s."""
    task, pod = ours.run()
    update(task.ti_id, hostname=ours.host(task, pod))
    ours.end_pod(pod, exit_code=0)
    state, info = ours.event(task, most_s=20.0)
    assert state == FAILED
    assert "without reporting a state" in str(info)
    assert "exit code 0" in str(info)
    assert ours.look(pod) is not None


@both
@pytest.mark.parametrize("how", ["taken out", "failed"])
def test_a_key_that_airflow_took_out_of_running_gets_no_event(rigs: Rigs, which: str, how: str) -> None:
    """As it does with a task without heartbeats (94)."""
    rig = rigs(which)
    task, pod = rig.run()
    if how == "failed":
        rig.executor.change_state(task.key, FAILED, remove_running=True)
    else:
        rig.executor.running.discard(task.key)
    rig.executor.get_event_buffer()
    rig.end_pod(pod, exit_code=1)
    rig.quiet(lambda: not rig.ended(task), 2.0)


# --- what a waiting pod waits for (79, 80, 81) --------------------------------------------------------------------------
def waiting(reason: str, message: str = "", key: str = "containerStatuses") -> dict[str, Any]:
    container = {
        "name": "base" if key == "containerStatuses" else "prepare", "image": "i", "imageID": "", "ready": False,
        "restartCount": 0, "state": {"waiting": {"reason": reason, "message": message}},
    }  # fmt: skip
    return {"status": {"phase": "Pending", key: [container]}}


def beside(reason: str) -> dict[str, Any]:
    """A second main container waits for this reason, the base for nothing worth telling."""
    status = waiting("ContainerCreating")
    (second,) = waiting(reason, "x")["status"]["containerStatuses"]
    status["status"]["containerStatuses"].append({**second, "name": "beside"})
    return status


FATAL = [
    ("ErrImagePull", "containerStatuses"),
    ("CreateContainerConfigError", "containerStatuses"),
    ("InvalidImageName", "initContainerStatuses"),
]


@both
@pytest.mark.parametrize(("reason", "key"), FATAL)
def test_a_fatal_reason_to_wait_fails_the_task(rigs: Rigs, which: str, reason: str, key: str) -> None:
    rig = rigs(which, pod_launch_failure_retries=0)
    task, pod = pending(rig)
    rig.patch(pod, waiting(reason, "as the kubelet says", key), "/status")
    state, info = rig.event(task)
    assert state == FAILED
    if which == "podrelay":
        assert reason in str(info)
        assert "as the kubelet says" in str(info)


@both
def test_other_reasons_to_wait_fail_nothing(rigs: Rigs, which: str) -> None:
    rig = rigs(which, pod_launch_failure_retries=0)
    tasks = []
    limit = "pull QPS exceeded"
    back_off = f'Back-off pulling image "x": ErrImagePull: {limit}'
    for reason, message in (
        ("ErrImagePull", limit), ("ImagePullBackOff", back_off), ("PodInitializing", ""), ("SomethingElse", "x"),
    ):  # fmt: skip
        task, pod = pending(rig)
        rig.patch(pod, waiting(reason, message), "/status")
        tasks.append(task)
    # Of other containers than the base.
    for patch in (waiting("SomethingElse", "x", "initContainerStatuses"), beside("SomethingElse")):
        task, pod = pending(rig)
        rig.patch(pod, patch, "/status")
        tasks.append(task)
    rig.quiet(lambda: all(task.key in rig.executor.running and not rig.ended(task) for task in tasks), 2.5)
    if which == "podrelay":
        assert all(limit in rig.event_log(task) for task in tasks[:2])


@both
def test_a_fatal_reason_of_a_second_container(rigs: Rigs, which: str) -> None:
    """The stock executor looks at the first main container only: its task waits until it is stuck in queued."""
    rig = rigs(which, pod_launch_failure_retries=0)
    task, pod = pending(rig)
    rig.patch(pod, beside("InvalidImageName"), "/status")
    if which == "podrelay":
        state, info = rig.event(task)
        assert state == FAILED
        assert "InvalidImageName" in str(info)
        assert "beside" in str(info)
    else:
        rig.quiet(lambda: task.key in rig.executor.running and not rig.ended(task), 2.5)


# --- what means nothing (76, 77, 85, 86) --------------------------------------------------------------------------------
@both
def test_the_end_of_a_revoked_pod_is_ignored(rigs: Rigs, which: str) -> None:
    rig = rigs(which)
    task, pod = rig.run()
    rig.patch(pod, {"metadata": {"labels": {"airflow_pod_revoked": "True"}}})
    rig.end_pod(pod, exit_code=1)
    rig.quiet(lambda: task.key in rig.executor.running and not rig.ended(task))


@both
def test_an_unknown_phase_means_nothing_yet(rigs: Rigs, which: str) -> None:
    rig = rigs(which)
    task, pod = rig.run()
    rig.patch(pod, {"status": {"phase": "Unknown"}}, "/status")
    rig.quiet(lambda: task.key in rig.executor.running and not rig.ended(task))


@both
def test_a_pod_whose_labels_leave_the_selection_is_no_failure(rigs: Rigs, which: str) -> None:
    rig = rigs(which)
    task, pod = rig.run()
    rig.patch(pod, {"metadata": {"labels": {"airflow_executor_done": "True"}}})
    if which == "stock":  # it takes the pod for adopted by another scheduler
        rig.until(lambda: task.key not in rig.executor.running)
    rig.quiet(lambda: (task.key in rig.executor.running) == (which == "podrelay") and not rig.ended(task))


@both
def test_a_foreign_pod_disturbs_nothing(rigs: Rigs, which: str) -> None:
    """Labels that match, without a task's annotations: the stock watcher dies of it again and again (D-9)."""
    rig = rigs(which)
    task, pod = rig.run()
    labels = (
        {**pod["metadata"]["labels"], "podrelay/launch-id": "!" * 3} if which == "stock" else pod["metadata"]["labels"]
    )
    labels = {name: value for name, value in labels.items() if name != "podrelay/launch-id"}
    rig.cluster.call("POST", "/api/v1/namespaces/default/pods", {
        "metadata": {"name": f"{task.prefix}-foreign", "labels": labels},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "base", "image": "i", "args": ["true"]}]},
    })  # fmt: skip
    if which == "stock":
        watchers = rig.executor.kube_scheduler.kube_watchers  # type: ignore[attr-defined]
        first = watchers["default"].pid
        rig.until(lambda: watchers["default"].pid != first, "a watcher that died")
        return
    rig.end_pod(pod, exit_code=1)
    assert rig.event(task)[0] == FAILED
