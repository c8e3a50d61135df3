"""Why a warm pod does not become ready."""

from __future__ import annotations

from typing import Any

import pytest

from podrelay_workers.launcher.warm_pool.trouble import SILENT_S, is_unused, trouble_of


def pod(state: dict[str, Any] | None = None, phase: str = "Pending", **changes: Any) -> dict[str, Any]:
    status: dict[str, Any] = {"phase": phase, **changes.pop("status", {})}
    if state is not None:
        status["containerStatuses"] = [{"name": "proxy", "state": {}}, {"name": "base", "state": state}]
    spec = {"containers": [{"name": "proxy"}, {"name": "base"}]}
    return {"metadata": {"name": "w", **changes}, "spec": spec, "status": status}


def ended(code: int | None, **more: Any) -> dict[str, Any]:
    return pod({"terminated": {"exitCode": code, **more}}, "Failed")


@pytest.mark.parametrize(
    ("found", "age_s", "kind", "text"),
    [
        (None, 20.0, "lost", "gone"),
        (pod(), 20.0, "waiting", "Pending"),
        (pod({"waiting": {"reason": "ContainerCreating"}}), 20.0, "waiting", "ContainerCreating"),
        (pod({"waiting": {"reason": "ErrImagePull", "message": "no such image"}}), 20.0, "refused", "no such image"),
        (pod({"waiting": {"reason": "CreateContainerConfigError"}}), 20.0, "refused", "CreateContainerConfigError"),
        (ended(1, reason="Error"), 20.0, "refused", "exit code 1 (Error); is podrelay installed"),
        (ended(127, message="python: not found\n"), 20.0, "refused", "127: python: not found; is podrelay installed"),
        (ended(0), 20.0, "refused", "exit code 0; is podrelay installed"),
        (ended(137, reason="OOMKilled"), 20.0, "lost", "137"),
        (ended(75), 20.0, "lost", "redis_url"),
        (ended(None), 20.0, "lost", "exit code None"),
        (pod(phase="Failed", status={"reason": "Evicted"}), 20.0, "lost", "Evicted"),
        (pod(deletionTimestamp="2026-11-28T00:00:00Z"), 20.0, "lost", "deleted"),
        (pod({"running": {"startedAt": "x"}}, "Running"), SILENT_S, "waiting", "Running"),
        (pod({"running": {"startedAt": "x"}}, "Running"), SILENT_S + 1, "refused", "redis_url"),
        (pod(status={"containerStatuses": "forged"}), 20.0, "waiting", "Pending"),
    ],
)
def test_what_the_status_says(found: dict[str, Any] | None, age_s: float, kind: str, text: str) -> None:
    what, why = trouble_of(found, age_s)
    assert what == kind
    assert text in why


def test_an_init_container_that_fails_counts() -> None:
    inits = [
        {"name": "fetch", "state": {"terminated": {"exitCode": 0}}},
        {"name": "check", "state": {"terminated": {"exitCode": 3}}},
    ]
    found = pod({"waiting": {"reason": "PodInitializing"}}, status={"initContainerStatuses": inits})
    assert trouble_of(found, 20.0)[0] == "refused"


def test_only_idle_pods_and_those_that_ended_unused_long_ago_are_of_no_use() -> None:
    def with_end(code: int, finished: Any) -> dict[str, Any]:
        return pod(
            {"terminated": {"exitCode": code, "finishedAt": finished}}, "Failed", labels={"podrelay/launch-id": "x"}
        )

    now_s = 1_800_000_000.0
    assert is_unused(pod(labels={"podrelay/idle": "0" * 16}), now_s)
    assert is_unused(with_end(75, "2026-11-28T00:00:00Z"), now_s)
    assert not is_unused(with_end(75, "2027-01-15T07:55:00Z"), now_s)
    assert not is_unused(with_end(1, "2026-11-28T00:00:00Z"), now_s)
    assert not is_unused(with_end(75, "forged"), now_s)
    assert not is_unused(with_end(75, None), now_s)
    assert not is_unused(pod({"running": {}}, "Running", labels={"podrelay/launch-id": "x"}), now_s)
