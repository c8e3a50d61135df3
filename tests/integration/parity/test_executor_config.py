"""executor_config (items 24 to 27, 52 to 59): whatever a user or an old row holds there fails that task only."""

from __future__ import annotations

import itertools
import pickle
import uuid
from pathlib import Path
from typing import Any

import pytest
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from kubernetes.client import models as k8s
from sqlalchemy import text

from tests.harness.parity_rig import LONG_S, Rig, Task
from tests.harness.task_instances import update, workload_of
from tests.integration.parity.conftest import Rigs

both = pytest.mark.parametrize("which", ["podrelay", "stock"])

FAILED = TaskInstanceState.FAILED

# Values that no part of a pod has: by construction, none of them may stand where a V1Pod or a path is expected.
WRONG: dict[str, Any] = {
    "a text": "pod",
    "an empty list": [1],
    "a number": 7,
    "a float": 1.5,
    "true": True,
    "bytes": b"\x80\x04K\x01.",
    "a set": {1, 2},
    "a tuple": (1,),
    "an object": object(),
    "a function": len,
    "a class": k8s.V1Pod,
    "a container": k8s.V1Container(name="base"),
    "a spec": k8s.V1PodSpec(containers=[]),
    "metadata": k8s.V1ObjectMeta(name="x"),
    "a plain dict": {"metadata": {"name": "x"}},
    "an old encoding": {"__var": {"spec": {}}, "__type": "k8s.V1Pod"},
    "a nested encoding": {"__type": "dict", "__var": {"pod_override": "k8s.V1Pod"}},
    "an error": ValueError("x"),
}


def base(**values: Any) -> k8s.V1Pod:
    return k8s.V1Pod(spec=k8s.V1PodSpec(containers=[k8s.V1Container(name="base", **values)]))


def metadata(**values: Any) -> k8s.V1Pod:
    return k8s.V1Pod(metadata=k8s.V1ObjectMeta(**values))


def spec(**values: Any) -> k8s.V1Pod:
    return k8s.V1Pod(spec=k8s.V1PodSpec(**{"containers": [], **values}))


# What is of no right type and yet has the right fields makes a pod, here as with the stock executor.
ACCIDENTALLY_RIGHT = (
    "spec is a spec", "metadata is metadata", "metadata is a container", "metadata is a spec", "a container is metadata",
    "metadata is a plain dict", "metadata is an old encoding", "metadata is a nested encoding",
)  # fmt: skip
UNSERIALISABLE = {name: WRONG[name] for name in ("an object", "a function", "a class", "an error")}


def malformed() -> dict[str, Any]:
    """More than 200 executor_configs of which no pod can be made."""
    found: dict[str, Any] = {}
    for name, value in WRONG.items():
        found[f"pod_override is {name}"] = {"pod_override": value}
        found[f"pod_override is {name}, beside a template"] = {"pod_override": value, "pod_template_file": "/x"}
        found[f"both forms, {name}"] = {"pod_override": value, "KubernetesExecutor": {"image": "x"}}
        found[f"the old form is {name}"] = {"KubernetesExecutor": value}
        found[f"spec is {name}"] = {"pod_override": k8s.V1Pod(spec=value)}
        found[f"metadata is {name}"] = {"pod_override": k8s.V1Pod(metadata=value)}
        if name not in ("a plain dict", "an old encoding", "a nested encoding"):
            found[f"the whole is {name}"] = value
        if not isinstance(value, str):
            found[f"the template is {name}"] = {"pod_template_file": value}
            found[f"the namespace is {name}"] = {"pod_override": metadata(namespace=value)}
        if not isinstance(value, k8s.V1Container):
            found[f"a container is {name}"] = {"pod_override": spec(containers=[value])}
    for name, value in UNSERIALISABLE.items():
        for where, pod in {
            "an annotation": metadata(annotations={"a": value}),
            "a label": metadata(labels={"a": value}),
            "the image": base(image=value),
            "a variable": base(env=[value]),
            "resources": base(resources=value),
            "a volume": spec(volumes=[value]),
            "tolerations": spec(tolerations=value),
            "affinity": spec(affinity=value),
        }.items():
            found[f"{where} is {name}"] = {"pod_override": pod}
    for name in ACCIDENTALLY_RIGHT:
        del found[name]
    found["a whole pod"] = k8s.V1Pod()
    found["no such template"] = {"pod_template_file": "/nowhere/template.yaml"}
    found["a folder as template"] = {"pod_template_file": "/"}
    return found


