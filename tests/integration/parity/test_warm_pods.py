"""Warm pods: the scenarios of the other groups, in pods that were started before their task was known."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from airflow.providers.cncf.kubernetes.template_rendering import get_rendered_k8s_spec

from podrelay.executor import RedisKubernetesExecutor
from podrelay.protocol import identifiers
from tests.harness.local_cluster import LocalCluster
from tests.harness.parity_rig import NAMESPACES, Rig, Workers, workers
from tests.harness.parity_warm_rig import DEPLOYMENT, OPTIONS, WarmRig
from tests.harness.redis_server import RedisServer
from tests.harness.task_instances import load
from tests.harness.warm_node import WarmNode
from tests.integration.parity import (
    conftest,
    test_adoption,
    test_deletion,
    test_interface,
    test_revocation,
    test_same_key,
    test_watch,
)
from tests.integration.parity.conftest import Rigs


@pytest.fixture(scope="module")
def warm_workers(
    folder: Path, redis_server: RedisServer, shared_cluster: LocalCluster, environment: dict[str, str]
) -> Iterator[Workers]:
    """With a node that runs the warm pods of the cluster, which simulates all others."""
    here, options = folder / DEPLOYMENT, environment | OPTIONS
    here.mkdir()
    client = redis.Redis.from_url(redis_server.url)
    with (
        WarmNode(here, shared_cluster, options, NAMESPACES),
        workers(here, client, DEPLOYMENT, environment=options) as made,
    ):
        yield made
    for namespace in NAMESPACES:
        shared_cluster.call("DELETE", f"/api/v1/namespaces/{namespace}/pods", {"gracePeriodSeconds": 0})


@pytest.fixture(autouse=True)
def with_warm_pods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(conftest.RIGS, "podrelay", WarmRig)


def beside_stock(scenario: Callable[..., None], *more: Any) -> Callable[[Rigs], None]:
    return lambda rigs: scenario(rigs, "podrelay", *more)


def of_ours(scenario: Callable[[Rig], None]) -> Callable[[Rigs], None]:
    return lambda rigs: scenario(rigs("podrelay"))


SCENARIOS: dict[str, Callable[[Rigs], None]] = {
    "out of memory": beside_stock(test_watch.test_a_failed_pod_fails_a_running_task, "out of memory"),
    "evicted": beside_stock(test_watch.test_a_failed_pod_fails_a_running_task, "evicted"),
    "deleted": beside_stock(test_watch.test_a_deleted_pod_fails_a_running_task),
    "gone at once": beside_stock(test_watch.test_a_pod_that_is_gone_at_once_fails_a_running_task),
    "gone unwatched": beside_stock(test_watch.test_a_pod_deleted_while_nobody_watches_is_found),
    "success": beside_stock(test_watch.test_a_pod_that_ended_well_reports_the_state_of_its_task, "success"),
    "up for retry": beside_stock(test_watch.test_a_pod_that_ended_well_reports_the_state_of_its_task, "up_for_retry"),
    "ended well, row runs": of_ours(test_watch.test_a_pod_that_ended_well_beside_its_running_task_fails_it),
    "revoked pod": beside_stock(test_watch.test_the_end_of_a_revoked_pod_is_ignored),
    "other labels": beside_stock(test_watch.test_a_pod_whose_labels_leave_the_selection_is_no_failure),
    "adopted, queued": beside_stock(test_adoption.test_a_dead_schedulers_pod_is_adopted, "queued"),
    "adopted, running": beside_stock(test_adoption.test_a_dead_schedulers_pod_is_adopted, "running"),
    "adopted, ended": beside_stock(test_adoption.test_what_ended_meanwhile_is_reported),
    "adopted by the stock executor": test_adoption.test_the_stock_executor_adopts_ours,
    "pods go": beside_stock(test_deletion.test_the_flags, True, False, True, "gone"),
    "failed pods stay": beside_stock(test_deletion.test_the_flags, True, False, False, "kept"),
    "pods stay": beside_stock(test_deletion.test_the_flags, False, False, True, "done"),
    "one deletion": beside_stock(test_deletion.test_deletions_per_pod),
    "refused deletion": test_deletion.test_a_refused_deletion_disturbs_nothing,
    "deleted after its result": test_deletion.test_a_pod_is_deleted_only_after_its_result_was_taken,
    "revocation of a try": beside_stock(test_revocation.test_the_pod_of_the_current_try_goes),
    "cleared": beside_stock(test_same_key.test_cleared_while_it_runs),
    "outlives its task": of_ours(test_same_key.test_a_pod_that_outlives_its_task_is_cleaned_up_at_once),
    "cleanup-pods": beside_stock(test_interface.test_cleanup_pods_takes_our_pods),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_same_scenario_in_warm_pods(rigs: Rigs, name: str) -> None:
    before = len(WarmRig.assigned)
    SCENARIOS[name](rigs)
    assert len(WarmRig.assigned) > before, "no task had a warm pod"


def test_a_warm_pod_shows_its_task_as_any_other_pod(rigs: Rigs) -> None:
    """Labels and annotations that Airflow renders for a reader, from the same row."""
    ours = rigs("podrelay")
    ours.run()
    task, pod = ours.run()
    shown = get_rendered_k8s_spec(load(task.ti_id))
    assert shown is not None
    metadata = pod["metadata"]
    assert identifiers.LABEL_WARM in metadata["labels"]
    assert identifiers.LABEL_IDLE not in metadata["labels"]
    for part in ("labels", "annotations"):
        fields = {key: value for key, value in metadata[part].items() if not key.startswith("podrelay/")}
        assert fields | {identifiers.LABEL_WORKER: "0"} == shown["metadata"][part] | {identifiers.LABEL_WORKER: "0"}


def test_the_log_of_a_warm_pod_that_runs(rigs: Rigs) -> None:
    """As the API server reads it: by labels."""
    task, pod = rigs("podrelay").run()
    assert identifiers.LABEL_WARM in pod["metadata"]["labels"]
    messages, texts = RedisKubernetesExecutor().get_task_log(load(task.ti_id), 1)
    assert len(texts) == 1, messages


def test_an_idle_pod_is_no_task(rigs: Rigs) -> None:
    """Neither for the stock executor's tools, which find tasks by labels, nor for its executor."""
    ours = rigs("podrelay")
    task, _ = ours.run()
    ours.until(lambda: idle_pods(ours))
    for pod in idle_pods(ours):
        assert not OF_TASKS & set(pod["metadata"]["labels"])
        assert not OF_TASKS & set(pod["metadata"]["annotations"])
        assert task.launch_id not in json.dumps(pod)


OF_TASKS = {"dag_id", "task_id", "run_id", "try_number", "airflow-worker", "kubernetes_executor", "airflow_version",
            identifiers.LABEL_LAUNCH_ID, identifiers.LABEL_ATTEMPT}  # fmt: skip


def idle_pods(rig: Rig) -> list[dict[str, Any]]:
    return rig.cluster.pods(query=f"?labelSelector={identifiers.LABEL_IDLE}")
