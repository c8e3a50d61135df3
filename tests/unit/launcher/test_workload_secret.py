"""The Secret of a pod's workload: the token leaves the pod, and everything of the user's stays."""

from __future__ import annotations

import base64
import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kubernetes_validate
import pytest
import yaml

from podrelay import pod_command
from podrelay.protocol import identifiers
from podrelay.protocol.messages import Json, LaunchRequest
from podrelay_workers.launcher.pod_manifest import ManifestRenderer
from podrelay_workers.launcher.pod_policy import load_pod_policy
from podrelay_workers.launcher.pod_template import ManifestError
from podrelay_workers.launcher.redaction import redact
from podrelay_workers.launcher.workload_secret import (
    FOLDER,
    VOLUME,
    secret_name_of,
    secret_of,
    with_volume,
    without_workload,
)

ROOT = Path(__file__).resolve().parents[3]
TOKEN = "eyJhbGciOiJIUzUxMiJ9.eyJzdWIiOiJ0aSJ9.c2lnbmF0dXJl"
WORKLOAD = json.dumps({"token": TOKEN, "type": "ExecuteTask", "ti": {"dag_id": "résumé"}}, ensure_ascii=False)
DATA = {"name": "data", "emptyDir": {}}
MOUNT = {"name": "data", "mountPath": "/data"}
TEMPLATE: Json = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "template", "annotations": {"mine": "yes"}},
    "spec": {
        "containers": [
            {"name": "base", "image": "airflow", "volumeMounts": [MOUNT]},
            {"name": "sidecar", "image": "other", "volumeMounts": [MOUNT]},
        ],
        "volumes": [DATA],
    },
}


def request(**changes: Any) -> LaunchRequest:
    values: dict[str, Any] = {
        "launch_id": "0192f0c1-aaaa-7bbb-8ccc-0123456789ab", "attempt": 0, "kind": "task", "subject": "ti",
        "owner": "17", "namespace": "airflow", "key": ("etl", "load", "run", 1, -1),
        "args": pod_command.with_argument(WORKLOAD),
    }  # fmt: skip
    return LaunchRequest(**(values | changes))


def renderer(folder: Path, template: Json = TEMPLATE, *, hook: bool = False, secret: bool = True) -> ManifestRenderer:
    path = folder / "template.yaml"
    path.write_text(yaml.safe_dump(template))
    config = SimpleNamespace(kube_image=None, pod_template_file=str(path))
    return ManifestRenderer("prod", kube_config=config, hook=hook, workload_in_secret=secret)


def created(pod: Json) -> Json:
    """The pod as the API server returns it."""
    return {**pod, "metadata": {**pod["metadata"], "uid": "u1"}}


OVERRIDE = {
    "spec": {
        "containers": [{"name": "base", "volumeMounts": [{"name": "more", "mountPath": "/more"}]}],
        "volumes": [{"name": "more", "emptyDir": {}}],
    }
}


@pytest.mark.parametrize("override", [None, OVERRIDE], ids=["plain", "pod_override"])
@pytest.mark.parametrize("hook", [False, True])
def test_the_pod_has_a_file_instead_of_the_token_and_keeps_its_own_volumes(
    tmp_path: Path, override: Json | None, hook: bool
) -> None:
    launch = request(pod_override=override)
    pod = renderer(tmp_path, hook=hook).render(launch)
    plain = renderer(tmp_path, hook=hook, secret=False).render(launch)
    assert TOKEN not in json.dumps(pod)
    kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", **pod}, "1.33", strict=True)
    base, sidecar = pod["spec"]["containers"]
    name = pod["metadata"]["annotations"].pop(identifiers.ANNOTATION_WORKLOAD_SECRET)
    assert base["args"][-2:] == ["--json-path", f"{FOLDER}/workload.json"]
    assert pod["spec"]["volumes"].pop() == {"name": VOLUME, "secret": {"secretName": name}}
    assert base["volumeMounts"].pop() == {"name": VOLUME, "mountPath": FOLDER, "readOnly": True}
    assert sidecar["volumeMounts"] == [MOUNT]
    # Nothing else differs.
    base["args"] = plain["spec"]["containers"][0]["args"]
    assert pod == plain


