"""Which launches share warm pods, what an idle pod looks like, and how it becomes the pod of a launch."""

from __future__ import annotations

import copy
import uuid
from pathlib import Path
from typing import Any

import pytest

from podrelay import pod_command
from podrelay.protocol import identifiers
from podrelay.protocol.messages import Json, LaunchRequest, WarmShape
from podrelay_workers.launcher.pod_manifest import ManifestRenderer
from podrelay_workers.launcher.warm_pool.shape import assignment_patch, idle_pod, shape_of
from podrelay_workers.launcher.workload_secret import with_volume

TEMPLATE = """
apiVersion: v1
kind: Pod
metadata: {name: template, labels: {from: template}, annotations: {scrape: "true"}}
spec:
  restartPolicy: Never
  containers:
    - {name: base, image: "apache/airflow:3.3.2", env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]}
    - {name: proxy, image: "proxy:1", args: [run]}
"""


class Kube:
    """The options of `[kubernetes_executor]` that the renderer reads."""

    def __init__(self, folder: Path, template: str) -> None:
        self.pod_template_file = str(folder / "template.yaml")
        (folder / "template.yaml").write_text(template)
        self.kube_image = None


@pytest.fixture
def render(tmp_path: Path) -> Any:
    def render(request: LaunchRequest, template: str = TEMPLATE, **options: Any) -> Json:
        renderer = ManifestRenderer("default", kube_config=Kube(tmp_path, template), hook=False, **options)
        return renderer.render(request)

    return render


def request(number: int = 0, **changes: Any) -> LaunchRequest:
    values: dict[str, Any] = {
        "launch_id": str(uuid.uuid4()), "attempt": number % 3, "kind": "task", "subject": f"ti-{number}",
        "key": (f"dag{number}", f"task{number}", f"run{number}", number + 1, number - 1), "owner": str(number),
        "args": pod_command.with_argument(f'{{"token": "{number}"}}'), "namespace": "tasks",
    }  # fmt: skip
    return LaunchRequest(**(values | changes))


def shape(launch: LaunchRequest, pod: Json) -> WarmShape:
    found = shape_of(launch, pod)
    assert found is not None
    return found


def test_launches_of_all_tasks_have_one_shape(render: Any) -> None:
    launches = [request(number) for number in range(5)] + [request(7, subject=str(uuid.uuid4()), known_by_id=True)]
    shapes = [shape(launch, render(launch)) for launch in launches]
    assert len({found.shape for found in shapes}) == 1
    assert all(found.skeleton == shapes[0].skeleton for found in shapes)
    assert len(shapes[0].shape) == 16
    in_secret = render(launches[0], workload_in_secret=True)
    assert shape(launches[0], in_secret) == shapes[0]


@pytest.mark.parametrize(
    "change",
    [
        {"namespace": "other"}, {"cluster": "red"}, {"image": "another:1"},
        {"pod_override": {"metadata": {"labels": {"tier": "gold"}}}},
        {"pod_override": {"metadata": {"annotations": {"tier": "gold"}}}},
        {"pod_override": {"spec": {"containers": [{"name": "base", "resources": {"limits": {"cpu": "1"}}}]}}},
        {"pod_override": {"spec": {"containers": [{"name": "base"}], "nodeSelector": {"disk": "fast"}}}},
    ],
)  # fmt: skip
def test_whatever_differs_makes_another_shape(change: dict[str, Any], render: Any) -> None:
    plain, other = request(1), request(1, **change)
    assert shape(plain, render(plain)).shape != shape(other, render(other)).shape
    again = request(2, **change)
    assert shape(other, render(other)).shape == shape(again, render(again)).shape


