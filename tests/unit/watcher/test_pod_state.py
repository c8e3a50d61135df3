"""What each state of a pod means, in tables; no input makes the interpretation fail."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podrelay.protocol.messages import PodReport
from podrelay_workers.watcher.pod_reasons import add_event_reason
from podrelay_workers.watcher.pod_state import PodState, Rules, interpret, vanished
from podrelay_workers.watcher.pod_view import epoch_s

NOW_S = 1_800_000_000.0
RULES = Rules(frozenset({"ErrImagePull", "CreateContainerConfigError", "InvalidImageName"}), grace_s=60.0)


def pod(phase: str = "Running", **changes: Any) -> dict[str, Any]:
    """A pod of ours; `status`, `metadata` and `spec` are merged in."""
    status = {"phase": phase, **changes.get("status", {})}
    metadata = {
        "name": "etl-load-1",
        "namespace": "jobs",
        "uid": "u-1",
        "labels": {"podrelay/launch-id": "0199-aa", "podrelay/attempt": "2", **changes.get("labels", {})},
        **changes.get("metadata", {}),
    }
    spec = {
        "nodeName": "node-7",
        "restartPolicy": "Never",
        "containers": [{"name": "base", "image": "repo/airflow:3"}, {"name": "sidecar", "image": "istio"}],
        **changes.get("spec", {}),
    }
    return {"metadata": metadata, "spec": spec, "status": status}


def ended(code: int = 0, name: str = "base", **state: Any) -> dict[str, Any]:
    times = {"startedAt": "2026-11-20T10:00:00Z", "finishedAt": "2026-11-20T10:00:05Z"}
    reason = "Completed" if code == 0 else "Error"
    return {"name": name, "state": {"terminated": {"exitCode": code, "reason": reason, **times, **state}}}


def running(name: str = "base") -> dict[str, Any]:
    return {"name": name, "state": {"running": {"startedAt": "2026-11-20T10:00:00Z"}}}


def waiting(reason: str, message: str = "", name: str = "base") -> dict[str, Any]:
    return {"name": name, "state": {"waiting": {"reason": reason, "message": message}}}


def reported(state: PodState) -> PodReport:
    assert state.report is not None
    return state.report


def main(*containers: dict[str, Any], **status: Any) -> dict[str, Any]:
    return {"status": {"containerStatuses": list(containers), **status}}


DISRUPTED = {
    "conditions": [
        {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting",
        }
    ]
}
DELETED = {"metadata": {"deletionTimestamp": "2026-11-20T10:00:30Z", "deletionGracePeriodSeconds": 30}}


def evicted(time: str, reason: str = "EvictionByEvictionAPI") -> dict[str, Any]:
    condition = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "evicting",
                 "lastTransitionTime": f"2026-11-20T{time}Z"}  # fmt: skip
    return {"conditions": [condition]}


RULED = {"containers": [{"name": "base", "restartPolicy": "Never", "restartPolicyRules": [
    {"action": "Restart", "exitCodes": {"operator": "In", "values": [42, 43]}}]}]}  # fmt: skip


def again(reason: str, code: int) -> dict[str, Any]:
    """Between two runs: the first one's end is in `lastState` only."""
    return {
        "name": "base",
        "restartCount": 1,
        "state": {"waiting": {"reason": reason}},
        "lastState": ended(code)["state"],
    }


