"""What the watcher remembers of pods, and that it publishes each state once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from cryptography.fernet import Fernet
from hypothesis import given, settings
from hypothesis import strategies as st

from podrelay.protocol import identifiers
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.messages import PodReport
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.store.script_table import ScriptCall
from podrelay_workers.kube.pod_decoder import decode_event
from podrelay_workers.watcher.leader_election import Term
from podrelay_workers.watcher.outbox import Outbox
from podrelay_workers.watcher.pod_state import Rules
from podrelay_workers.watcher.pod_table import Observation, PodEntry, PodTable, Publication
from podrelay_workers.watcher.pod_view import read_pod

NOW_S = 1_800_000_000.0
RULES = Rules(frozenset({"ErrImagePull"}), grace_s=60.0)


def pod(state: dict[str, Any] | None = None, phase: str = "Running", uid: str = "u", **labels: str) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "p", "namespace": "n", "uid": uid,
            "labels": {"podrelay/launch-id": "l", "podrelay/attempt": "0", "airflow-worker": "7", **labels},
            "annotations": {"podrelay/subject": "ti-1", "dag_id": "d", "task_id": "t", "run_id": "r", "try_number": "2"},
            "creationTimestamp": "2026-11-20T10:00:00Z",
        },
        "spec": {"nodeName": "k", "containers": [{"name": "base", "image": "i"}]},
        "status": {"phase": phase, "containerStatuses": [{"name": "base", "state": state}] if state else []},
    }  # fmt: skip


RUNNING = pod({"running": {"startedAt": "2026-11-20T10:00:05Z"}})
DONE = pod({"terminated": {"exitCode": 0, "reason": "Completed"}}, "Succeeded")


def waiting(reason: str, message: str = "m") -> dict[str, Any]:
    return pod({"waiting": {"reason": reason, "message": message}}, "Pending")


def summary(publication: Publication | None) -> str:
    return (
        f"{publication.report.outcome} {publication.report.reason}".strip()
        if publication and publication.report
        else ""
    )


def observe(table: PodTable, event: str, given: dict[str, Any], clock_s: float = 0.0) -> str:
    return summary(table.observe(event, given, NOW_S, clock_s).publication)


def test_each_outcome_is_published_once() -> None:
    table = PodTable(RULES)
    events = [("ADDED", waiting("ContainerCreating")), ("MODIFIED", RUNNING), ("MODIFIED", RUNNING), ("MODIFIED", DONE),
              ("MODIFIED", DONE), ("DELETED", DONE)]  # fmt: skip
    assert [observe(table, *event) for event in events] == ["", "started", "", "succeeded", "", ""]
    assert len(table) == 0
    assert observe(table, "DELETED", DONE) == ""  # also when it comes once more


@pytest.mark.parametrize(
    ("found", "state"), [(waiting("ContainerCreating"), "claimed"), (RUNNING, None)], ids=["waits", "runs"]
)
def test_a_pod_that_may_lack_its_secret_is_restored_as_one_that_is_being_made(
    found: dict[str, Any], state: str | None
) -> None:
    """Its launch is then offered again, and a launcher creates the Secret if it is missing."""
    annotations = {**found["metadata"]["annotations"], identifiers.ANNOTATION_WORKLOAD_SECRET: "p-0123abcd"}
    annotated = {**found, "metadata": {**found["metadata"], "annotations": annotations}}
    publication = PodTable(RULES).observe("LISTED", annotated, NOW_S, 0.0).publication
    assert publication is not None
    assert (publication.restore or {}).get("state") == state


def test_a_list_restores_what_the_ledger_may_have_lost() -> None:
    publication = PodTable(RULES).observe("LISTED", waiting("ContainerCreating"), NOW_S, 0.0).publication
    assert publication is not None
    assert publication.report is None
    assert publication.restore == {
        "pod": "p", "namespace": "n", "uid": "u", "cluster": "default", "owner": "7", "subject": "ti-1",
        "t_created": "1795168800.000", "kind": "task", "key": '["d", "t", "r", 2, -1]',
    }  # fmt: skip
    broken = RUNNING | {"metadata": RUNNING["metadata"] | {"annotations": ["x"], "creationTimestamp": 3}}
    assert PodTable(RULES).observe("LISTED", broken, NOW_S, 0.0).publication is not None


def test_the_same_wait_is_published_at_most_once_a_minute() -> None:
    table = PodTable(RULES)
    times = [(0, "ErrImagePull", "a"), (1, "ErrImagePull", "a"), (5, "ImagePullBackOff", "b"), (30, "ErrImagePull", "c"),
             (61, "ErrImagePull", "c"), (62, "CreateContainerError", "d")]  # fmt: skip
    found = [observe(table, "MODIFIED", waiting(reason, message), at_s) for at_s, reason, message in times]
    assert found == ["pending ErrImagePull", "", "", "", "pending ErrImagePull", "pending CreateContainerError"]


def due(table: PodTable, clock_s: float) -> list[str]:
    return [summary(table.record(entry, item.report, NOW_S, clock_s)) for entry, item in table.pop_due(clock_s)]


def test_a_fatal_wait_falls_due_without_an_event_and_once() -> None:
    table = PodTable(RULES)
    observe(table, "MODIFIED", waiting("ErrImagePull"), 10.0)
    observe(table, "MODIFIED", waiting("ImagePullBackOff"), 40.0)
    assert due(table, 69.0) == []
    assert due(table, 70.0) == ["failed ImagePullBackOff"]
    assert due(table, 71.0) == []
    assert observe(table, "MODIFIED", RUNNING, 72.0) == ""


@pytest.mark.parametrize("named", [True, False])
def test_a_limit_on_pulls_that_lasts_is_never_fatal(named: bool) -> None:
    """Before 1.32 the kubelet's back-off does not repeat the cause."""
    table = PodTable(RULES)
    limit = "pull QPS exceeded"
    back_off = 'Back-off pulling image "x"' + (f": ErrImagePull: {limit}" if named else "")
    for start_s in (0.0, 100.0, 300.0):
        observe(table, "MODIFIED", waiting("ErrImagePull", limit), start_s)
        observe(table, "MODIFIED", waiting("ImagePullBackOff", back_off), start_s + 1.0)
        assert due(table, start_s + 99.0) == []
    observe(table, "MODIFIED", waiting("ErrImagePull", "not found"), 400.0)
    observe(table, "MODIFIED", waiting("ImagePullBackOff", 'Back-off pulling image "x"'), 401.0)
    assert due(table, 460.0) == ["failed ImagePullBackOff"]


