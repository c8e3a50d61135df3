"""The end of a pod whose report cannot be decrypted: what the unencrypted fields and the row may decide."""

from __future__ import annotations

import uuid

import pytest

from podrelay.protocol import identifiers
from podrelay.scheduling.decisions import Policy, TaskRow, decide
from podrelay.scheduling.unreadable import limit, stand_in

LAUNCH = str(uuid.uuid4())
POD = identifiers.pod_name("etl-load", LAUNCH, 0)
ENTRY = {
    "attempt": "0",
    "outcome": "failed",
    "pod": POD,
    "namespace": "n",
    "uid": "u",
    "reason": "Error",
    "message": "m",
}


def test_a_stand_in_names_only_a_pod_of_its_launch() -> None:
    report = stand_in(LAUNCH, ENTRY)
    assert report is not None
    assert (report.outcome, report.pod, report.reason) == ("failed", POD, "Error")
    assert "cannot be decrypted" in report.message
    foreign = stand_in(LAUNCH, ENTRY | {"pod": identifiers.pod_name("x", str(uuid.uuid4()), 0)})
    assert foreign is not None
    assert foreign.pod == ""
    warm = identifiers.warm_pod_name("x", "f" * 32)
    named = stand_in(LAUNCH, ENTRY | {"pod": warm})
    assert named is not None
    assert named.pod == warm, "the launcher compares its labels"
    assert stand_in(LAUNCH, ENTRY | {"outcome": "started"}) is None
    assert stand_in(LAUNCH, {}) is None


@pytest.mark.parametrize("pod", [POD, identifiers.warm_pod_name("x", "f" * 32)], ids=["cold", "warm"])
@pytest.mark.parametrize("outcome", ["succeeded", "failed", "expired"])
@pytest.mark.parametrize(
    ("state", "host", "cleanup"),
    [
        ("running", (LAUNCH, 0), "nothing"),
        ("running", None, "nothing"),
        ("restarting", (LAUNCH, 0), "nothing"),
        ("running", (str(uuid.uuid4()), 0), "revoke"),
        ("queued", None, "revoke"),
        ("success", (LAUNCH, 0), "delete"),
        ("up_for_retry", (LAUNCH, 0), "delete"),
    ],
)
def test_it_never_ends_a_running_task_nor_deletes_its_pod(
    outcome: str, state: str, host: tuple[str, int] | None, cleanup: str, pod: str
) -> None:
    report = stand_in(LAUNCH, ENTRY | {"outcome": outcome, "pod": pod})
    assert report is not None
    row = TaskRow(state, 1, LAUNCH, host=host)
    decision = limit(decide(report, 1, 0, row, Policy(delete_worker_pods_on_failure=True)), report, 1, row)
    if cleanup == "nothing":
        assert decision is None
    else:
        assert decision is not None
        assert decision.cleanup in (cleanup, None) if outcome == "expired" else decision.cleanup == cleanup
        assert (decision.event or ("",))[0] in ("", state, "failed")