def test_pods_share_no_part_that_names_a_secret(tmp_path: Path) -> None:
    made = renderer(tmp_path)
    first = made.render(request())
    before = copy.deepcopy(first)
    second = made.render(request(launch_id="0192f0c1-bbbb-7bbb-8ccc-0123456789ab"))
    assert first == before
    assert len(second["spec"]["volumes"]) == len(second["spec"]["containers"][0]["volumeMounts"]) == 2
    assert secret_name_of(first) != secret_name_of(second)


def test_two_pods_of_one_name_have_secrets_of_different_names(tmp_path: Path) -> None:
    """The Secret of a pod that is gone may still be there for a moment, and is then collected."""
    made = renderer(tmp_path)
    first, second = made.render(request()), made.render(request())
    assert first["metadata"]["name"] == second["metadata"]["name"]
    assert secret_name_of(first) != secret_name_of(second)


def test_the_secret_is_owned_by_the_pod_and_holds_the_workload_in_ascii(tmp_path: Path) -> None:
    pod = created(renderer(tmp_path).render(request()))
    secret = secret_of(request().args[-1], pod)
    kubernetes_validate.validate(secret, "1.33", strict=True)
    metadata = secret["metadata"]
    assert metadata["name"] == secret_name_of(pod)
    assert metadata["namespace"] == "airflow"
    assert metadata["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"], "uid": "u1"}
    ]
    assert metadata["labels"][identifiers.LABEL_LAUNCH_ID] == request().launch_id
    content = base64.b64decode(secret["data"]["workload.json"]).decode("ascii")
    assert json.loads(content) == json.loads(WORKLOAD)
    assert secret["immutable"] is True


def test_a_template_that_was_copied_from_a_pod_works(tmp_path: Path) -> None:
    copied = renderer(tmp_path).render(request())
    pod = renderer(tmp_path, {"apiVersion": "v1", "kind": "Pod", **copied}).render(request())
    assert [volume["name"] for volume in pod["spec"]["volumes"]] == ["data", VOLUME]
    assert [mount["name"] for mount in pod["spec"]["containers"][0]["volumeMounts"]] == ["data", VOLUME]
    assert pod["spec"]["volumes"][-1]["secret"]["secretName"] == secret_name_of(pod)


@pytest.mark.parametrize("name", ["database-password", "pod-database", "", "pod-0123456", "pod-0123456z", "-01234567"])
def test_an_annotation_names_no_secret_but_that_of_its_pod(name: str) -> None:
    """Users may annotate their pods, and launchers delete the Secret of a pod that is kept."""
    annotations = {identifiers.ANNOTATION_WORKLOAD_SECRET: name}
    assert secret_name_of({"metadata": {"name": "pod", "annotations": annotations}}) == ""


def test_the_container_named_base_gets_the_mount(tmp_path: Path) -> None:
    containers = [{"name": "first"}, {"name": "base"}]
    pod = with_volume({"metadata": {"name": "pod"}, "spec": {"containers": containers}})
    assert "volumeMounts" not in pod["spec"]["containers"][0]
    assert pod["spec"]["containers"][1]["volumeMounts"][0]["mountPath"] == FOLDER
    assert containers == [{"name": "first"}, {"name": "base"}], "the given pod is not modified"


def test_the_strict_policy_allows_the_volume() -> None:
    """It is added to a pod that the policy has allowed, and breaks no rule itself."""
    config = SimpleNamespace(
        kube_image=None, pod_template_file=str(ROOT / "docker" / "kubernetes" / "base" / "pod_template.yaml")
    )
    policy = load_pod_policy("strict", ["airflow"])
    made = ManifestRenderer("prod", kube_config=config, hook=False, policy=policy, workload_in_secret=True)
    pod = made.render(request())
    assert secret_name_of(pod)
    assert policy.violations(pod) == []


def test_a_command_line_of_another_release_fails_with_the_option(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"\[podrelay\] workload_in_secret") as caught:
        without_workload(request(args=("airflow", "run-workload", WORKLOAD)))
    assert TOKEN not in str(caught.value)


def test_the_sample_pod_of_check_has_the_volume(tmp_path: Path) -> None:
    made = renderer(tmp_path)
    made.check()
    assert secret_name_of(made.render_sample("default"))


def test_a_message_that_quotes_the_secret_shows_no_token(tmp_path: Path) -> None:
    secret = secret_of(request().args[-1], created(renderer(tmp_path).render(request())))
    data = secret["data"]["workload.json"]
    for quoted in (data, data[:100]):
        assert redact(f"denied the request: {quoted}", request().args) == "denied the request: ***"