ENDS = [
    # what it is, event, pod, outcome, reason, container reason, exit code, class
    ("base done, sidecar alive", "MODIFIED", pod(**main(ended(0), running("sidecar"))), "succeeded", "", "Completed", 0, ""),
    ("base failed, sidecar alive", "MODIFIED", pod(**main(ended(1), running("sidecar"))),
     "failed", "Error", "Error", 1, "application"),
    ("phase Succeeded", "MODIFIED", pod("Succeeded", **main(ended(0))), "succeeded", "", "Completed", 0, ""),
    ("phase Succeeded, no statuses", "LISTED", pod("Succeeded"), "succeeded", "", "", None, ""),
    ("base done, sidecar failed", "MODIFIED", pod("Failed", **main(ended(0), ended(3, "sidecar"))),
     "succeeded", "", "Completed", 0, ""),
    ("exit 1", "MODIFIED", pod("Failed", **main(ended(1))), "failed", "Error", "Error", 1, "application"),
    ("out of memory", "MODIFIED", pod("Failed", **main(ended(137, reason="OOMKilled"))),
     "failed", "OOMKilled", "OOMKilled", 137, "application"),
    ("evicted", "MODIFIED",
     pod("Failed", **main(ended(137), reason="Evicted", message="The node was low on resource: memory.")),
     "failed", "Evicted", "Error", 137, "infrastructure"),
    ("evicted before it started", "MODIFIED", pod("Failed", status={"reason": "Evicted"}),
     "failed", "Evicted", "", None, "infrastructure"),
    ("preempted", "MODIFIED", pod("Failed", status={"reason": "Preempting"}), "failed", "Preempting", "", None,
     "infrastructure"),
    ("node shutdown", "MODIFIED", pod("Failed", **main(ended(143), reason="Terminated")),
     "failed", "Terminated", "Error", 143, "infrastructure"),
    ("node lost", "MODIFIED", pod("Failed", status={"reason": "NodeLost"}), "failed", "NodeLost", "", None,
     "infrastructure"),
    ("disruption target", "MODIFIED", pod("Failed", **main(ended(143), **DISRUPTED)),
     "failed", "EvictionByEvictionAPI", "Error", 143, "infrastructure"),
    ("deadline", "MODIFIED", pod("Failed", **main(ended(143), reason="DeadlineExceeded")),
     "failed", "DeadlineExceeded", "Error", 143, "application"),
    ("cannot start", "MODIFIED", pod("Failed", **main(ended(128, reason="StartError", startedAt="1970-01-01T00:00:00Z"))),
     "failed", "StartError", "StartError", 128, "configuration"),
    ("cannot run", "MODIFIED", pod("Failed", **main(ended(127, reason="ContainerCannotRun"))),
     "failed", "ContainerCannotRun", "ContainerCannotRun", 127, "configuration"),
    ("status lost", "MODIFIED", pod("Failed", **main(ended(137, reason="ContainerStatusUnknown"))),
     "failed", "ContainerStatusUnknown", "ContainerStatusUnknown", 137, "infrastructure"),
    ("init failed", "MODIFIED",
     pod("Failed", status={"initContainerStatuses": [ended(2, "git-sync")],
                           "containerStatuses": [waiting("PodInitializing")]}),
     "failed", "Error", "Error", 2, "configuration"),
    ("provider failed", "MODIFIED", pod("Pending", status={"reason": "ProviderFailed", "message": "no quota"}),
     "failed", "ProviderFailed", "", None, "infrastructure"),
    ("deleted while running", "DELETED", pod("Running", **main(running()), **DELETED),
     "failed", "PodDeleted", "", None, "infrastructure"),
    ("deleted while pending", "DELETED", pod("Pending", **DELETED), "failed", "PodDeleted", "", None, "infrastructure"),
    ("killed by a deletion", "MODIFIED", pod("Running", **main(ended(143)), **DELETED),
     "failed", "PodDeleted", "Error", 143, "infrastructure"),
    ("deleted after its end", "DELETED",
     pod("Failed", **main(ended(1)),
         metadata={"deletionTimestamp": "2026-11-20T10:10:30Z", "deletionGracePeriodSeconds": 30}),
     "failed", "Error", "Error", 1, "application"),
    ("deleted after success", "DELETED",
     pod("Succeeded", **main(ended(0)),
         metadata={"deletionTimestamp": "2026-11-20T10:00:36Z", "deletionGracePeriodSeconds": 30}),
     "succeeded", "", "Completed", 0, ""),
    ("ended well because it was deleted", "MODIFIED", pod("Succeeded", **main(ended(0)), **DELETED),
     "failed", "PodDeleted", "Completed", 0, "infrastructure"),
    ("ended well because it was deleted, beside a sidecar", "DELETED",
     pod("Running", **main(ended(0), running("sidecar")), **DELETED),
     "failed", "PodDeleted", "Completed", 0, "infrastructure"),
    ("ended well because it was evicted", "MODIFIED", pod("Succeeded", **main(ended(0), **evicted("10:00:01")), **DELETED),
     "failed", "EvictionByEvictionAPI", "Completed", 0, "infrastructure"),
    ("ended well because its node shut down", "MODIFIED",
     pod("Failed", **main(ended(0), reason="Terminated", message="Pod was terminated in response to imminent node shutdown.",
                          **evicted("10:00:01", "TerminationByKubelet"))),
     "failed", "Terminated", "Completed", 0, "infrastructure"),
    ("evicted after success", "MODIFIED", pod("Running", **main(ended(0), running("sidecar"), **evicted("10:00:06"))),
     "succeeded", "", "Completed", 0, ""),
    ("success without times", "MODIFIED", pod("Succeeded", **DELETED), "succeeded", "", "", None, ""),
    ("Failed, no statuses", "LISTED", pod("Failed"), "failed", "Failed", "", None, "application"),
    ("a device is short", "MODIFIED", pod("Failed", status={"reason": "OutOfnvidia.com/gpu"}),
     "failed", "OutOfnvidia.com/gpu", "", None, "infrastructure"),
    ("node cannot align", "MODIFIED", pod("Failed", status={"reason": "TopologyAffinityError"}),
     "failed", "TopologyAffinityError", "", None, "infrastructure"),
    ("too many volumes on this node", "MODIFIED", pod("Failed", status={"reason": "VolumeAttachmentLimitExceeded"}),
     "failed", "VolumeAttachmentLimitExceeded", "", None, "infrastructure"),
    ("node refuses for an unlisted reason", "MODIFIED", pod("Failed", status={"reason": "UnexpectedPredicateFailureType"}),
     "failed", "UnexpectedPredicateFailureType", "", None, "infrastructure"),
    ("node is too old for the template", "MODIFIED", pod("Failed", status={"reason": "PodLevelResourcesNotSupported"}),
     "failed", "PodLevelResourcesNotSupported", "", None, "configuration"),
    ("node knows no such groups", "MODIFIED", pod("Failed", status={"reason": "SupplementalGroupsPolicyNotSupported"}),
     "failed", "SupplementalGroupsPolicyNotSupported", "", None, "configuration"),
    ("forbidden sysctl", "MODIFIED", pod("Failed", status={"reason": "SysctlForbidden"}),
     "failed", "SysctlForbidden", "", None, "configuration"),
    ("removed with its node", "MODIFIED",
     pod("Failed", **main(running(), conditions=[{"type": "DisruptionTarget", "status": "True",
                                                 "reason": "DeletionByPodGC", "message": "PodGC: node is gone"}])),
     "failed", "DeletionByPodGC", "", None, "infrastructure"),
    ("ended, and would be started again", "MODIFIED",
     pod(spec={"restartPolicy": "Always"}, **main(again("CrashLoopBackOff", 1))),
     "failed", "Error", "Error", 1, "application"),
    ("ended well, and runs again", "MODIFIED",
     pod(spec={"restartPolicy": "Always"}, **main({**running(), "lastState": ended(0)["state"]})),
     "succeeded", "", "Completed", 0, ""),
    ("a container's own policy goes first", "MODIFIED",
     pod(spec={"restartPolicy": "OnFailure", "containers": [{"name": "base", "restartPolicy": "Never"}]}, **main(ended(1))),
     "failed", "Error", "Error", 1, "application"),
    ("no rule restarts it", "MODIFIED", pod(spec=RULED, **main(ended(1))), "failed", "Error", "Error", 1, "application"),
    ("statuses in another order", "MODIFIED", pod(**main(running("sidecar"), ended(4))),
     "failed", "Error", "Error", 4, "application"),
    ("native sidecar still runs", "MODIFIED",
     pod(spec={"initContainers": [{"name": "proxy", "restartPolicy": "Always"}]},
         **main(ended(0), initContainerStatuses=[running("proxy")])), "succeeded", "", "Completed", 0, ""),
    ("debugged meanwhile", "MODIFIED", pod(**main(ended(0), ephemeralContainerStatuses=[ended(1, "debug")])),
     "succeeded", "", "Completed", 0, ""),
    ("kept by a finalizer", "MODIFIED",
     pod("Failed", **main(ended(143)),
         metadata={**DELETED["metadata"], "finalizers": ["a/b"]}), "failed", "PodDeleted", "Error", 143, "infrastructure"),
    ("only a container of another name",  "MODIFIED",
     pod(spec={"containers": [{"name": "work"}, {"name": "side"}]}, **main(running("side"), ended(0, "work"))),
     "succeeded", "", "Completed", 0, ""),
]  # fmt: skip


