"""The statuses that the simulated kubelet writes; `tests/real_cluster` has a real API server accept them."""

from __future__ import annotations

from typing import Any

from tests.benchmarks.simulated_kubelet import SimulatedPod

Json = dict[str, Any]


def pod(**annotations: str) -> Json:
    metadata = {"name": "p", "namespace": "default", "uid": "u", "annotations": annotations}
    containers = [{"name": "base", "image": "i"}]
    spec = {"restartPolicy": "Never", "containers": containers, "initContainers": [{"name": "init", "image": "i"}]}
    return {"metadata": metadata, "spec": spec, "status": {"phase": "Pending", "qosClass": "Burstable"}}


def summary(status: Json) -> tuple[str, set[str], list[str]]:
    """Phase, the conditions that are true, and the state of each container."""
    containers = status["initContainerStatuses"] + status["containerStatuses"]
    true = {item["type"] for item in status["conditions"] if item["status"] == "True"}
    return status["phase"], true, [next(iter(item["state"])) for item in containers]


def test_a_pod_starts_in_the_steps_of_a_kubelet() -> None:
    steps = [summary(status) for status in SimulatedPod(pod()).starting()]
    ready = {"PodScheduled", "PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"}
    assert steps == [
        ("Pending", {"PodScheduled"}, ["waiting", "waiting"]),
        ("Running", ready, ["terminated", "running"]),
    ]


def test_the_annotations_of_the_local_cluster_hold() -> None:
    simulated = SimulatedPod(pod(**{"local-cluster/duration-s": "2.5", "local-cluster/exit-code": "3"}))
    assert (simulated.duration_s, simulated.exit_code) == (2.5, 3)
    list(simulated.starting())
    over, status = simulated.ending(simulated.exit_code)
    assert summary(over)[::2] == ("Running", ["terminated", "terminated"])
    assert summary(status)[::2] == ("Failed", ["terminated", "terminated"])
    assert status["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 3
    assert "qosClass" not in status, "the API server refuses to have it changed"
