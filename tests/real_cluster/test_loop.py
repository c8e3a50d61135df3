"""Tasks from the executor through launcher and watcher to their events, and their pods to the end, on any cluster.

The suite writes the statuses that a kubelet would. Launcher, watcher, Redis and Airflow's database are real.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from kubernetes.client import models as k8s

from podrelay.protocol import identifiers
from tests.harness.parity_rig import workers
from tests.harness.redis_server import RedisServer, find_server
from tests.harness.task_instances import load, update
from tests.real_cluster.loop import Loop
from tests.real_cluster.server import Json, Server, ended, running

DEPLOYMENT = "real"


@pytest.fixture(scope="session")
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server for this suite only: the other suites empty theirs."""
    find_server()
    with RedisServer(tmp_path_factory.mktemp("redis")) as redis_server:
        yield redis_server


@pytest.fixture(scope="session")
def settings(own_redis: RedisServer, environment: dict[str, str]) -> dict[str, str]:
    return environment | {
        "AIRFLOW__PODRELAY__REDIS_URL": own_redis.url,
        "AIRFLOW__PODRELAY__DEPLOYMENT": DEPLOYMENT,
        "AIRFLOW__PODRELAY__RECONCILE_INTERVAL_S": "0.5",
    }


@pytest.fixture(scope="session")
def processes(
    settings: dict[str, str], own_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A launcher and a watcher; the folder of their logs."""
    folder = tmp_path_factory.mktemp("workers")
    with workers(folder, redis.Redis.from_url(own_redis.url), DEPLOYMENT, environment=settings):
        yield folder


@pytest.fixture
def loop(
    airflow_db: None, server: Server, processes: Path, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Loop]:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    loop = Loop(server)
    yield loop
    loop.executor.end()


def marked(loop: Loop, name: str) -> bool:
    pod = loop.server.get(name)
    return pod is not None and pod["metadata"]["labels"].get(identifiers.LABEL_DONE) == "True"


def test_a_task_that_succeeds_leaves_no_pod(loop: Loop) -> None:
    task, name = loop.run()
    update(task.ti_id, state="success")
    loop.server.set_status(name, ended(0))
    assert loop.event(task)[0] == "success"
    loop.until(lambda: loop.server.get(name) is None, "the pod is removed")


ENDS: dict[str, tuple[Json, tuple[str, ...]]] = {
    "exit code": (ended(3), ("Error", "base", "exit code 3")),
    "out of memory": (ended(137, "OOMKilled"), ("OOMKilled", "exit code 137")),
    "evicted": (
        {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."},
        ("Evicted", "The node was low on resource"),
    ),
    "deadline": (ended(143, reason="Error") | {"reason": "DeadlineExceeded"}, ("DeadlineExceeded",)),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_failed_pod_is_kept_and_labelled(loop: Loop, end: str) -> None:
    status, texts = ENDS[end]
    task, name = loop.run()
    loop.server.set_status(name, status)
    state, message = loop.event(task)
    assert state == "failed"
    assert all(text in message for text in texts), message
    loop.until(lambda: marked(loop, name), "the pod is labelled as done")


def test_a_pod_deleted_from_outside_fails_its_task(loop: Loop) -> None:
    task, name = loop.run()
    loop.server.delete(name)
    state, message = loop.event(task)
    assert state == "failed"
    assert "PodDeleted" in message


@pytest.mark.parametrize("grace_s", [None, 0])
def test_a_pod_on_a_node_is_deleted_as_kubectl_does(loop: Loop, grace_s: int | None) -> None:
    """Its task fails with the name of the node, as soon as the pod has ended; until then the pod is only marked."""
    override = k8s.V1Pod(spec=k8s.V1PodSpec(containers=[], node_name="podrelay-test-node"))
    task, name = loop.run(executor_config={"pod_override": override})
    path = f"{loop.server.pods_path}/{name}"
    loop.server.call("DELETE", path, None if grace_s is None else {"gracePeriodSeconds": grace_s})
    if grace_s is None:
        assert (loop.server.get(name) or {})["metadata"]["deletionTimestamp"]
        loop.server.set_status(name, ended(143))
        loop.server.delete(name)
    state, message = loop.event(task)
    assert state == "failed"
    for text in ("PodDeleted", "podrelay-test-node", "deleted from outside"):
        assert text in message, message


IDS = [
    ("\u9031\u5831", "\u96c6\u8a08", "run"),
    ("____", "___", "___"),
    ("reports", "\u043e\u0442\u0447\u0451\u0442", "~~~"),
]


@pytest.mark.parametrize("ids", IDS)
def test_ids_without_an_ascii_letter_or_digit(loop: Loop, ids: tuple[str, str, str]) -> None:
    dag_id, task_id, run_id = ids
    task, name = loop.run(dag_id=dag_id, task_id=task_id, run_id=run_id)
    annotations = (loop.server.get(name) or {})["metadata"]["annotations"]
    assert (annotations["dag_id"], annotations["task_id"], annotations["run_id"]) == ids
    ti = load(task.ti_id)
    for launch_id in (task.launch_id, None):  # by launch id, and by the stock executor's labels
        ti.external_executor_id = launch_id
        messages, texts = loop.executor.get_task_log(ti, ti.try_number)
        assert not [text for text in messages if "failed" in text]
        assert len(texts) == 1
    update(task.ti_id, state="success")
    loop.server.set_status(name, ended(0))
    assert loop.event(task)[0] == "success"
    loop.until(lambda: loop.server.get(name) is None, "the pod is removed")


def test_a_pod_evicted_before_its_task_started_is_replaced(loop: Loop) -> None:
    (task,) = loop.submit()
    first = loop.pod(task)
    loop.server.set_status(first, {"phase": "Failed", "reason": "Evicted", "message": "no room"})
    second = loop.until(lambda: [p for p in loop.pods(task) if p["metadata"]["name"] != first], "another pod")
    name = second[0]["metadata"]["name"]
    assert second[0]["metadata"]["labels"][identifiers.LABEL_ATTEMPT] == "1"
    loop.server.set_status(name, running())
    update(task.ti_id, state="success")
    loop.server.set_status(name, ended(0))
    assert loop.event(task)[0] == "success"


def test_each_of_many_tasks_has_one_pod(loop: Loop) -> None:
    tasks = loop.submit(30)
    pods = [loop.pod(task) for task in tasks]
    for task, name in zip(tasks, pods, strict=True):
        update(task.ti_id, state="success")
        loop.server.set_status(name, ended(0))
    assert {loop.event(task)[0] for task in tasks} == {"success"}
    loop.until(lambda: not any(loop.pods(task) for task in tasks), "all pods are removed")
    assert len(set(pods)) == 30


def test_a_refused_pod_fails_its_task_at_once(loop: Loop, processes: Path) -> None:
    override = k8s.V1Pod(metadata=k8s.V1ObjectMeta(labels={"team": "no / label"}))
    (task,) = loop.submit(executor_config={"pod_override": override})
    state, message = loop.event(task)
    assert state == "failed"
    assert "no / label" in message
    assert not loop.pods(task)
    assert "eyJ" not in message + (processes / "launcher.log").read_text()


def test_a_pod_with_a_version_fails_its_task_at_once_and_stops_no_other(loop: Loop) -> None:
    """The server answers 500, as it does when it fails for all."""
    override = k8s.V1Pod(metadata=k8s.V1ObjectMeta(resource_version="12"))
    (task,) = loop.submit(executor_config={"pod_override": override})
    state, message = loop.event(task)
    assert state == "failed"
    assert "resourceVersion should not be set" in message
    assert "tries" not in message
    (other,) = loop.submit()
    assert loop.pod(other)


def test_a_revoked_task_loses_its_pod(loop: Loop) -> None:
    (task,) = loop.submit()
    name = loop.pod(task)
    loop.executor.revoke_task(ti=load(task.ti_id))
    loop.until(lambda: loop.server.get(name) is None, "the pod is removed")
    assert task.key not in loop.executor.running


def test_a_finalizer_delays_only_the_pod(loop: Loop) -> None:
    override = k8s.V1Pod(metadata=k8s.V1ObjectMeta(finalizers=["podrelay.test/stays"]))
    task, name = loop.run(executor_config={"pod_override": override})
    update(task.ti_id, state="success")
    loop.server.set_status(name, ended(0))
    assert loop.event(task)[0] == "success"
    loop.until(
        lambda: (loop.server.get(name) or {"metadata": {}})["metadata"].get("deletionTimestamp"),
        "the pod is marked for deletion",
    )
    loop.server.patch(f"{loop.server.pods_path}/{name}", {"metadata": {"finalizers": None}})
    loop.until(lambda: loop.server.get(name) is None, "the pod is removed")
