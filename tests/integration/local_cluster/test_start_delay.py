"""Pods whose containers start late, as after the pull of an image: the option, and the change of it while the server runs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.harness.cluster_api import Json, NamespaceApi, pod, state, status_of
from tests.harness.local_cluster import LocalCluster

DELAY_S = 0.5


def creating(found: Json) -> bool:
    waiting = state(found).get("waiting") if "containerStatuses" in found["status"] else None
    return found["status"]["phase"] == "Pending" and (waiting or {}).get("reason") == "ContainerCreating"


def seconds_to_start(api: NamespaceApi, name: str) -> float:
    """From the creation of a pod, which must be seen as ContainerCreating, until its container runs."""
    begun = time.monotonic()
    api.create(pod(name, "sleep", "60"))
    api.wait(name, creating)
    api.wait_phase(name, "Running")
    return time.monotonic() - begun


@pytest.mark.parametrize("runner", ["process", "simulate"])
def test_option(tmp_path: Path, runner: str) -> None:
    with LocalCluster(tmp_path, runner=runner, pod_start_delay_s=DELAY_S) as cluster:
        api = NamespaceApi(cluster, "default")
        assert seconds_to_start(api, "by-option") >= DELAY_S
        cluster.faults(pod_start_delay_s=2 * DELAY_S)
        assert seconds_to_start(api, "by-fault") >= 2 * DELAY_S
        assert cluster.faults()["pod_start_delay_s"] == DELAY_S, "without the fault, the option counts"


def test_changes_while_the_server_runs(api: NamespaceApi) -> None:
    api.cluster.control("faults", {"pod_start_delay_s": 3600})
    api.create(pod("slow", "true"))
    api.wait("slow", creating)
    api.cluster.control("faults", {"pod_start_delay_s": 0})
    api.create(pod("fast", "true"))
    api.wait_phase("fast", "Succeeded")
    assert creating(api.get("slow")), "a delay that has begun stays"
    version = api.version()
    api.delete("slow")
    assert "terminated" not in state(api.wait_gone("slow", version)), "no container has run"


def test_the_deadline_counts_from_before_the_delay(api: NamespaceApi) -> None:
    api.cluster.faults(pod_start_delay_s=3600)
    api.create(pod("p", "true", activeDeadlineSeconds=1))
    assert api.wait_phase("p", "Failed")["status"]["reason"] == "DeadlineExceeded"


@pytest.mark.parametrize("value", [-0.1, 3601, 10**400], ids=["negative", "long", "huge"])
def test_bad_values(simulated: NamespaceApi, value: float) -> None:
    answer = simulated.request("PUT", "/local-cluster/faults", {"pod_start_delay_s": value})
    message = status_of(answer, 400, "BadRequest")["message"]
    assert message == "pod_start_delay_s must be a number of seconds from 0 to 3600"
    assert simulated.cluster.control("faults", method="GET")["pod_start_delay_s"] == 0
