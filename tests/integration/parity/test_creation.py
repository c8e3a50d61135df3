"""What the API server answers to the creation of a pod, and what becomes of the task (items 33 to 51)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from airflow.utils.state import TaskInstanceState
from kubernetes.client import models as k8s

from tests.harness.parity_rig import Workers, workers
from tests.harness.redis_server import RedisServer
from tests.integration.parity.conftest import Rigs

both = pytest.mark.parametrize("which", ["podrelay", "stock"])

FAILED = TaskInstanceState.FAILED

# Passes after a while. The stock executor fails such a task at once, unless task_publish_max_retries says otherwise.
PASSING: dict[str, dict[str, Any]] = {
    "quota": {
        "status": 403,
        "reason": "Forbidden",
        "message": "pods is forbidden: exceeded quota: q, requested: pods=1",
    },
    "modified": {"status": 409, "reason": "Conflict", "message": "the object has been modified"},
    "too old": {"status": 410, "reason": "Expired", "message": "too old resource version: 1 (2)"},
    "throttled": {"status": 429, "reason": "TooManyRequests", "retry_after_s": 1},
    "error": {"status": 500, "reason": "InternalError"},
    "unavailable": {"status": 503, "reason": "ServiceUnavailable", "retry_after_s": 1},
    "reset": {"reset": True},
}
# Can never succeed as it is.
LASTING: dict[str, dict[str, Any]] = {
    "bad": {"status": 400, "reason": "BadRequest", "message": "no such field"},
    "forbidden": {"status": 403, "reason": "Forbidden", "message": "may not create pods"},
    "no namespace": {"status": 404, "reason": "NotFound", "message": "namespace not found"},
    "invalid": {"status": 422, "reason": "Invalid", "message": "Pod is invalid"},
}


@both
@pytest.mark.parametrize("fault", LASTING)
def test_what_can_never_succeed_fails_once(rigs: Rigs, which: str, fault: str) -> None:
    rig = rigs(which)
    good, bad = rig.make(2)
    task = rig.queue(bad)
    rig.cluster.add_fault(verbs=["create"], resource="pods", name_prefix=f"{task.prefix}-task-1", **LASTING[fault])
    neighbour = rig.queue(good)
    state, info = rig.event(task)
    assert state == FAILED
    assert LASTING[fault]["message"] in str(info)
    rig.pod(neighbour)
    assert len([entry for entry in rig.creates(task) if entry["status"] != 201]) == 1


@both
@pytest.mark.parametrize("fault", PASSING)
def test_what_passes_is_waited_for(rigs: Rigs, which: str, fault: str) -> None:
    rig = rigs(which)
    task = rig.queue(rig.make()[0])
    rig.cluster.add_fault(verbs=["create"], resource="pods", name_prefix=task.prefix, count=2, **PASSING[fault])
    if which == "podrelay":
        rig.pod(task)
        rig.quiet(lambda: task.key in rig.executor.running and not rig.ended(task), 0.3)
        assert len(rig.pods(task)) == 1
    else:
        assert rig.event(task)[0] == FAILED


@both
def test_an_answer_that_was_lost_makes_one_pod(rigs: Rigs, which: str) -> None:
    """The stock executor tries again under another name (D-5)."""
    rig = rigs(which, task_publish_max_retries=-1)
    task = rig.queue(rig.make()[0])
    rig.cluster.add_fault(verbs=["create"], resource="pods", name_prefix=task.prefix, count=1, lost_response=True)
    rig.until(lambda: len(rig.creates(task)) == 2)
    rig.quiet(lambda: True, 0.5)
    assert len(rig.pods(task)) == (1 if which == "podrelay" else 2)


@both
def test_the_namespace_of_an_override_is_used(rigs: Rigs, which: str) -> None:
    rig = rigs(which)
    task = rig.submit(executor_config={"pod_override": k8s.V1Pod(metadata=k8s.V1ObjectMeta(namespace="other"))})
    assert rig.pod(task, phase="Running")["metadata"]["namespace"] == "other"
    rig.end_pod(rig.pod(task), exit_code=1)
    rig.event(task)


@both
def test_a_short_queue_timeout_is_no_obstacle(rigs: Rigs, which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token of a task lives as long as it may be queued: here no longer than podrelay's default margin."""
    monkeypatch.setenv("AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT", "40")
    rig = rigs(which)
    task, _ = rig.run()
    assert len(rig.creates(task)) == 1
    rig.end_pod(rig.pod(task), exit_code=1)
    rig.event(task)