def test_another_wait_starts_another_grace_period() -> None:
    table = PodTable(RULES)
    observe(table, "MODIFIED", waiting("ErrImagePull"), 0.0)
    observe(table, "MODIFIED", waiting("ContainerCreating"), 30.0)
    observe(table, "MODIFIED", waiting("ErrImagePull"), 31.0)
    assert due(table, 61.0) == []
    assert due(table, 91.0) == ["failed ErrImagePull"]


def test_a_slow_start_is_reported_once() -> None:
    table = PodTable(RULES)
    observe(table, "MODIFIED", waiting("ContainerCreating"), 0.0)
    assert [(item.with_events, item.without_reason) for _, item in table.pop_due(8.0)] == [(True, False)]
    observe(table, "MODIFIED", waiting("ContainerCreating"), 9.0)
    assert table.pop_due(10.0) == []
    assert due(table, 30.0) == ["pending ContainerCreating"]
    observe(table, "MODIFIED", waiting("ContainerCreating"), 31.0)
    assert due(table, 300.0) == []


def terminating(state: dict[str, Any] | None) -> dict[str, Any]:
    given = pod(state)
    return given | {"metadata": given["metadata"] | {"deletionTimestamp": "2026-11-20T10:00:30Z"}}


def test_a_node_that_does_not_end_its_pod_is_reported_once_even_after_the_start() -> None:
    table, now_s = PodTable(RULES), 1_795_168_800.0  # 30 s before its time
    table.observe("MODIFIED", RUNNING, now_s, 0.0)
    table.observe("MODIFIED", terminating({"running": {}}), now_s, 0.0)
    table.observe("MODIFIED", terminating({"running": {}}), now_s + 20.0, 20.0)  # a condition changed: the same wait
    assert due(table, 59.0) == []
    assert due(table, 60.0) == ["pending NodeNotResponding"]
    assert due(table, 200.0) == []
    assert observe(table, "MODIFIED", RUNNING, 201.0) == ""
    assert observe(table, "DELETED", terminating({"running": {}}), 300.0) == "failed PodDeleted"