@pytest.mark.parametrize(("event", "given_pod", "outcome", "reason", "inner", "code", "failure"),
                         [row[1:] for row in ENDS], ids=[row[0] for row in ENDS])  # fmt: skip
def test_ends(
    event: str, given_pod: dict[str, Any], outcome: str, reason: str, inner: str, code: int | None, failure: str
) -> None:
    result = reported(interpret(event, given_pod, RULES, NOW_S))
    assert (result.outcome, result.reason, result.container_reason, result.exit_code, result.failure_class) == (
        outcome, reason, inner, code, failure,
    )  # fmt: skip
    assert (result.launch_id, result.attempt, result.pod, result.namespace, result.uid, result.node) == (
        "0199-aa", 2, "etl-load-1", "jobs", "u-1", "node-7",
    )  # fmt: skip


OUTSIDE = "the pod was deleted from outside, not by podrelay, at 2026-11-20 10:00:00 UTC on node node-7"


@pytest.mark.parametrize(
    ("event", "given_pod", "words"),
    [
        ("MODIFIED", pod("Succeeded", **main(ended(0)), **DELETED), [OUTSIDE]),
        ("MODIFIED", pod("Running", **main(ended(143, message="bye")), **DELETED), [OUTSIDE, "bye"]),
        ("DELETED", pod("Running", **main(running()), **DELETED), [OUTSIDE, "while it was Running"]),
        ("DELETED", pod("Running", **main(running(), **evicted("10:00:01")), **DELETED),
         [OUTSIDE, "EvictionByEvictionAPI: evicting"]),
        ("MODIFIED", pod("Failed", **main(ended(143), **evicted("10:00:01")), **DELETED), [OUTSIDE, "evicting"]),
        ("DELETED", pod("Pending", spec={"nodeName": ""}, **DELETED), [OUTSIDE.replace(" on node node-7", "")]),
    ],
)  # fmt: skip
def test_the_message_of_a_deletion_contains_its_origin_time_and_node(
    event: str, given_pod: dict[str, Any], words: list[str]
) -> None:
    message = reported(interpret(event, given_pod, RULES, NOW_S)).message
    assert all(word in message for word in words), message


