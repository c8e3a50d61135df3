"""The DAG podrelay_troubles: each task waits or fails for its reason, and the commands of `make up` show why."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
import redis

from demo.run import TROUBLES_DAG_ID
from podrelay.protocol.redis_keys import RedisKeys
from tests.end_to_end.stack_rig import Run, StackRig

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def troubles(rig: StackRig) -> Iterator[Run]:
    rig.stack.make_troubles()
    run = rig.trigger(TROUBLES_DAG_ID)
    yield run
    run.fail_rest()  # no task may wait during the next test


def typed(rig: StackRig, command: str) -> str:
    """The output of a command in a shell that has read the file named by `make up`."""
    shell = f". {rig.stack.environment_file}; {command}"
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        ["/bin/sh", "-c", shell], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


def entries(run: Run) -> dict[str, dict[str, str]]:
    """The ledger entries of the run by task."""
    with redis.Redis.from_url(run.rig.stack.redis_url, decode_responses=True) as client:
        prefix = RedisKeys().launch_prefix
        return {launch.label: client.hgetall(prefix + launch.launch_id) for launch in run.launches()}


def _the_quota_is_shown(rig: StackRig, run: Run) -> None:
    """First of all: within a minute, no task waits for it any more."""

    def ledger_says() -> bool:
        waiting = [entry for label, entry in entries(run).items() if label.startswith("in_a_small_namespace")]
        return any("exceeded quota" in entry.get("message", "") for entry in waiting)

    rig.until("the ledger names the quota", ledger_says)
    rig.until("status names the quota", lambda: "QuotaExceeded" in _reasons(_overview(rig)))


def _overview(rig: StackRig) -> Any:
    return json.loads(typed(rig, "airflow podrelay status --json"))


def _reasons(overview: Any) -> set[str]:
    return {wait["reason"] for wait in overview["waits"]}


def _pods_that_wait_are_shown(rig: StackRig) -> Any:
    """In one overview, which is returned: for a moment there is only one of them, as a pod whose image is absent is replaced
    each minute.
    """
    shown: list[Any] = []

    def both() -> bool:
        shown[:] = [_overview(rig)]
        reasons = _reasons(shown[0])
        no_image = reasons & {"ErrImagePull", "ImagePullBackOff"}
        return shown[0]["pods"]["starting"] >= 2 and "Unschedulable" in reasons and bool(no_image)

    rig.until("status names both pods that wait", both)
    return shown[0]


def _the_log_of_each_task_says_why(rig: StackRig, run: Run) -> None:
    """None of these tasks has begun, so that it wrote no log itself."""
    tasks = {task.label: task for task in run.tasks()}
    launches = {launch.label: launch for launch in run.launches()}

    def says(label: str, *words: str) -> bool:
        shown = rig.api.log_text(run.dag_id, run.run_id, tasks[label])
        return all(word in shown for word in (*words, f"Launch {launches[label].launch_id}, attempt "))

    rig.until("no node", lambda: says("fits_no_node", "pod pending: Unschedulable", f"/{launches['fits_no_node'].pod}"))
    # ErrImagePull or ImagePullBackOff: the kubelet alternates, podrelay reports one wait.
    rig.until("no image", lambda: says("image_is_absent", "pod pending", "ImagePull"))
    rig.until("a failed container", lambda: says("container_fails", "pod failed", "no library libnone", "exit code 3"))
    mapped = [label for label in tasks if label.startswith("in_a_small_namespace")]
    rig.until("no quota", lambda: any(says(label, "no pod", "exceeded quota") for label in mapped))
    rows = rig.api.get(f"/api/v2/eventLogs?dag_id={run.dag_id}&run_id={quote(run.run_id)}&limit=1000")["event_logs"]
    events = {row["event"] for row in rows if row["owner"] == "podrelay"}
    assert {"pod pending", "pod failed"} <= events
    assert all("\nLaunch " in row["extra"] for row in rows if row["event"].startswith("pod "))


def test_the_usual_troubles_and_the_commands_that_show_them(rig: StackRig, troubles: Run) -> None:
    def states() -> dict[str, str | None]:
        return {task.label: task.state for task in troubles.tasks()}

    _the_quota_is_shown(rig, troubles)
    rig.until("two tasks have failed", lambda: states()["raises"] == states()["container_fails"] == "failed", 240)
    rig.until("a pod waits for its image", lambda: "ImagePullBackOff" in typed(rig, "kubectl get pods"))
    shown = typed(rig, "kubectl get events")
    assert "FailedScheduling" in shown
    assert 'Back-off pulling image "registry.example.com/absent:1"' in shown
    _the_log_of_each_task_says_why(rig, troubles)
    overview = _pods_that_wait_are_shown(rig)
    assert len(overview["launchers"]) == 2
    # The scheduler of an earlier test, which was killed, is shown for two minutes.
    assert any(scheduler["launches"] >= 2 for scheduler in overview["schedulers"]), overview["schedulers"]
    launch_id = next(launch.launch_id for launch in troubles.launches() if launch.label == "container_fails")
    shown = typed(rig, f"airflow podrelay status --launch {launch_id}")
    assert shown.startswith("task         podrelay_troubles.container_fails, try 1\n")
    assert "failed: Pod failed because of Error" in shown
    assert "no library libnone" in shown.partition("last log lines")[2]
    assert launch_id in typed(
        rig, f"airflow podrelay status --task {troubles.dag_id} container_fails {troubles.run_id}"
    )
    mode = rig.stack.environment_file.stat().st_mode & 0o777
    assert mode == 0o600, "the file holds the secrets of the stack"
