"""A pod whose task was delivered looks to everybody like any other pod of ours; an idle one looks like none."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from podrelay.executor import RedisKubernetesExecutor
from podrelay.monitoring_address import MonitoringAddress
from podrelay.protocol import identifiers, lifecycle
from podrelay.protocol.lifecycle import durations_s
from podrelay.protocol.mailbox import EXIT_UNUSED
from podrelay.protocol.messages import LaunchRequest
from podrelay.protocol.rollups import STEPS, ReportedStep, counts_of
from podrelay_workers.runtime.shutdown import Shutdown
from podrelay_workers.watcher.process import run_watcher
from podrelay_workers.watcher.start import read_options
from tests.harness.task_instances import load, make_task_instances, update
from tests.harness.waiting import until
from tests.harness.warm_pods import Warm


@asynccontextmanager
async def watcher(warm: Warm) -> AsyncIterator[None]:
    shutdown = Shutdown()
    settings = replace(warm.rig.settings, monitoring_bind=MonitoringAddress(), watch_silence_s=3.0)
    task = asyncio.ensure_future(run_watcher(read_options(settings), shutdown))
    key = warm.rig.names.watch("default")
    try:
        await until(lambda: warm.rig.redis.hget(key, "t_listed") or task.done(), 30)
        yield
    finally:
        shutdown.request()
        assert await asyncio.wait_for(task, 10) == 0


def pod_of(warm: Warm, request: LaunchRequest) -> dict[str, Any]:
    (pod,) = warm.pods_of(request)
    return pod


def clean_up() -> None:
    """`airflow kubernetes cleanup-pods`, which deletes what has ended."""
    from airflow.providers.cncf.kubernetes.cli import kubernetes_command

    kubernetes_command.cleanup_pods(
        argparse.Namespace(
            namespace="default",
            min_pending_minutes=5,
            min_completed_minutes=0,
            verbose=False,
            subcommand="cleanup-pods",
        )
    )


def names(warm: Warm) -> set[str]:
    return {pod["metadata"]["name"] for pod in warm.cluster.pods()}


def test_a_launch_from_its_offer_to_its_end(warm: Warm) -> None:
    request = warm.request(1)

    async def scenario() -> None:
        async with warm.launcher(), watcher(warm):
            await warm.filled()
            await asyncio.sleep(1.1)  # Kubernetes counts whole seconds: the pod is older than its launch
            warm.rig.offer(request)
            await warm.started(request)
            warm.cluster.end_pod("default", warm.rig.ledger(request)["pod"], exit_code=0)
            await warm.started(request, state="finished")

    asyncio.run(scenario())
    entry = warm.rig.ledger(request)
    assert entry["node"]
    assert "t_scheduled" not in entry
    assert float(entry["t_offered"]) - 0.1 <= float(entry["t_started"]) <= time.time()
    times = [float(entry[name]) for name in lifecycle.FIELDS if name in entry]
    assert max(times) - min(times) < 30, "none is from before the launch"
    assert all(0.0 <= seconds < 30.0 for _, seconds in durations_s(entry))
    fields = {name: entry.get(name, "") for step in STEPS.values() for name in step}
    counted = list(counts_of(ReportedStep(time.time(), "succeeded", True, "", fields)))
    assert {name.partition(":")[0] for name in counted} == {"started", "succeeded", "created", "reported"}
    reports = [report for report in warm.rig.results() if report.launch_id == request.launch_id]
    assert [(report.outcome, report.pod) for report in reports] == [
        ("started", entry["pod"]), ("succeeded", entry["pod"]),
    ]  # fmt: skip
    starts = [
        item.get("start") for _, item in warm.rig.redis.xrange(warm.rig.names.results)
        if item["launch"] == request.launch_id
    ]  # fmt: skip
    assert starts == ["warm", "warm"]


def test_stock_tools_see_the_pods_of_tasks_only(warm: Warm) -> None:
    request = warm.request(1)

    async def scenario() -> None:
        async with warm.launcher():
            await warm.filled()
            warm.rig.offer(request)
            await warm.started(request)
            await warm.ready()

    asyncio.run(scenario())
    task_pod, idle = pod_of(warm, request)["metadata"]["name"], set(warm.pods.idle())
    assert len(idle) == 2
    stock = {"kubernetes_executor", "airflow-worker", "dag_id", "task_id", "run_id", "try_number", "airflow_version"}
    for pod in warm.pods.pods():
        found = stock & {*pod["metadata"]["labels"], *pod["metadata"].get("annotations", {})}
        assert (found == set()) is (pod["metadata"]["name"] in idle)
    clean_up()
    assert {task_pod, *idle} <= names(warm), "nothing has ended"
    for name in (task_pod, *idle):
        warm.cluster.end_pod("default", name, exit_code=EXIT_UNUSED if name in idle else 0)
    clean_up()
    assert task_pod not in names(warm)
    assert idle <= names(warm), "the launcher that keeps them deletes them"


def test_its_live_log_is_found(warm: Warm, airflow_db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the launch's label, and without it by the stock executor's."""
    ti_id = make_task_instances()[0]
    ti = load(ti_id)
    key = (ti.dag_id, ti.task_id, ti.run_id, ti.try_number, ti.map_index)
    request = warm.request(1, subject=ti_id, key=key)

    async def scenario() -> None:
        async with warm.launcher():
            await warm.filled()
            warm.rig.offer(request)
            await warm.started(request)

    asyncio.run(scenario())
    pod = pod_of(warm, request)["metadata"]["name"]
    host = identifiers.warm_host(pod, request.launch_id, 0)
    asked: list[str] = []

    def read(client: Any, name: str, **_: Any) -> Any:
        asked.append(name)
        return iter([b"the first line\n"])

    monkeypatch.setattr("kubernetes.client.CoreV1Api.read_namespaced_pod_log", read)
    for launch_id in (request.launch_id, None):
        update(ti_id, state="running", hostname=host, external_executor_id=launch_id)
        messages, logs = RedisKubernetesExecutor().get_task_log(load(ti_id), 1)
        assert "Found logs through kube API" in messages
        assert logs == ["the first line\n"]
    assert asked == [pod, pod]
