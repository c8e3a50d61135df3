"""What of a pod decides whether it may be deleted while it is pending."""

from __future__ import annotations

import pytest

from podrelay_workers.launcher.unstarted_pod import has_started

RUNNING = {"state": {"running": {"startedAt": "2026-11-27T10:00:00Z"}}}


@pytest.mark.parametrize(
    "status",
    [
        {"phase": "Running"}, {"phase": "Succeeded"}, {"phase": "Failed"}, {"containerStatuses": [RUNNING]},
        {"phase": "Pending", "containerStatuses": [{}, {"state": {"terminated": {"exitCode": 0}}}]},
        {"containerStatuses": [None, "x", {"state": []}, RUNNING]},
    ],
)  # fmt: skip
def test_a_pod_has_started(status: object) -> None:
    assert has_started({"status": status})


@pytest.mark.parametrize(
    "status",
    [
        None, {}, {"phase": "Pending"}, {"phase": ["Running"]}, {"containerStatuses": "x"}, {"containerStatuses": {"a": 1}},
        {"containerStatuses": [None, 7, "x", [], {}, {"state": None}, {"state": "running"}, {"state": [1]}]},
    ],
)  # fmt: skip
def test_a_pod_has_not_started_whatever_else_its_status_holds(status: object) -> None:
    assert not has_started({"status": status})
