"""What Airflow and its plug-ins see of the executor itself (sections 1 to 3, 25, 27, 34), beside the stock one."""

from __future__ import annotations

import argparse
from collections import defaultdict
from typing import Any

import pytest
from airflow.executors import executor_loader
from airflow.executors.base_executor import BaseExecutor
from airflow.executors.executor_loader import ExecutorLoader
from airflow.providers.cncf.kubernetes.executors.kubernetes_executor import KubernetesExecutor
from airflow.utils.session import create_session

from podrelay.executor import RedisKubernetesExecutor
from tests.harness.parity_rig import Rig
from tests.harness.task_instances import load, update, workload_of
from tests.integration.parity.conftest import Rigs

both = pytest.mark.parametrize("which", ["podrelay", "stock"])
either = pytest.mark.parametrize("kind", [RedisKubernetesExecutor, KubernetesExecutor])

# What the stock executor can do as well; ours has more of it.
SAME = (
    "is_local", "is_production", "serve_logs", "sentry_integration", "supports_ad_hoc_ti_run", "supports_multi_team",
    "supports_task_instance_uuid", "RUNNING_POD_LOG_LINES",
)  # fmt: skip
# Read by plug-ins and tools off an executor.
NAMES = (
    "conf", "event_buffer", "kube_config", "parallelism", "pod_launch_failure_excluded_container_reasons",
    "pod_launch_failure_max_retries", "queued_tasks", "RUNNING_POD_LOG_LINES", "running", "scheduler_job_id",
    "task_publish_max_retries", "team_name",
)  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_flags_that_are_the_same(name: str) -> None:
    assert getattr(RedisKubernetesExecutor, name) == getattr(KubernetesExecutor, name)


def test_flags_that_promise_more() -> None:
    for name in ("supports_callbacks", "supports_connection_test", "pre_assigns_external_executor_id"):
        assert getattr(RedisKubernetesExecutor, name)
        assert not getattr(KubernetesExecutor, name)


@either
@pytest.mark.parametrize("name", NAMES)
def test_names_that_plug_ins_read(kind: type[BaseExecutor], name: str) -> None:
    assert hasattr(kind(), name)


def test_their_values_are_the_stock_executors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__RUNNING_POD_LOG_LINES", "7")
    monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__TASK_PUBLISH_MAX_RETRIES", "3")
    monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__POD_LAUNCH_FAILURE_RETRIES", "-1")
    monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__POD_LAUNCH_FAILURE_EXCLUDED_CONTAINER_REASONS", "A , B")
    ours, stock = RedisKubernetesExecutor(), KubernetesExecutor()
    for name in NAMES:
        if name not in ("conf", "kube_config"):
            assert getattr(ours, name) == getattr(stock, name), name


@either
def test_parallelism_is_the_options(kind: type[BaseExecutor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__PARALLELISM", "17")
    assert kind(parallelism=3).parallelism == 17


@either
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("RUNNING_POD_LOG_LINES", "0"),
        ("KUBE_CLIENT_REQUEST_ARGS", "[1]"),
        ("DELETE_OPTION_KWARGS", "[1]"),
    ],
)
def test_a_wrong_option_fails_the_construction(
    kind: type[BaseExecutor], option: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"AIRFLOW__KUBERNETES_EXECUTOR__{option}", value)
    with pytest.raises(Exception, match=option.lower()):
        kind()


@either
def test_never_started_it_can_end(kind: Any) -> None:
    executor = kind()
    executor.end()
    executor.terminate()


@both
def test_slots_are_taken_from_hand_over_to_the_end(rigs: Rigs, which: str) -> None:
    rig = rigs(which)
    free = rig.executor.slots_available
    task = rig.queue(rig.make()[0])
    assert rig.executor.has_task(load(task.ti_id))
    assert rig.executor.slots_available == free - 1
    rig.executor.heartbeat()
    assert rig.executor.has_task(load(task.ti_id))
    assert rig.executor.slots_available == free - 1
    pod = rig.pod(task, phase="Running")
    update(task.ti_id, state="success")
    rig.end_pod(pod, exit_code=0)
    rig.event(task)
    assert rig.executor.slots_available == free