def test_a_fatal_wait_goes_on_under_a_new_leader() -> None:
    """The ledger holds when it began."""
    first = PodTable(RULES)
    first.observe("ADDED", waiting("ContainerCreating"), NOW_S - 5.0, 0.0)
    publication = first.observe("MODIFIED", waiting("ErrImagePull"), NOW_S, 5.0).publication
    assert publication is not None
    assert (publication.fields["wait"], publication.fields["t_wait"]) == ("ErrImagePull:base", f"{NOW_S:.3f}")
    second = PodTable(RULES)
    publication = second.observe("LISTED", waiting("ImagePullBackOff"), NOW_S + 50.0, 100.0).publication
    assert publication is not None
    assert "t_wait" not in publication.fields  # what the first one wrote stays
    assert publication.fields["t_wait?"] == f"{NOW_S + 50.0:.3f}"
    (entry,) = second.fatal_waits()
    second.continue_wait(
        entry, {"attempt": "0", "wait": "CreateContainerError:base", "t_wait": f"{NOW_S:.3f}"}, NOW_S + 50.0, 100.0
    )
    second.continue_wait(entry, {"attempt": "1", "wait": entry.wait, "t_wait": f"{NOW_S:.3f}"}, NOW_S + 50.0, 100.0)
    second.continue_wait(entry, {"attempt": "0", "wait": entry.wait, "t_wait": "soon"}, NOW_S + 50.0, 100.0)
    assert due(second, 109.0) == []
    second.continue_wait(entry, {"attempt": "0", "wait": entry.wait, "t_wait": f"{NOW_S:.3f}"}, NOW_S + 50.0, 100.0)
    assert due(second, 109.0) == []
    assert due(second, 111.0) == ["failed ImagePullBackOff"]


def test_another_launch_under_the_same_name() -> None:
    """The pod was replaced while no watcher ran: the former one is probably gone, which must be confirmed."""
    table = PodTable(RULES)
    observe(table, "ADDED", RUNNING)
    other = pod({"running": {}}, uid="u2", **{"podrelay/launch-id": "other"})
    seen = table.observe("LISTED", other, NOW_S, 1.0)
    assert seen.doubtful is not None
    assert (seen.doubtful.launch_id, summary(table.record_gone(seen.doubtful, NOW_S, 1.0))) == (
        "l",
        "failed PodVanished",
    )
    assert table.holds("n", "p", "other")
    assert not table.holds("n", "p", "l")
    assert table.namespace_of(PodEntry("m", "p", "x", 0)) == table.namespace_of(PodEntry("m", "q", "other", 0)) == "n"
    table.forget(("n", "p"))
    assert table.namespace_of(PodEntry("m", "p", "x", 0)) is table.namespace_of(PodEntry("m", "q", "other", 0)) is None


def test_the_same_launch_under_the_same_name_goes_on() -> None:
    table = PodTable(RULES)
    observe(table, "ADDED", RUNNING)
    seen = table.observe("LISTED", pod({"running": {}}, uid="u2"), NOW_S, 1.0)
    assert seen.doubtful is None
    assert table.holds("n", "p", "l")


def test_missing_and_gone() -> None:
    table = PodTable(RULES)
    observe(table, "ADDED", RUNNING)
    assert table.missing("n", frozenset({("n", "p")})) == []
    assert table.missing("other", frozenset()) == []
    (entry,) = table.missing(None, frozenset())
    assert summary(table.record_gone(entry, NOW_S, 0.0)) == "failed PodVanished"
    assert table.record_gone(entry, NOW_S, 0.0) is None
    assert len(table) == 0