def queue(rig: Rig, ti_id: str, config: Any) -> Task:
    """As the scheduler does, with this value in the workload whatever its type."""
    workload = workload_of(ti_id)
    workload.ti.executor_config = config
    with create_session() as session:
        rig.executor.queue_workload(workload, session)
    return rig.task_of(workload)


def test_each_malformed_config_fails_its_own_task_only(rigs: Rigs) -> None:
    rig = rigs("podrelay")
    rig.executor.parallelism = 1000
    shapes = malformed()
    assert len(shapes) >= 200
    good, *bad = rig.make(len(shapes) + 1)
    tasks = {name: queue(rig, ti_id, config) for ti_id, (name, config) in zip(bad, shapes.items(), strict=True)}
    healthy = rig.queue(good)
    rig.executor.heartbeat()

    def open_tasks() -> list[str]:
        return [name for name, task in tasks.items() if not rig.ended(task)]

    rig.until(lambda: not open_tasks(), "each malformed one fails", 3 * LONG_S)
    assert {rig.executor.event_buffer[task.key][0] for task in tasks.values()} == {FAILED}
    assert rig.executor.running == {healthy.key}
    rig.pod(healthy, phase="Running")


STOCK_TOO = [
    ("pod_override is a text", {"pod_override": "pod"}),
    ("both forms", {"pod_override": k8s.V1Pod(), "KubernetesExecutor": {"image": "x"}}),
    ("the old form", {"KubernetesExecutor": {"image": "x"}}),
    ("a whole pod", k8s.V1Pod()),
]


@both
@pytest.mark.parametrize(("name", "config"), STOCK_TOO, ids=[name for name, _ in STOCK_TOO])
def test_the_event_of_an_invalid_config(rigs: Rigs, which: str, name: str, config: Any) -> None:
    rig = rigs(which)
    task = queue(rig, rig.make()[0], config)
    rig.executor.heartbeat()
    assert rig.executor.event_buffer == {task.key: (FAILED, "Invalid executor_config passed")}
    assert rig.executor.running == set()
    rig.quiet(lambda: rig.creates(task) == [], 0.3)


@both
@pytest.mark.parametrize("config", [None, {}, {"something": "else"}, {"pod_override": None}])
def test_configs_that_ask_for_nothing(rigs: Rigs, which: str, config: Any) -> None:
    rig = rigs(which)
    task = queue(rig, rig.make()[0], config)
    assert rig.pod(task)["spec"]["containers"][0]["image"] == "apache/airflow:3.3.2"


LEGACY = {
    "a text that was a dict": pickle.dumps("{'pod_override': None}"),
    "an encoding that is unknown": pickle.dumps({"pod_override": {"__type": "k8s.V2Pod", "__var": {}}}),
    "a class that is gone": b"cairflow.no_such_module\nNoSuchClass\n.",
    "half a pickle": pickle.dumps({"pod_override": 1})[:-3],
    "no pickle": b"\x00\x01\x02",
    "a list": pickle.dumps([1, 2]),
}


def test_rows_of_older_releases_fail_alone_when_they_are_adopted(rigs: Rigs) -> None:
    """Their scheduler is dead, their launch is in no Redis: the executor reads the rows itself, all in one query."""
    rig = rigs("podrelay")
    good, *bad = rig.make(len(LEGACY) + 1)
    tis = {ti_id: rig.queue(ti_id) for ti_id in (good, *bad)}
    rig.successor()
    assert rig.adopt(*tis.values()) == []
    with create_session() as session:
        for ti_id, pickled in zip(bad, LEGACY.values(), strict=True):
            session.execute(
                text("UPDATE task_instance SET executor_config = :value WHERE id IN (:dashed, :plain)"),
                {"value": pickled, "dashed": ti_id, "plain": uuid.UUID(ti_id).hex},
            )
    rig.pod(tis[good])
    for ti_id in bad:
        assert rig.event(tis[ti_id])[0] == FAILED