def test_what_depends_on_the_task_needs_a_pod_of_its_own(render: Any) -> None:
    launch = request()
    pod = render(launch)
    assert shape_of(request(kind="callback"), pod) is None
    with_code = request(args=pod_command.with_argument("{}", exit_code=True))
    assert shape_of(with_code, render(with_code)) is None

    def changed(path: tuple[Any, ...], value: Any) -> WarmShape | None:
        other = copy.deepcopy(pod)
        part = other
        for name in path[:-1]:
            part = part[name]
        part[path[-1]] = value
        return shape_of(launch, other)

    assert changed(("spec", "restartPolicy"), "OnFailure") is None
    assert changed(("spec", "activeDeadlineSeconds"), 60) is None
    base = ("spec", "containers", 0)
    assert changed((*base, "restartPolicy"), "OnFailure") is None
    assert changed((*base, "restartPolicyRules"), [{"action": "Restart", "exitCodes": {"operator": "In"}}]) is None
    assert changed((*base, "restartPolicy"), "Never") is not None
    assert changed((*base, "args"), ["python", "-m", "my.wrapper", launch.args[-1]]) is None
    of_label = {"name": "DAG", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['dag_id']"}}}
    assert changed((*base, "env"), [of_label]) is None
    volume = {
        "name": "info",
        "downwardAPI": {"items": [{"path": "a", "fieldRef": {"fieldPath": "metadata.annotations"}}]},
    }
    assert changed(("spec", "volumes"), [volume]) is None
    assert changed((*base, "command"), ["tini", "--"]) is not None  # for both: only the arguments are replaced


def test_an_idle_pod_shows_no_task_and_no_workload(render: Any) -> None:
    launch = request(3, cluster="_red_")
    pod = render(launch)
    before = copy.deepcopy(pod)
    found = shape(launch, pod)
    idle = idle_pod(found, "warm-x", "ab" * 16, ["python", "-m", "w", "{}"], deployment="etl")
    assert pod == before
    assert idle["metadata"]["name"] == "warm-x"
    assert idle["metadata"]["labels"] == {
        "from": "template", identifiers.LABEL_DEPLOYMENT: "etl", identifiers.LABEL_CLUSTER: "0._red_.0",
        identifiers.LABEL_WARM: "ab" * 16, identifiers.LABEL_IDLE: found.shape,
    }  # fmt: skip
    assert idle["metadata"]["annotations"] == {"scrape": "true", identifiers.ANNOTATION_SUBJECT: ""}
    base, proxy = idle["spec"]["containers"]
    assert base["args"] == ["python", "-m", "w", "{}"]
    assert {**base, "args": None} == {**pod["spec"]["containers"][0], "args": None}
    assert proxy == pod["spec"]["containers"][1]
    for secret in ("dag3", "task3", "run3", launch.launch_id, "token"):
        assert secret not in str(idle)
    assert "token" not in repr(found)


def test_a_patch_gives_the_idle_pod_what_its_launch_would_have_had(render: Any) -> None:
    """Applied as a real API server does, by the local cluster's own code."""
    from podrelay_local_cluster.objects.patching import json_patch

    launch = request(4, subject=str(uuid.uuid4()), known_by_id=True)
    pod = render(launch, workload_in_secret=True)
    found = shape(launch, pod)
    idle = with_volume(idle_pod(found, "warm-x", "ab" * 16, ["w"], deployment="default"))
    idle["metadata"]["uid"] = "uid-1"
    idle["metadata"]["labels"] = {**idle["metadata"]["labels"], "of": "webhook"}
    idle["metadata"]["annotations"] = {**idle["metadata"]["annotations"], "of/webhook": "too"}
    after = json_patch(idle, assignment_patch(pod, "uid-1", found.shape))
    assert after["metadata"]["labels"] == {
        **pod["metadata"]["labels"], identifiers.LABEL_WARM: "ab" * 16, "of": "webhook",
    }  # fmt: skip
    expected = {**pod["metadata"]["annotations"], "of/webhook": "too"}
    own_secret = idle["metadata"]["annotations"][identifiers.ANNOTATION_WORKLOAD_SECRET]
    assert after["metadata"]["annotations"] == {**expected, identifiers.ANNOTATION_WORKLOAD_SECRET: own_secret}
    assert after["spec"] == idle["spec"]


@pytest.mark.parametrize(("uid", "shaped"), [("uid-2", ""), ("uid-1", "0" * 16)])
def test_a_patch_is_refused_for_another_pod_or_one_that_is_not_idle(uid: str, shaped: str, render: Any) -> None:
    from podrelay_local_cluster.objects.patching import json_patch

    launch = request(4)
    pod = render(launch)
    found = shape(launch, pod)
    idle = idle_pod(found, "warm-x", "ab" * 16, ["w"], deployment="default")
    idle["metadata"]["uid"] = "uid-1"
    with pytest.raises(Exception, match="rejected our request"):
        json_patch(idle, assignment_patch(pod, uid, shaped or found.shape))
    assigned = json_patch(idle, assignment_patch(pod, "uid-1", found.shape))
    with pytest.raises(Exception, match="rejected our request"):
        json_patch(assigned, assignment_patch(pod, "uid-1", found.shape))