def test_a_pod_that_is_gone_without_a_time_of_deletion() -> None:
    table = PodTable(RULES)
    observe(table, "ADDED", RUNNING)
    seen = table.observe("DELETED", RUNNING, NOW_S, 0.0)
    assert seen.publication is None
    assert seen.doubtful is not None
    assert summary(table.record_gone(seen.doubtful, NOW_S, 0.0)) == "failed PodDeleted"


def test_an_end_is_not_overtaken_by_its_pods_absence() -> None:
    """The report may not have reached the ledger yet when a comparison finds the pod missing."""
    table = PodTable(RULES)
    observe(table, "ADDED", RUNNING)
    assert observe(table, "DELETED", DONE, 5.0) == "succeeded"
    assert table.record_gone(PodEntry("n", "p", "l", 0, "u"), NOW_S, 6.0) is None


def test_skipped_with_one_line() -> None:
    table = PodTable(RULES)
    foreign = {"metadata": {"name": "x", "namespace": "n"}}
    assert table.observe("ADDED", foreign, NOW_S, 0.0).skipped.startswith("n/x: no launch id")
    assert table.observe("MODIFIED", foreign, NOW_S, 0.0).skipped == ""
    assert table.observe("MODIFIED", pod(airflow_pod_revoked="1"), NOW_S, 0.0).skipped == ""


def test_a_publication_holds_the_ledger_fields() -> None:
    publication = PodTable(RULES).observe("MODIFIED", RUNNING, NOW_S, 0.0).publication
    assert publication is not None
    assert isinstance(publication.report, PodReport)
    assert publication.fields == {
        "pod": "p", "namespace": "n", "uid": "u", "node": "k", "t_started": "1795168805.000", "started": "1",
    }  # fmt: skip


# --- the whole path, from the bytes of the API server to what is stored ------------------------------------------------
class _Redis:
    """Accepts script calls as Redis does: every argument must be one that the client can encode."""

    def __init__(self) -> None:
        self.calls: list[ScriptCall] = []

    async def run_many(self, calls: Sequence[ScriptCall]) -> list[int]:
        for call in calls:
            assert all(isinstance(key, str) for key in call.keys)
            for item in call.args:
                assert isinstance(item, (str, int, float))
                str(item).encode()  # half a surrogate pair would raise in the client
        self.calls += calls
        return [0 for _ in calls]


WORDS = st.sampled_from(["Pending", "Running", "Failed", "Succeeded", "Unknown", "base", "ErrImagePull", "OnFailure",
                         "Always", "2026-11-20T10:00:00Z", "\ud800", "x" * 5000])  # fmt: skip
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | WORDS
    | st.text(max_size=9)
)
FIELDS = st.sampled_from([
    "name", "namespace", "uid", "labels", "annotations", "phase", "reason", "message", "state", "lastState", "terminated",
    "waiting", "running", "exitCode", "signal", "startedAt", "finishedAt", "conditions", "type", "status", "restartPolicy",
    "restartPolicyRules", "exitCodes", "operator", "values", "action", "containers", "initContainers", "containerStatuses",
    "initContainerStatuses", "nodeName", "deletionTimestamp", "deletionGracePeriodSeconds", "lastTransitionTime",
])  # fmt: skip
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=4), max_leaves=20
)


