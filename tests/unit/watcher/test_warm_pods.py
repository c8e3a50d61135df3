"""Warm pods in the watcher: idle ones are none of its business, and the times before the launch are not the launch's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from cryptography.fernet import Fernet

from podrelay.protocol import identifiers
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.mailbox import EXIT_UNUSED
from podrelay.protocol.messages import PodReport
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.protocol.starts import UNUSED
from podrelay.store.script_table import ScriptCall
from podrelay_workers.watcher.leader_election import Term
from podrelay_workers.watcher.outbox import Outbox
from podrelay_workers.watcher.pod_state import Rules, interpret
from podrelay_workers.watcher.pod_table import PodEntry, PodTable

NOW_S = 1_800_000_000.0
STARTED = "2026-11-20T10:00:00Z"
WARM_ID = "0123456789abcdef" * 2
WARM = identifiers.warm_pod_name("etl", WARM_ID)
LAUNCH = identifiers.new_launch_id()
COLD = identifiers.pod_name("etl", LAUNCH, 0)
OF_LAUNCH = {identifiers.LABEL_LAUNCH_ID: LAUNCH, identifiers.LABEL_ATTEMPT: "0"}
IDLE = {identifiers.LABEL_WARM: WARM_ID, identifiers.LABEL_IDLE: "0123456789abcdef"}
ASSIGNED = {identifiers.LABEL_WARM: WARM_ID, **OF_LAUNCH}
RUNNING = {"running": {"startedAt": STARTED}}


def pod(labels: dict[str, str], state: dict[str, Any], name: str = WARM, phase: str = "Running", **more: Any) -> Any:
    return {
        "metadata": {
            "name": name, "namespace": "n", "uid": f"uid of {name}", "labels": labels, "creationTimestamp": STARTED,
            **more.get("metadata", {}),
        },
        "spec": {"nodeName": "k", "restartPolicy": "Never", "containers": [{"name": "base", "image": "i"}]},
        "status": {
            "phase": phase,
            "containerStatuses": [{"name": "base", "state": state}],
            "conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": STARTED}],
            **more.get("status", {}),
        },
    }  # fmt: skip


def ended(code: int, **state: Any) -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": "Error" if code else "Completed", "startedAt": STARTED,
                           "finishedAt": "2026-11-20T10:30:00Z", **state}}  # fmt: skip


UNUSED_END = pod(ASSIGNED, ended(EXIT_UNUSED), phase="Failed")


@pytest.mark.parametrize("labels", [IDLE, {identifiers.LABEL_WARM: WARM_ID}, {identifiers.LABEL_IDLE: "s"}])
@pytest.mark.parametrize("state", [RUNNING, ended(EXIT_UNUSED), {"waiting": {"reason": "ErrImagePull"}}])
@pytest.mark.parametrize("event", ["LISTED", "ADDED", "MODIFIED", "DELETED"])
def test_an_idle_pod_is_passed_over_without_a_word(labels: dict[str, str], state: Any, event: str) -> None:
    table = PodTable(Rules(frozenset({"ErrImagePull"}), grace_s=0.0))
    seen = table.observe(event, pod(labels, state), NOW_S, 0.0)
    assert (seen.publication, seen.doubtful, seen.skipped) == (None, None, "")
    assert len(table) == 0
    assert table.pop_due(1e6) == []


def test_a_pod_without_labels_is_still_worth_a_line() -> None:
    assert PodTable(Rules()).observe("ADDED", pod({}, RUNNING), NOW_S, 0.0).skipped


def test_its_start_is_the_launchs_start() -> None:
    """The container has run for minutes when the launch comes."""
    table = PodTable(Rules())
    table.observe("ADDED", pod(IDLE, RUNNING), NOW_S, 0.0)
    publication = table.observe("MODIFIED", pod(ASSIGNED, RUNNING), NOW_S, 1.0).publication
    assert publication is not None
    assert publication.report is not None
    assert (publication.report.outcome, publication.report.pod) == ("started", WARM)
    assert publication.report.seen_at_s == NOW_S
    assert publication.restore is None
    assert publication.fields["started"] == "1"
    assert {name for name in publication.fields if name[:2] == "t_"} == set()


def test_its_end_has_its_own_time() -> None:
    state = interpret("MODIFIED", pod(ASSIGNED, ended(0), phase="Succeeded"), Rules(), NOW_S)
    assert state.report is not None
    assert state.report.outcome == "succeeded"
    assert {name for name in state.fields if name[:2] == "t_"} == {"t_finished"}
    assert state.report.seen_at_s == float(state.fields["t_finished"])


def test_a_list_restores_its_launch_without_the_times_before_it() -> None:
    publication = PodTable(Rules()).observe("LISTED", pod(ASSIGNED, RUNNING), NOW_S, 0.0).publication
    assert publication is not None
    assert publication.restore == {"pod": WARM, "namespace": "n", "uid": f"uid of {WARM}", "cluster": "default"}


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({}, "its idle time was over, or Redis lost its data"),
        ({"status": {"reason": "Evicted", "message": "memory"}}, "Evicted: memory"),
        (
            {"metadata": {"deletionTimestamp": "2026-11-20T10:30:00Z", "deletionGracePeriodSeconds": 30}},
            "the pod was deleted from outside",
        ),
        (
            {"status": {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "Preempted",
                                        "message": "m", "lastTransitionTime": STARTED}]}},
            "Preempted: m",
        ),
    ],
)  # fmt: skip
def test_the_end_of_one_that_never_got_its_workload(changes: Any, cause: str) -> None:
    given = pod(ASSIGNED, ended(EXIT_UNUSED), phase="Failed", **changes)
    report = interpret("MODIFIED", given, Rules(), NOW_S).report
    assert report is not None
    assert (report.outcome, report.reason, report.failure_class, report.container) == (
        "failed", UNUSED, "infrastructure", "base",
    )  # fmt: skip
    assert report.message.startswith("the warm pod ended without having got the task's workload")
    assert cause in report.message


def test_the_same_exit_code_of_another_pod_means_nothing_else() -> None:
    report = interpret("MODIFIED", pod(OF_LAUNCH, ended(EXIT_UNUSED), COLD, "Failed"), Rules(), NOW_S).report
    assert report is not None
    assert report.reason == "Error"


def test_the_pod_that_follows_a_warm_one_of_the_same_attempt_is_reported_too() -> None:
    """The warm one was given up, and ended; its report counts for nothing in the ledger."""
    table = PodTable(Rules())
    events = [("MODIFIED", UNUSED_END), ("DELETED", UNUSED_END), ("ADDED", pod(OF_LAUNCH, RUNNING, COLD)),
              ("MODIFIED", pod(OF_LAUNCH, ended(0), COLD, "Succeeded"))]  # fmt: skip
    seen = [table.observe(event, given, NOW_S, 1.0).publication for event, given in events]
    assert [one and one.report and (one.report.outcome, one.report.pod) for one in seen] == [
        ("failed", WARM), None, ("started", COLD), ("succeeded", COLD),
    ]  # fmt: skip


def test_the_reports_of_two_pods_of_one_attempt_are_not_merged() -> None:
    sent: list[str] = []

    class Redis:
        async def run_many(self, calls: list[ScriptCall]) -> list[int]:
            sent.extend(
                PodReport.decode(cipher.reports.decrypt(str(call.args[5]))).pod for call in calls
            )  # as publish.lua takes it
            return [1] * len(calls)

    cipher = PayloadCipher(Fernet.generate_key().decode(), "d")
    outbox = Outbox(Redis(), RedisKeys("d"), cipher, "default", 100)  # type: ignore[arg-type]
    table = PodTable(Rules())
    for given in (UNUSED_END, pod(OF_LAUNCH, RUNNING, COLD)):
        publication = table.observe("MODIFIED", given, NOW_S, 1.0).publication
        assert publication is not None
        outbox.put(publication)
    asyncio.run(outbox.flush(Term("me", "1", "e")))
    assert sent == [WARM, COLD]


def test_a_live_pod_is_found_by_its_launch_whatever_name_the_ledger_holds() -> None:
    table = PodTable(Rules())
    table.observe("ADDED", pod(ASSIGNED, RUNNING), NOW_S, 0.0)
    forged = PodEntry("m", identifiers.warm_pod_name("x", "f" * 32), LAUNCH, 0)
    assert table.namespace_of(forged) == "n"
    assert table.namespace_of(PodEntry("m", forged.name, LAUNCH, 1)) is None
    table.observe("DELETED", pod(ASSIGNED, ended(0), phase="Succeeded"), NOW_S, 0.0)
    assert table.namespace_of(forged) is None


@pytest.mark.parametrize("known", [True, False], ids=["labelled before", "labelled late"])
def test_a_warm_pod_beside_the_pod_of_the_attempts_own_name_says_nothing(known: bool) -> None:
    """Its labels came after a launcher had looked for such pods; whatever becomes of it, it never gets the workload."""
    table = PodTable(Rules())
    first = [("MODIFIED", pod(ASSIGNED, RUNNING))] if known else []
    for event, given in (*first, ("ADDED", pod(OF_LAUNCH, RUNNING, COLD))):
        table.observe(event, given, NOW_S, 0.0)
    for event, state in (("MODIFIED", RUNNING), ("MODIFIED", ended(137)), ("DELETED", ended(137))):
        assert table.observe(event, pod(ASSIGNED, state), NOW_S, 1.0).publication is None
    assert table.namespace_of(PodEntry("m", "x", LAUNCH, 0)) == "n"
    seen = table.observe("MODIFIED", pod(OF_LAUNCH, ended(0), COLD, "Succeeded"), NOW_S, 1.0).publication
    assert seen is not None
    assert seen.report is not None
    assert (seen.report.outcome, seen.report.pod) == ("succeeded", COLD)