@both
def test_the_image_of_an_override_wins_and_lists_are_joined(rigs: Rigs, which: str) -> None:
    rig = rigs(which)
    override = base(image="mine:1", env=[k8s.V1EnvVar(name="A", value="1")])
    task = rig.submit(executor_config={"pod_override": override})
    container = rig.pod(task)["spec"]["containers"][0]
    assert container["image"] == "mine:1"
    assert {item["name"] for item in container["env"]} >= {"A", "AIRFLOW_IS_K8S_EXECUTOR_POD"}


@both
def test_labels_annotations_and_environment(rigs: Rigs, which: str) -> None:
    rig = rigs(which)
    task = rig.submit()
    pod = rig.pod(task)
    labels, annotations = pod["metadata"]["labels"], pod["metadata"]["annotations"]
    assert labels["airflow-worker"] == str(rig.job_id)
    assert labels["kubernetes_executor"] == "True"
    assert {"dag_id", "task_id", "run_id", "try_number", "airflow_version"} <= set(labels)
    assert (annotations["dag_id"], annotations["task_id"]) == (task.key.dag_id, task.key.task_id)
    assert (annotations["run_id"], annotations["try_number"]) == (task.key.run_id, "1")
    assert "map_index" not in annotations
    assert pod["spec"]["containers"][0]["env"] == [{"name": "AIRFLOW_IS_K8S_EXECUTOR_POD", "value": "True"}]
    added = {name for name in itertools.chain(labels, annotations) if name.startswith("podrelay/")}
    assert bool(added) == (which == "podrelay")
    assert "logical_date" not in labels


@both
def test_a_mapped_task_says_its_index(rigs: Rigs, which: str) -> None:
    rig = rigs(which)
    ti_id = rig.make()[0]
    update(ti_id, map_index=3)
    task = rig.queue(ti_id)
    pod = rig.pod(task)
    assert pod["metadata"]["labels"]["map_index"] == pod["metadata"]["annotations"]["map_index"] == "3"


class Coordinators:
    """What `[sdk] coordinators` would declare."""

    def __init__(self, extra: Any) -> None:
        self.extra = extra

    def extra_for_queue(self, queue: str) -> Any:
        if isinstance(self.extra, Exception):
            raise self.extra
        return self.extra if queue == "special" else None


@both
def test_what_the_coordinator_of_a_queue_declares(
    rigs: Rigs, which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Items 28, 29: its template wins over the task's, its image over the template's; a broken declaration is none."""
    templates = {}
    for name in ("coordinators", "tasks"):
        templates[name] = tmp_path / f"{name}.yaml"
        templates[name].write_text(
            f"metadata: {{annotations: {{local-cluster/duration-s: '9', of: {name}}}}}\n"
            "spec: {restartPolicy: Never, containers: [{name: base, image: 'template:1'}]}\n"
        )
    extra: dict[str, Any] = {
        "pod_template_file": str(templates["coordinators"]),
        "worker_container_repository": "coordinated",
        "worker_container_tag": "2",
    }
    manager = Coordinators(extra)
    monkeypatch.setattr("airflow.sdk.execution_time.coordinator.get_coordinator_manager", lambda: manager)
    rig = rigs(which)
    config = {"pod_template_file": str(templates["tasks"])}
    special, usual = rig.submit(queue="special", executor_config=config), rig.submit(executor_config=config)
    for task, of, image in ((special, "coordinators", "coordinated:2"), (usual, "tasks", "template:1")):
        pod = rig.pod(task)
        assert pod["metadata"]["annotations"]["of"] == of
        assert pod["spec"]["containers"][0]["image"] == image
    manager.extra = ValueError("no such coordinator")
    rig.pod(rig.submit(queue="special"))
