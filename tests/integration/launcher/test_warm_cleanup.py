"""Clean-ups of warm pods: the name does not say whose pod it is. A report does, or else the pod's labels."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from podrelay.protocol import identifiers
from podrelay.protocol.messages import CleanupAction, CleanupRequest
from podrelay.store.launch_queue import Acknowledgement
from tests.harness.launcher_rig import LauncherRig
from tests.harness.waiting import until

LAUNCH, OTHER = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
WARM = identifiers.warm_pod_name("etl", "a" * 32)
OURS = {
    identifiers.LABEL_WARM: "a" * 32, identifiers.LABEL_LAUNCH_ID: LAUNCH, identifiers.LABEL_ATTEMPT: "1",
    identifiers.LABEL_DEPLOYMENT: "default",
}  # fmt: skip
# A warm pod that no launch has got: it carries no launch.
IDLE = {identifiers.LABEL_WARM: "a" * 32, identifiers.LABEL_IDLE: "s", identifiers.LABEL_DEPLOYMENT: "default"}
RUNS = {"phase": "Running", "containerStatuses": [{"name": "base", "state": {"running": {"startedAt": "x"}}}]}


def put(rig: LauncherRig, labels: dict[str, str], uid: str = "u1") -> None:
    metadata = {"name": WARM, "namespace": "default", "uid": uid, "labels": dict(labels), "resourceVersion": "1"}
    rig.api.pods["default", WARM] = {"metadata": metadata, "status": RUNS}


def labels(rig: LauncherRig) -> dict[str, str]:
    return dict(rig.api.pods["default", WARM]["metadata"]["labels"])


def clean_up(rig: LauncherRig, action: CleanupAction, status: str = "finished", **values: Any) -> list[str]:
    """Order it as an executor does, and return the methods of the requests that it took."""
    methods: list[str] = []

    def note(request: Any, _: Any = None) -> None:
        methods.append(request.method)

    rig.api.fault = rig.api.look_fault = note
    request = CleanupRequest(LAUNCH, action, "default", WARM, **({"uid": "u1"} | values))
    rig.queue.acknowledge([Acknowledgement(LAUNCH, 1, "ti", cleanup=request)])
    job = f"rq:job:{identifiers.cleanup_job_id(LAUNCH, 1, action, request.unless_started)}"

    async def scenario() -> None:
        async with rig.launcher():
            await until(lambda: rig.redis.hget(job, "status") == status)

    asyncio.run(scenario())
    return methods


def test_a_pod_that_a_report_names_needs_no_look(rig: LauncherRig) -> None:
    put(rig, OURS)
    assert clean_up(rig, "delete", attempt=1) == ["DELETE"]
    assert not rig.api.pods


def test_a_pod_that_a_report_names_is_kept_without_a_look(rig: LauncherRig) -> None:
    put(rig, OURS)
    assert clean_up(rig, "done", attempt=1) == ["PATCH"]
    assert labels(rig)[identifiers.LABEL_DONE] == "True"


def test_a_pod_that_the_ledger_names_is_looked_at(rig: LauncherRig) -> None:
    put(rig, OURS)
    assert clean_up(rig, "delete", uid="") == ["GET", "DELETE"]
    assert not rig.api.pods


def test_a_pod_that_the_ledger_names_is_kept_after_a_look(rig: LauncherRig) -> None:
    put(rig, OURS)
    assert clean_up(rig, "done") == ["GET", "PATCH"]
    assert labels(rig)[identifiers.LABEL_DONE] == "True"


@pytest.mark.parametrize("action", ["delete", "done", "revoke"])
@pytest.mark.parametrize(
    "forged",
    [
        {**OURS, identifiers.LABEL_LAUNCH_ID: OTHER},
        {**OURS, identifiers.LABEL_ATTEMPT: "0"},
        {**OURS, identifiers.LABEL_DEPLOYMENT: "another"},
        {},
    ],
    ids=["another launch", "another attempt", "another deployment", "nobody's"],
)
def test_the_pod_of_another_launch_stays(rig: LauncherRig, action: CleanupAction, forged: dict[str, str]) -> None:
    """Whoever writes to Redis has put its name into the ledger."""
    put(rig, forged)
    assert clean_up(rig, action, "failed") == ["GET"]
    assert labels(rig) == forged
    ((_, entry),) = rig.redis.xrange(rig.names.quarantine)
    assert entry["kind"] == "foreign"


@pytest.mark.parametrize("action", ["delete", "done", "revoke"])
@pytest.mark.parametrize(("found", "uid"), [(IDLE, "u1"), (OURS, "another")], ids=["idle", "of another uid"])
def test_a_pod_that_the_launch_never_had_is_left_alone(
    rig: LauncherRig, action: CleanupAction, found: dict[str, str], uid: str
) -> None:
    put(rig, found, uid)
    assert clean_up(rig, action) == ["GET"]
    assert labels(rig) == found
    assert rig.redis.xlen(rig.names.quarantine) == 0


def test_a_revoked_pod_that_may_have_begun_runs_on(rig: LauncherRig) -> None:
    put(rig, OURS)
    assert clean_up(rig, "revoke", unless_started=True) == ["GET"]
    assert labels(rig) == OURS


def test_a_revoked_pod_that_hangs_goes(rig: LauncherRig) -> None:
    put(rig, OURS)
    assert clean_up(rig, "revoke") == ["GET", "PATCH", "DELETE"]
    assert not rig.api.pods