def test_the_message_of_a_deletion_without_a_time_contains_when_it_was_noticed() -> None:
    gone = interpret("DELETED", pod("Running", **main(running())), RULES, NOW_S).report_if_gone
    assert gone is not None
    assert "not by podrelay, at 2027-01-15 08:00:00 UTC on node node-7" in gone.message
    assert "noticed at 2027-01-15 08:00:00 UTC" in vanished("l", 0, "n", "p", RULES, NOW_S).message


def test_details_of_a_failure() -> None:
    given_pod = pod("Failed", **main(ended(137, reason="OOMKilled", message="limit 64Mi")))
    state = interpret("MODIFIED", given_pod, RULES, NOW_S)
    result = reported(state)
    assert (result.signal, result.container, result.container_type) == (9, "base", "main")
    assert (result.image, result.message, result.phase) == ("repo/airflow:3", "limit 64Mi", "Failed")
    assert result.seen_at_s == epoch_s("2026-11-20T10:00:05Z")
    assert state.fields["t_started"] == f"{epoch_s('2026-11-20T10:00:00Z'):.3f}"
    assert state.fields["started"] == "1"


def test_failed_init_container_is_the_culprit_and_sidecars_are_not() -> None:
    init = [{"name": "proxy", "restartPolicy": "Always"}, {"name": "git-sync", "image": "git:1"}]
    statuses = {"initContainerStatuses": [ended(137, "proxy"), ended(5, "git-sync", message="no such ref")]}
    result = reported(
        interpret("MODIFIED", pod("Failed", spec={"initContainers": init}, status=statuses), RULES, NOW_S)
    )
    assert (result.container, result.container_type, result.exit_code) == ("git-sync", "init", 5)
    assert (result.message, result.image) == ("no such ref", "git:1")


@pytest.mark.parametrize(
    "given_pod", [pod("Pending", **DELETED), pod("Failed", **main(ended(128, reason="StartError")))]
)
def test_what_never_ran_is_not_started(given_pod: dict[str, Any]) -> None:
    assert "started" not in interpret("DELETED", given_pod, RULES, NOW_S).fields


