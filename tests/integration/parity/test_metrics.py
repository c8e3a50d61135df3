"""The stock executor's metrics, under their names and tags (items 127 to 134)."""

from __future__ import annotations

import asyncio
import contextlib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from podrelay.protocol import identifiers
from podrelay.protocol.messages import CleanupAction, CleanupRequest, LaunchRequest
from podrelay.store.launch_queue import Acknowledgement
from tests.harness.launcher_rig import LauncherRig
from tests.harness.pod_api import PodApi, status
from tests.harness.redis_server import RedisServer
from tests.harness.task_instances import load
from tests.harness.waiting import until
from tests.integration.parity.conftest import Rigs

both = pytest.mark.parametrize("which", ["podrelay", "stock"])

Recorded = tuple[str, str, tuple[tuple[str, Any], ...]]


class Recorder:
    """Airflow's Stats as far as executors use it; keeps (kind, name, tags)."""

    def __init__(self) -> None:
        self.recorded: list[Recorded] = []

    def _record(self, kind: str, name: str, tags: Any) -> None:
        self.recorded.append((kind, name, tuple(sorted((tags or {}).items()))))

    def incr(self, name: str, *args: Any, tags: Any = None, **others: Any) -> None:
        self._record("counter", name, tags)

    def gauge(self, name: str, *args: Any, tags: Any = None, **others: Any) -> None:
        self._record("gauge", name, tags)

    def timing(self, name: str, *args: Any, tags: Any = None, **others: Any) -> None:
        self._record("timer", name, tags)

    @contextlib.contextmanager
    def timer(self, name: str, *args: Any, tags: Any = None, **others: Any) -> Iterator[None]:
        self._record("timer", name, tags)
        yield

    def replace(self, monkeypatch: pytest.MonkeyPatch, *modules: types.ModuleType) -> None:
        for module in modules:
            for name in ("Stats", "stats"):
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, self)


@both
def test_metrics_of_the_scheduler(rigs: Rigs, which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.executors import base_executor
    from airflow.providers.cncf.kubernetes.executors import kubernetes_executor

    from podrelay import executor
    from podrelay.scheduling import dispatch

    recorder = Recorder()
    rig = rigs(which)
    recorder.replace(monkeypatch, base_executor, kubernetes_executor, executor, dispatch)
    task = rig.submit()
    rig.executor.try_adopt_task_instances([load(task.ti_id)])
    name = type(rig.executor).__name__
    recorded = set(recorder.recorded)
    for gauge, status_tag in (("open_slots", "open"), ("queued_tasks", "queued"), ("running_tasks", "running")):
        assert ("gauge", f"executor.{gauge}", (("executor_class_name", name), ("status", status_tag))) in recorded
    assert ("timer", "kubernetes_executor.adopt_task_instances.duration", ()) in recorded
    assert ("timer", "kubernetes_executor.pod_creation_batch_duration", ()) in recorded
    assert ("gauge", "kubernetes_executor.pod_creation_batch_size", ()) in recorded


@pytest.mark.parametrize("team", [None, "red"])
def test_metrics_of_a_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, team: str | None) -> None:
    from airflow.providers.common.compat import sdk

    recorder = Recorder()
    recorder.replace(monkeypatch, sdk)
    tags = (("team_name", team),) if team else ()
    with RedisServer(tmp_path) as server, PodApi() as api:
        rig = LauncherRig(server.url, api, tmp_path)
        for name, value in rig.environment().items():
            if name != "AIRFLOW_HOME":
                monkeypatch.setenv(name, value)
        asyncio.run(one_of_each(rig, api, recorder, team))
    recorded = set(recorder.recorded)
    for what, statuses in {
        "pod_creation": ("200", "422"),
        "pod_deletion": ("200", "404"),
        "pod_patching": ("200",),
    }.items():
        assert ("timer", f"kubernetes_executor.{what}", tags) in recorded
        for code in statuses:
            assert ("counter", f"kubernetes_executor.{what}_status", (("status", code), *tags)) in recorded


async def one_of_each(rig: LauncherRig, api: PodApi, recorder: Recorder, team: str | None) -> None:
    """A creation that works and one that is refused; a label; a deletion, and one of a pod that is gone."""
    good, bad = rig.request(1), rig.request(2)
    api.fault = lambda _, pod: status(422, "Invalid", "no") if "load2" in str(pod) else None
    rig.offer(good, bad)
    async with rig.launcher(team=team, sends_stats=True):
        await until(lambda: rig.states([good, bad]) == {"created": 1, "finished": 1})
        pod = rig.ledger(good)["pod"]
        clean_up(rig, good, "done", pod)
        await until(lambda: api.calls["patch"])
        clean_up(rig, good, "delete", pod)
        await until(lambda: not api.pods)
        clean_up(rig, bad, "delete", identifiers.pod_name("gone", bad.launch_id, 0))
        await until(lambda: any(("status", "404") in tags for _, _, tags in recorder.recorded))


def clean_up(rig: LauncherRig, launch: LaunchRequest, action: CleanupAction, pod: str) -> None:
    request = CleanupRequest(launch.launch_id, action, "default", pod)
    rig.queue.acknowledge([Acknowledgement(launch.launch_id, 0, "", cleanup=request)])