# --- templates ----------------------------------------------------------------------------------------------------------
def test_a_template_that_is_none_fails_only_its_task(rigs: Rigs, tmp_path: Path) -> None:
    rig = rigs("podrelay")
    broken = tmp_path / "broken.yaml"
    broken.write_text("spec: [")
    missing = str(tmp_path / "missing.yaml")
    bad = [rig.submit(executor_config={"pod_template_file": path}) for path in (str(broken), missing)]
    good = rig.submit()
    for task, path in zip(bad, (str(broken), missing), strict=True):
        state, info = rig.event(task)
        assert state == FAILED
        assert path in str(info)
    rig.pod(good)


def test_a_template_that_is_none_ends_the_stock_scheduler(rigs: Rigs, tmp_path: Path) -> None:
    """D-2: what the control does, so that we know what we improve on."""
    rig = rigs("stock")
    broken = tmp_path / "broken.yaml"
    broken.write_text("spec: [")
    rig.queue(rig.make(executor_config={"pod_template_file": str(broken)})[0])
    with pytest.raises(Exception, match="while parsing"):
        rig.executor.heartbeat()


@both
def test_an_edited_template_counts_for_the_next_pod(rigs: Rigs, which: str, tmp_path: Path) -> None:
    rig = rigs(which)
    template = tmp_path / "template.yaml"
    for image in ("first:1", "second:2"):
        template.write_text(
            "metadata: {annotations: {local-cluster/duration-s: '3600'}}\n"
            f"spec: {{restartPolicy: Never, containers: [{{name: base, image: '{image}'}}]}}\n"
        )
        asked = template if image == "second:2" else str(template)  # both are right, and what is not known is ignored
        task = rig.submit(executor_config={"pod_template_file": asked, "no_such_option": 1})
        assert rig.pod(task)["spec"]["containers"][0]["image"] == image


# --- a launcher with more options --------------------------------------------------------------------------------------
HOOK = """
def pod_mutation_hook(pod):
    if pod.spec.containers[0].image == "poison":
        raise ValueError("the hook does not like this pod")
    pod.metadata.labels["hooked"] = "yes"
    pod.metadata.name = "hooked-name"
"""


IMAGE = {"worker_container_repository": "registry:5000/configured", "worker_container_tag": "7"}


@pytest.fixture(scope="module")
def strict(folder: Path, redis_server: RedisServer, environment: dict[str, str]) -> Iterator[Workers]:
    """A launcher with a pod_mutation_hook and its own image that tries each launch three times."""
    home = folder / "strict"
    home.mkdir()
    (home / "airflow_local_settings.py").write_text(HOOK)
    options = {"TASK_PUBLISH_MAX_RETRIES": "2", **{name.upper(): value for name, value in IMAGE.items()}}
    variables = environment | {f"AIRFLOW__KUBERNETES_EXECUTOR__{name}": value for name, value in options.items()}
    with workers(home, redis.Redis.from_url(redis_server.url), "strict", ("launcher",), environment=variables) as made:
        yield made


@both
def test_task_publish_max_retries_is_honoured(rigs: Rigs, which: str, request: pytest.FixtureRequest) -> None:
    if which == "podrelay":
        request.getfixturevalue("strict")
    rig = rigs(which, deployment="strict", task_publish_max_retries=2)
    task = rig.queue(rig.make()[0])
    rig.cluster.add_fault(
        verbs=["create"], resource="pods", name_prefix=task.prefix, status=500, message="storage is away"
    )
    state, info = rig.event(task)
    assert state == FAILED
    assert "storage is away" in str(info)
    assert len(rig.creates(task)) == 3


def poison_or_hook(pod: Any) -> None:
    """The same hook in this process, for the stock executor."""
    names: dict[str, Any] = {}
    exec(HOOK, names)  # noqa: S102
    names["pod_mutation_hook"](pod)


@both
def test_the_mutation_hook_has_the_last_word_and_fails_only_its_task(
    rigs: Rigs, which: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if which == "podrelay":
        request.getfixturevalue("strict")
    else:
        monkeypatch.setattr("airflow.settings.pod_mutation_hook", poison_or_hook)
    rig = rigs(which, deployment="strict", **IMAGE)
    image = k8s.V1PodSpec(containers=[k8s.V1Container(name="base", image="poison")])
    poisoned = rig.submit(executor_config={"pod_override": k8s.V1Pod(spec=image)})
    good = rig.submit()
    state, info = rig.event(poisoned)
    assert state == FAILED
    assert "the hook does not like this pod" in f"{info} {getattr(info, '__cause__', '')}"
    pod = rig.until(lambda: rig.cluster.pods("default", "?labelSelector=hooked%3Dyes"))[0]
    assert pod["metadata"]["annotations"]["dag_id"] == good.key.dag_id
    assert pod["spec"]["containers"][0]["image"] == "registry:5000/configured:7", "the options, not the template"
    # The name is what keeps a launch from having two pods.
    assert (pod["metadata"]["name"] == "hooked-name") == (which == "stock")