NOTHING = [
    ("revoked", "MODIFIED", pod("Failed", labels={"airflow_pod_revoked": "x"})),
    ("a phase of the future", "MODIFIED", pod("Dreaming")),
    ("no phase", "MODIFIED", pod("")),
    ("running, base not yet", "MODIFIED", pod("Running", **main(running("sidecar"), waiting("ContainerCreating")))),
    ("being deleted", "MODIFIED", pod("Pending", **DELETED)),
    ("will be started again by a rule", "MODIFIED", pod(spec=RULED, **main(ended(42)))),
    (
        "backs off between two tries",
        "MODIFIED",
        pod(spec={"restartPolicy": "OnFailure"}, **main(again("CrashLoopBackOff", 1))),
    ),
    (
        "resized",
        "MODIFIED",
        pod(
            "Pending",
            **main(
                waiting("ContainerCreating"),
                observedGeneration=3,
                conditions=[{"type": "PodResizePending", "status": "True", "reason": "Deferred"}],
            ),
        ),
    ),
    ("will be started again", "MODIFIED", pod(spec={"restartPolicy": "OnFailure"}, **main(ended(1)))),
    ("no launch", "MODIFIED", pod(labels={"podrelay/launch-id": None})),
    ("strange launch", "MODIFIED", pod(labels={"podrelay/launch-id": "../../x"})),
    ("strange attempt", "MODIFIED", pod(labels={"podrelay/attempt": "-1"})),
    ("not a pod", "MODIFIED", []),
]


@pytest.mark.parametrize(("event", "given_pod"), [row[1:] for row in NOTHING], ids=[row[0] for row in NOTHING])
def test_nothing_to_report(event: str, given_pod: Any) -> None:
    assert interpret(event, given_pod, RULES, NOW_S).report is None


def test_a_pod_that_left_the_selection_is_to_be_confirmed() -> None:
    assert interpret("DELETED", pod(**main(running())), RULES, NOW_S).report_if_gone
    assert not interpret("DELETED", pod(**main(ended(0))), RULES, NOW_S).report_if_gone


def test_started() -> None:
    state = interpret("MODIFIED", pod(**main(running())), RULES, NOW_S)
    assert reported(state).outcome == "started"
    assert state.fields["started"] == "1"


def test_a_running_pod_without_container_statuses_is_started() -> None:
    """A status that holds only a phase."""
    assert reported(interpret("MODIFIED", pod("Running"), RULES, NOW_S)).outcome == "started"


TERMINATING = {"deletionTimestamp": "2026-11-20T10:00:30Z", "deletionGracePeriodSeconds": 30}
LOST_NODE = {"conditions": [{"type": "Ready", "status": "False"},
                            {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
                             "message": "Taint manager: deleting due to NoExecute taint"}]}  # fmt: skip


@pytest.mark.parametrize(("now", "after_s"), [("2026-11-20T10:00:00Z", 60.0), ("2026-11-20T10:05:00Z", 0.0)])
def test_a_pod_that_its_node_does_not_end_is_reported(now: str, after_s: float) -> None:
    """Its grace and half a minute more are over: the node is probably lost. That is not an end; the task may still run."""
    for phase, status in (("Running", main(running(), **LOST_NODE)["status"]), ("Pending", LOST_NODE)):
        state = interpret("MODIFIED", pod(phase, status=status, metadata=TERMINATING), RULES, epoch_s(now))
        (deferred,) = state.deferred
        assert (deferred.after_s, deferred.report.outcome, deferred.report.reason) == (
            after_s,
            "pending",
            "NodeNotResponding",
        )
        assert "node-7" in deferred.report.message and "DeletionByTaintManager" in deferred.report.message


def test_an_unknown_phase_is_reported() -> None:
    state = interpret(
        "MODIFIED", pod("Unknown", status={"reason": "NodeLost", "message": "Node x went away"}), RULES, NOW_S
    )
    assert (reported(state).outcome, reported(state).reason, reported(state).message) == (
        "pending",
        "NodeLost",
        "Node x went away",
    )