@both
def test_parallelism_limits_and_priority_goes_first(rigs: Rigs, which: str) -> None:
    rig = rigs(which, worker_pods_creation_batch_size=10)
    rig.executor.parallelism = 2
    tasks = [rig.queue(rig.make(priority_weight=weight)[0]) for weight in (1, 5, 9)]
    rig.executor.heartbeat()
    assert rig.executor.running == {tasks[1].key, tasks[2].key}
    rig.pod(tasks[1])
    rig.pod(tasks[2])
    assert rig.creates(tasks[0]) == []


@both
def test_a_workload_of_no_kind_is_refused(rigs: Rigs, which: str) -> None:
    rig = rigs(which)
    with create_session() as session, pytest.raises(ValueError, match="workload"):
        rig.executor.queue_workload(object(), session)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError):
        rig.executor._process_workloads([object()])  # type: ignore[list-item]


@both
def test_pods_go_on_when_the_scheduler_ends(rigs: Rigs, which: str) -> None:
    rig = rigs(which)
    _, pod = rig.run()
    rig.executor.end()
    rig.executor.end()
    assert rig.look(pod) is not None
    rig.executor.start()
    task = rig.submit()
    rig.pod(task)


def test_executors_side_by_side_by_alias_and_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "Relay:podrelay.executor.RedisKubernetesExecutor,KubernetesExecutor")
    # What the loader found out before.
    monkeypatch.setattr(executor_loader, "_executor_names", [])
    monkeypatch.setattr(executor_loader, "_team_name_to_executors", defaultdict(list))
    for name in ("_alias_to_executors_per_team", "_module_to_executors_per_team", "_classname_to_executors_per_team"):
        monkeypatch.setattr(executor_loader, name, defaultdict(dict))
    ExecutorLoader.init_executors()
    for name in ("Relay", "podrelay.executor.RedisKubernetesExecutor", "RedisKubernetesExecutor"):
        executor = ExecutorLoader.load_executor(ExecutorLoader.lookup_executor_name_by_str(name))
        assert isinstance(executor, RedisKubernetesExecutor)
    assert ExecutorLoader.get_default_executor_name().alias == "Relay"


@both
def test_cleanup_pods_takes_our_pods(rigs: Rigs, which: str) -> None:
    from airflow.providers.cncf.kubernetes.cli import kubernetes_command

    rig = rigs(which, delete_worker_pods=False)
    (task, ended), (_, runs) = rig.run(), rig.run()
    update(task.ti_id, state="success")
    rig.end_pod(ended, exit_code=0)
    rig.event(task)
    args = argparse.Namespace(
        namespace="default", min_pending_minutes=5, min_completed_minutes=0, verbose=False, subcommand="cleanup-pods"
    )
    kubernetes_command.cleanup_pods(args)
    assert rig.look(ended) is None
    assert rig.look(runs) is not None


def test_a_callback_ends_the_stock_scheduler_and_not_ours(rigs: Rigs) -> None:
    """D-1: the stock executor refuses what the scheduler does not expect to be refused."""
    from tests.integration.parity.test_workloads import callback

    ours, stock = rigs("podrelay"), rigs("stock")
    with create_session() as session:
        ours.executor.queue_workload(callback("x.y"), session)
        with pytest.raises(NotImplementedError):
            stock.executor.queue_workload(callback("x.y"), session)


def test_a_launch_is_announced_only_where_airflow_gave_it_no_id(ours: Rig) -> None:
    """Items 16, 145, 152: an event (QUEUED, something else) would overwrite the launch id in the database."""
    with_id, without = ours.submit(), ours.submit(external_executor_id=None)
    assert with_id.key not in ours.executor.event_buffer
    state, launch_id = ours.executor.event_buffer[without.key]
    assert state == "queued"
    assert ours.pod(without)["metadata"]["labels"]["podrelay/launch-id"] == launch_id
    assert workload_of(with_id.ti_id).ti.external_executor_id == with_id.launch_id