@pytest.mark.timeout(60)
@settings(max_examples=300, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(["LISTED", "ADDED", "MODIFIED", "DELETED"]), min_size=1, max_size=3),
    metadata=st.dictionaries(FIELDS, VALUES, max_size=5),
    spec=st.dictionaries(FIELDS, VALUES, max_size=4) | VALUES,
    status=st.dictionaries(FIELDS, VALUES, max_size=5) | VALUES,
    labels=st.sampled_from([{"podrelay/launch-id": "l", "podrelay/attempt": "0"}, {"podrelay/launch-id": 3}, None, []]),
)
def test_no_pod_stops_the_watcher(kinds: list[str], metadata: Any, spec: Any, status: Any, labels: Any) -> None:
    """Decoded, interpreted, entered, reported when due, and sent, as the watcher does: nothing raises."""
    given_pod = {"metadata": {"name": "p", "namespace": "n", "uid": "u", **metadata, "labels": labels}, "spec": spec,
                 "status": status}  # fmt: skip
    table, redis, now_s = PodTable(RULES), _Redis(), NOW_S
    outbox = Outbox(redis, RedisKeys(), PayloadCipher(Fernet.generate_key().decode(), "default"), "default", 1000)  # type: ignore[arg-type]

    def put(publication: Publication | None) -> None:
        if publication is not None:
            outbox.put(publication)

    for number, kind in enumerate(kinds):
        event = decode_event(json.dumps({"type": kind, "object": given_pod}).encode())
        seen = table.observe(kind, event["object"], now_s + number, float(number))
        assert len(seen.skipped) < 1000
        put(seen.publication)
        if seen.doubtful is not None:
            put(table.record_gone(seen.doubtful, now_s, float(number)))
    for entry, deferred in table.pop_due(1e6):
        put(table.record(entry, deferred.report, now_s, 1e6))
    for entry in table.missing(None, frozenset()):
        put(table.record_gone(entry, now_s, 1e6))
    asyncio.run(outbox.flush(Term("me", "1", "e")))
    assert len(outbox) == 0


@pytest.mark.parametrize("team", ["default", "a-team", "_team-"])
def test_labels_show_which_deployment_a_pod_belongs_to(team: str) -> None:
    labels = {"podrelay/deployment": "d", "podrelay/cluster": identifiers.cluster_label(team)}
    ours = pod(None, "Running", "u", **labels)
    assert not read_pod(ours).belongs_to_others("d", team) and not read_pod(pod()).belongs_to_others("d", team)
    assert read_pod(ours).belongs_to_others("e", team) and read_pod(ours).belongs_to_others("d", "another")


def test_a_megabyte_of_labels_leaves_a_small_entry() -> None:
    labels = {f"l{number}": "x" * 1000 for number in range(1000)}
    event = decode_event(json.dumps({"type": "ADDED", "object": pod({"running": {}}, **labels)}).encode())
    table = PodTable(RULES)
    publication = table.observe("LISTED", event["object"], NOW_S, 0.0).publication
    assert publication is not None
    assert publication.restore is not None
    assert sum(len(value) for value in publication.restore.values()) < 2000
    (entry,) = table.missing(None, frozenset())
    assert sum(len(str(getattr(entry, name))) for name in entry.__slots__) < 2000


def test_what_follows_a_published_end_is_not_read_but_the_pod_leaves_when_it_is_deleted() -> None:
    table = PodTable(RULES)
    assert observe(table, "MODIFIED", DONE) == "succeeded"
    strange = pod({"terminated": {"exitCode": 3, "reason": "Error"}}, "Failed")
    assert table.observe("MODIFIED", strange, NOW_S, 1.0) == Observation()
    assert table.observe("MODIFIED", waiting("ErrImagePull"), NOW_S, 1.0) == Observation()
    assert table.fatal_waits() == [] and len(table) == 1
    assert table.observe("DELETED", DONE, NOW_S, 1.0) == Observation()
    assert len(table) == 0


@pytest.mark.parametrize(
    ("follows", "expected"),
    [
        (pod({"terminated": {"exitCode": 3, "reason": "Error"}}, "Failed", uid="another"), ""),  # of the same attempt
        (pod({"running": {}}, uid="another", **{"podrelay/attempt": "1"}), "started"),
        (pod({"running": {}}, **{"podrelay/launch-id": "m"}), "started"),
    ],
)
def test_another_pod_of_the_name_of_one_that_ended_is_read(follows: dict[str, Any], expected: str) -> None:
    table = PodTable(RULES)
    observe(table, "MODIFIED", DONE)
    assert observe(table, "MODIFIED", follows) == expected
    labels = follows["metadata"]["labels"]
    assert table.holds("n", "p", labels["podrelay/launch-id"])


def test_a_pod_that_ended_and_is_revoked_leaves() -> None:
    table = PodTable(RULES)
    observe(table, "MODIFIED", DONE)
    revoked = pod({"terminated": {"exitCode": 0}}, "Succeeded", **{identifiers.LABEL_REVOKED: "True"})
    assert observe(table, "MODIFIED", revoked) == ""
    assert len(table) == 0