PENDING = [
    # what it is, pod, reason reported now, (after, outcome) reported later
    ("no node fits",
     pod("Pending", status={"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                                           "message": "0/3 nodes are available"}]}),
     "Unschedulable", []),
    ("being set up", pod("Pending", **main(waiting("ContainerCreating"))), None, [(8.0, "pending"), (30.0, "pending")]),
    ("no scheduler has considered it", pod("Pending", spec={"nodeName": ""}), None, [(8.0, "pending"), (30.0, "pending")]),
    ("gated", pod("Pending", status={"conditions": [{"type": "PodScheduled", "status": "False", "message": "gates",
                                                    "reason": "SchedulingGated"}]}), "SchedulingGated", []),
    ("base waits beside a sidecar that runs", pod("Running", **main(running("sidecar"), waiting("ErrImagePull", "x"))),
     "ErrImagePull", [(60.0, "failed")]),
    ("image not there", pod("Pending", **main(waiting("ErrImagePull", "not found"))), "ErrImagePull", [(60.0, "failed")]),
    ("image backing off", pod("Pending", **main(waiting("ImagePullBackOff", "Back-off"))), "ImagePullBackOff",
     [(60.0, "failed")]),
    ("too many pulls", pod("Pending", **main(waiting("ErrImagePull", "pull QPS exceeded"))), "ErrImagePull", []),
    ("sidecar's image", pod("Pending", **main(waiting("ContainerCreating"), waiting("ErrImagePull", "x", "sidecar"))),
     "ErrImagePull", [(60.0, "failed")]),
    ("a second one's", pod("Pending", **main(waiting("SomethingElse"), waiting("InvalidImageName", name="side"))),
     "InvalidImageName", [(60.0, "failed")]),
    ("init's image", pod("Pending", status={"initContainerStatuses": [waiting("InvalidImageName", "x", "init")]}),
     "InvalidImageName", [(60.0, "failed")]),
    ("not on the list", pod("Pending", **main(waiting("CreateContainerError", "x"))), "CreateContainerError", []),
]  # fmt: skip


@pytest.mark.parametrize(
    ("given_pod", "reason", "later"), [row[1:] for row in PENDING], ids=[row[0] for row in PENDING]
)
def test_pending(given_pod: dict[str, Any], reason: str | None, later: list[tuple[float, str]]) -> None:
    state = interpret("MODIFIED", given_pod, RULES, NOW_S)
    assert (state.report.reason if state.report else None) == reason
    assert state.report is None or state.report.outcome == "pending"
    assert [(item.after_s, item.report.outcome) for item in state.deferred] == later


def test_a_fatal_wait_names_image_and_message() -> None:
    state = interpret("MODIFIED", pod("Pending", **main(waiting("ErrImagePull", "manifest unknown"))), RULES, NOW_S)
    fatal = state.deferred[0].report
    assert (fatal.image, fatal.message, fatal.failure_class) == ("repo/airflow:3", "manifest unknown", "configuration")


@pytest.mark.parametrize("reason", ["SignatureValidationFailed", "PreCreateHookError", "PreStartHookError"])
def test_what_prevents_a_start_is_a_configuration_failure(reason: str) -> None:
    assert (
        reported(interpret("MODIFIED", pod("Pending", **main(waiting(reason))), RULES, NOW_S)).failure_class
        == "configuration"
    )


def test_pulling_and_backing_off_are_one_wait() -> None:
    waits = {interpret("MODIFIED", pod("Pending", **main(waiting(reason))), RULES, NOW_S).wait
             for reason in ("ErrImagePull", "ImagePullBackOff")}  # fmt: skip
    assert len(waits) == 1


PULL = 'failed to pull and unpack image "docker.io/timed-out:429": '
PASSING = [
    "pull QPS exceeded",
    PULL
    + "failed to copy: httpReadSeeker: failed open: unexpected status code https://registry-1.docker.io/v2/x: 429 Too "
    "Many Requests - Server message: toomanyrequests: You have reached your pull rate limit.",
    "rpc error: code = Unknown desc = reading manifest 3 in docker.io/x: toomanyrequests: rate limit",
    "rpc error: code = Unknown desc = reading manifest 3 in quay.io/x: StatusCode: 503, <html>",
    PULL + "unexpected status from HEAD request to https://registry/v2/x/manifests/3: 502 Bad Gateway",
    PULL + "failed to authorize: failed to fetch oauth token: unexpected status: 504 Gateway Timeout",
    "Error response from daemon: received unexpected HTTP status: 500 Internal Server Error",
    PULL + 'failed to do request: Head "https://registry/v2/": dial tcp 10.0.0.1:443: i/o timeout',
    PULL + 'failed to do request: Head "https://registry/v2/": net/http: TLS handshake timeout',
    'Get "https://registry/v2/": net/http: request canceled (Client.Timeout exceeded while awaiting headers)',
    PULL + 'failed to do request: Head "https://registry/v2/": dial tcp 10.0.0.1:443: connect: connection refused',
    PULL + "read tcp 10.0.0.2:1->10.0.0.1:443: read: connection reset by peer",
    'Get "https://registry/v2/": dial tcp 10.0.0.1:443: connect: no route to host',
    'Get "https://registry/v2/": EOF',
    PULL + "failed to do request: dial tcp: lookup registry: Temporary failure in name resolution",
    "rpc error: code = DeadlineExceeded desc = context deadline exceeded",
    "rpc error: code = Unavailable desc = error reading from server",
]
LASTING = [
    "",
    "not found",
    PULL + "failed to resolve reference: docker.io/timed-out:429: not found",
    "rpc error: code = NotFound desc = " + PULL + "manifest unknown",
    "Error response from daemon: pull access denied for timeout-503, repository does not exist or may require docker login",
    PULL + "failed to authorize: failed to fetch anonymous token: unexpected status from GET request to "
    "https://ghcr.io/token?scope=x: 403 Forbidden",
    PULL + "unexpected status code https://registry:5000/v2/x/manifests/503: 401 Unauthorized",
    PULL + "no match for platform in manifest: not found",
    "rpc error: code = ResourceExhausted desc = grpc: received message larger than max",
]


def wait_for(reason: str, message: str, rules: Rules = RULES) -> PodState:
    return interpret("MODIFIED", pod("Pending", **main(waiting(reason, message))), rules, NOW_S)


def back_off(error: str) -> str:
    return f'Back-off pulling image "repo/airflow:3": {error}'


@pytest.mark.parametrize("message", PASSING)
def test_a_cause_that_passes_never_becomes_fatal_and_is_reported(message: str) -> None:
    every = Rules(frozenset({"ErrImagePull", "ImagePullBackOff"}))
    for rules in (RULES, every):
        states = [
            wait_for("ErrImagePull", message, rules),
            wait_for("ImagePullBackOff", back_off(f"ErrImagePull: {message}"), rules),
        ]
        assert [state.deferred for state in states] == [(), ()]
        assert len({state.wait for state in states}) == 1
        assert [reported(state).failure_class for state in states] == ["infrastructure"] * 2
        assert [message in reported(state).message for state in states] == [True, True]


@pytest.mark.parametrize("message", LASTING)
def test_any_other_cause_is_fatal_once_it_lasts(message: str) -> None:
    states = [wait_for("ErrImagePull", message), wait_for("ImagePullBackOff", back_off(f"ErrImagePull: {message}"))]
    assert [[item.report.reason for item in state.deferred] for state in states] == [
        ["ErrImagePull"],
        ["ImagePullBackOff"],
    ]
    assert len({state.wait for state in states}) == 1


@pytest.mark.parametrize(
    ("listed", "error", "fatal"),
    [
        ("ErrImagePull", "ErrImagePull: not found", True),
        ("ErrImagePull", "SignatureValidationFailed: no signature", False),
        ("ErrImagePull", "RegistryUnavailable: x", False),
        ("SignatureValidationFailed", "SignatureValidationFailed: no signature", True),
        ("SignatureValidationFailed", "ErrImagePull: not found", False),
        ("InvalidImageName", "ErrImagePull: not found", False),
        ("ImagePullBackOff", "ErrImagePull: not found", True),  # listed itself
    ],
)
def test_a_back_off_counts_as_the_error_that_it_repeats(listed: str, error: str, fatal: bool) -> None:
    state = wait_for("ImagePullBackOff", back_off(error), Rules(frozenset({listed})))
    assert bool(state.deferred) is fatal
    assert reported(state).reason == "ImagePullBackOff"


@pytest.mark.parametrize(
    ("reason", "message", "fatal"),
    [
        ("CreateContainerConfigError", 'secret "missing" not found', True),
        ("CreateContainerConfigError", "failed to sync secret cache: timed out waiting for the condition", False),
        ("CreateContainerConfigError", "failed to sync configmap cache: timed out waiting for the condition", False),
        ("CreateContainerError", "context deadline exceeded", False),
        ("CreateContainerError", "no command specified", True),
        ("ImageInspectError", "rpc error: code = Unavailable desc = connection error", False),
    ],
)
def test_causes_of_other_reasons_pass_too(reason: str, message: str, fatal: bool) -> None:
    assert bool(wait_for(reason, message, Rules(frozenset({reason}))).deferred) is fatal


def test_the_latest_warning_explains() -> None:
    result = PodReport("l", 0, "pending", "ContainerCreating", "slow")
    events = [
        {"type": "Normal", "reason": "Scheduled", "message": "ok", "lastTimestamp": "2026-11-20T10:00:09Z"},
        {"type": "Warning", "reason": "Old", "message": "old", "lastTimestamp": "2026-11-20T10:00:01Z"},
        {"type": "Warning", "reason": "FailedMount", "message": "no secret", "lastTimestamp": "2026-11-20T10:00:05Z"},
        "nonsense",
    ]
    explained = add_event_reason(result, events)
    assert (explained.reason, explained.message) == ("FailedMount", "no secret")
    assert add_event_reason(result, events[:1]) is result


@pytest.mark.parametrize("text", [None, "", 7, "yesterday", "2026-13-45T99:00:00Z", "9999-99-99T00:00:00Z"])
def test_no_time(text: Any) -> None:
    assert epoch_s(text) == 0.0


@pytest.mark.parametrize("text", ["2026-11-20T10:00:05Z", "2026-11-20T10:00:05.123456789Z"])
def test_times(text: str) -> None:
    assert epoch_s(text) == 1_795_168_805.0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
_NAMES = st.sampled_from(["base", "init", "", None, 3])
_STATE = st.fixed_dictionaries(
    {},
    optional={
        kind: st.fixed_dictionaries(
            {},
            optional={
                "exitCode": JSON | st.integers(-1, 300),
                "reason": JSON | st.sampled_from(["ErrImagePull", "StartError"]),
                "message": JSON,
                "startedAt": JSON,
                "finishedAt": JSON,
                "signal": JSON,
            },
        )
        | JSON
        for kind in ("running", "waiting", "terminated")
    },
)
_STATUSES = st.lists(st.fixed_dictionaries({"name": _NAMES, "state": _STATE | JSON}) | JSON, max_size=3) | JSON
_POD = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries(
            {"labels": st.just({"podrelay/launch-id": "a", "podrelay/attempt": "0"})},
            optional={
                name: JSON for name in ("name", "namespace", "uid", "deletionTimestamp", "deletionGracePeriodSeconds")
            },
        ),
        "status": st.fixed_dictionaries(
            {"phase": st.sampled_from(["Pending", "Running", "Failed", "Succeeded", "Unknown"]) | JSON},
            optional={
                "containerStatuses": _STATUSES,
                "initContainerStatuses": _STATUSES,
                "conditions": JSON,
                "reason": JSON,
                "message": JSON,
            },
        )
        | JSON,
        "spec": st.fixed_dictionaries({}, optional={"containers": _STATUSES, "initContainers": JSON, "nodeName": JSON})
        | JSON,
    }
)


