"""The events of a pod's life, change by change: those that a kubelet of Kubernetes 1.31 logged as patches of the status."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.harness.cluster_api import Json, NamespaceApi, condition, pod

SANDBOX, INITIALIZED, READY, CONTAINERS, SCHEDULED = (
    "PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"
)  # fmt: skip


def timed(duration_s: float, exit_code: int = 0, **spec: Any) -> Json:
    body = pod(**spec)
    annotations = {"local-cluster/duration-s": str(duration_s), "local-cluster/exit-code": str(exit_code)}
    body["metadata"]["annotations"] = annotations
    return body


def changes(api: NamespaceApi, version: str, is_last: Callable[[Json], bool]) -> Iterator[tuple[str, Json]]:
    """Type of each event, and what it changed in the pod's status, with conditions as ``status reason``."""
    before: Json = {}
    with api.watch(resourceVersion=version) as events:
        for event in events:
            status = dict(event["object"]["status"])
            for item in status.pop("conditions", []):
                status[item["type"]] = f"{item['status']} {item.get('reason', '')}".strip()
            for kind in ("containerStatuses", "initContainerStatuses"):
                for item in status.pop(kind, []):
                    status[item["name"]] = next(iter(item["state"]))
            yield event["type"], {name: value for name, value in status.items() if before.get(name) != value}
            before = status
            if is_last(event):
                return


def lived(event: Json) -> bool:
    return event["object"]["status"]["phase"] in ("Succeeded", "Failed")


def removed(event: Json) -> bool:
    return event["type"] == "DELETED"


ADDRESS = {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}
RUNNING = {"phase": "Running", SANDBOX: "True", READY: "True", CONTAINERS: "True", "base": "running", **ADDRESS}


def accepted(change: Json, **containers: str) -> None:
    assert change.pop("startTime")
    initialized = "False ContainersNotInitialized" if containers else "True"
    assert change == {
        SANDBOX: "False", INITIALIZED: initialized, READY: "False ContainersNotReady",
        CONTAINERS: "False ContainersNotReady", "hostIP": "127.0.0.1", "hostIPs": [{"ip": "127.0.0.1"}], "base": "waiting",
        **containers,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("exit_code", "phase", "reason"), [(0, "Succeeded", "PodCompleted"), (1, "Failed", "PodFailed")]
)
@pytest.mark.parametrize("runner", ["simulated", "api"])
def test_from_creation_to_end(
    request: pytest.FixtureRequest, runner: str, exit_code: int, phase: str, reason: str
) -> None:
    api: NamespaceApi = request.getfixturevalue(runner)
    version = api.version()
    body = timed(0.05, exit_code)
    body["spec"]["containers"][0]["command"] = ["sh", "-c", f"sleep 0.05; exit {exit_code}"]
    api.create(body)
    kinds, (added, bound, admitted, running, over, ended) = zip(*changes(api, version, lived), strict=True)
    assert kinds == ("ADDED", *["MODIFIED"] * 5)
    assert added == {"phase": "Pending", "qosClass": "BestEffort"}
    assert bound == {SCHEDULED: "True"}
    accepted(admitted)
    assert running == RUNNING
    completed = {INITIALIZED: "True PodCompleted"} if exit_code == 0 else {}
    assert over == {READY: f"False {reason}", CONTAINERS: f"False {reason}", "base": "terminated", **completed}
    assert ended == {"phase": phase, SANDBOX: "False"}


def test_the_conditions_are_in_the_order_of_a_kubelet(simulated: NamespaceApi) -> None:
    simulated.create(timed(60))
    found = simulated.wait_phase("p", "Running")
    order = [SANDBOX, INITIALIZED, READY, CONTAINERS, SCHEDULED]
    assert [item["type"] for item in found["status"]["conditions"]] == order


def test_deleted_while_it_runs(simulated: NamespaceApi) -> None:
    simulated.create(timed(60))
    simulated.wait_phase("p", "Running")
    version = simulated.version()
    simulated.delete("p")
    kinds, (_, ended, released, gone) = zip(*changes(simulated, version, removed), strict=True)
    assert kinds == ("MODIFIED", "MODIFIED", "MODIFIED", "DELETED")
    assert ended == {
        "phase": "Failed", SANDBOX: "False", READY: "False PodFailed", CONTAINERS: "False PodFailed", "base": "terminated"
    }  # fmt: skip
    assert released == gone == {}


def test_a_pod_that_names_its_node_needs_no_scheduler(simulated: NamespaceApi) -> None:
    version = simulated.version()
    simulated.create(timed(0.05, nodeName="local-node"))
    _, admitted, running, *_ = (change for _, change in changes(simulated, version, lived))
    assert admitted.pop(SCHEDULED) == "True"
    accepted(admitted)
    assert running == RUNNING


def test_init_containers_have_events_of_their_own(simulated: NamespaceApi) -> None:
    version = simulated.version()
    simulated.create(timed(0.05, initContainers=[{"name": "one", "image": "i"}, {"name": "two", "image": "i"}]))
    _, _, admitted, *rest = (change for _, change in changes(simulated, version, lived))
    accepted(admitted, one="waiting", two="waiting")
    assert rest[0] == {SANDBOX: "True", "one": "running", **ADDRESS}
    steps = [{name: change[name] for name in ("one", "two", "base") if name in change} for change in rest]
    assert steps == [
        {"one": "running"}, {"one": "terminated"}, {"two": "running"}, {"two": "terminated"}, {"base": "running"},
        {"base": "terminated"}, {},
    ]  # fmt: skip


def test_a_container_that_cannot_start_leaves_the_phase_until_the_end(simulated: NamespaceApi) -> None:
    body = timed(1)
    body["metadata"]["annotations"]["local-cluster/duration-s"] = "soon"
    version = simulated.version()
    simulated.create(body)
    *_, over, ended = (change for _, change in changes(simulated, version, lived))
    assert over["base"] == "terminated"
    assert "phase" not in over
    assert ended == {"phase": "Failed", SANDBOX: "False"}


def test_the_phase_of_another_writer_is_kept(simulated: NamespaceApi) -> None:
    """No pod leaves a phase in which it has ended, whatever its containers do."""
    simulated.create(timed(0.3))
    simulated.wait_phase("p", "Running")
    simulated.set_phase("p", "Failed")
    found = simulated.wait("p", lambda now: "terminated" in now["status"]["containerStatuses"][0]["state"])
    assert found["status"]["phase"] == "Failed"


def test_conditions_of_others_are_kept(simulated: NamespaceApi) -> None:
    simulated.create(timed(60))
    simulated.wait_phase("p", "Running")
    own = {"type": "example.com/own", "status": "True"}
    assert (
        simulated.patch("p", {"status": {"conditions": [own]}}, "strategic-merge-patch", "/status").status_code == 200
    )
    assert simulated.cluster.end_pods(0, simulated.namespace) == 1
    kept = condition(simulated.wait_phase("p", "Succeeded"), own["type"])
    assert kept == {**kept, **own}