@given(event=st.sampled_from(["LISTED", "ADDED", "MODIFIED", "DELETED"]), given_pod=_POD | JSON)
def test_total(event: str, given_pod: Any) -> None:
    state = interpret(event, given_pod, RULES, NOW_S)
    results = [state.report, *(item.report for item in state.deferred)]
    for result in filter(None, results):
        assert PodReport.decode(result.encode()) == result
    assert all(isinstance(value, str) and value.encode() is not None for value in state.fields.values())


def test_a_megabyte_of_labels_and_messages_is_bounded() -> None:
    labels = {f"l{number}": "x" * 1000 for number in range(1000)}
    big = pod("Failed", labels=labels, **main(ended(1, message="m" * 10**6), message="y" * 10**6, reason="z" * 10**6))
    assert len(reported(interpret("MODIFIED", big, RULES, NOW_S)).encode()) < 10_000


@pytest.mark.parametrize("number", [10**30, -(10**30), 10**4000, True, 1.5], ids=["a", "b", "c", "d", "e"])
def test_a_number_of_any_size_makes_no_report_that_cannot_be_sent(number: object) -> None:
    terminated = {"exitCode": number, "signal": number, "reason": "Error", "finishedAt": "2026-11-27T10:00:00Z"}
    pod = {
        "metadata": {"name": "p", "namespace": "n", "deletionGracePeriodSeconds": number,
                     "deletionTimestamp": "2026-11-27T10:00:00Z",
                     "labels": {"podrelay/launch-id": "l", "podrelay/attempt": "0"}},
        "spec": {"containers": [{"name": "base"}]},
        "status": {"phase": "Failed", "containerStatuses": [{"name": "base", "state": {"terminated": terminated}}]},
    }  # fmt: skip
    state = interpret("MODIFIED", pod, RULES, NOW_S)
    assert state.report is not None
    assert PodReport.decode(state.report.encode()) == state.report
