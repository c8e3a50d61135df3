"""A pod_override with everything set reaches the pod as the provider would merge the V1Pod itself, after our transport."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.providers.cncf.kubernetes.kube_config import KubeConfig
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from kubernetes.client import ApiClient
from kubernetes.client import models as k8s

from podrelay.protocol import identifiers
from podrelay.scheduling.request_builder import request_for
from podrelay_workers.launcher.pod_manifest import ManifestRenderer
from tests.harness.task_instances import make_task_instances, workload_of

TEMPLATE = {
    "kind": "Pod",
    "metadata": {"name": "dummy", "labels": {"team": "data"}},
    "spec": {
        "restartPolicy": "Never", "automountServiceAccountToken": True, "hostNetwork": True,
        "initContainers": [{"name": "prepare", "image": "of-template"}],
        "containers": [{"name": "base", "image": "of-template"}, {"name": "proxy", "image": "of-template"}],
    },
}  # fmt: skip
FORGED = {f"podrelay/{name}": "forged" for name in ("launch-id", "deployment", "cluster", "attempt")}


def everything() -> k8s.V1Pod:
    """What is ours already, what is empty, what no label or name may hold, sidecars, its own volume."""
    claim = k8s.V1PersistentVolumeClaimSpec(
        access_modes=["ReadWriteOnce"], resources=k8s.V1VolumeResourceRequirements(requests={"storage": "1Gi"})
    )
    volume = k8s.V1EphemeralVolumeSource(volume_claim_template=k8s.V1PersistentVolumeClaimTemplate(spec=claim))
    return k8s.V1Pod(
        api_version="v1",
        kind="Pod",
        metadata=k8s.V1ObjectMeta(
            name="Mein Pöd " + "x" * 90, generate_name="generated-", namespace="other", finalizers=["example.org/f"],
            labels={**FORGED, "dag_id": "mine", "airflow-worker": "1", "team": ""},
            annotations={identifiers.ANNOTATION_SUBJECT: "forged", "try_number": "9", "ü": "ß"},
        ),
        spec=k8s.V1PodSpec(
            host_network=False, automount_service_account_token=False, overhead={"cpu": "1"},
            init_containers=[
                k8s.V1Container(name="sidecar", image="s", restart_policy="Always"),
                k8s.V1Container(name="prepare", image="p"),
            ],
            containers=[
                k8s.V1Container(name="base", image="i", env=[k8s.V1EnvVar(name="EMPTY", value="")]),
                k8s.V1Container(name="proxy", command=[]),
                k8s.V1Container(name="third", image="t"),
            ],
            volumes=[k8s.V1Volume(name="scratch", ephemeral=volume)],
            scheduling_gates=[k8s.V1PodSchedulingGate(name="example.org/gate")],
            tolerations=[k8s.V1Toleration(operator="Exists", toleration_seconds=0)],
        ),
    )  # fmt: skip


def test_everything_set(airflow_db: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "template.yaml"
    path.write_text(yaml.safe_dump(TEMPLATE))
    monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE", str(path))
    workload, launch_id = workload_of(make_task_instances(1)[0]), "0192f0c1-aaaa-7bbb-8ccc-000000000000"
    asked = {"pod_override": everything()}
    request = request_for(workload, launch_id, "17", KubeConfig(), cluster="default", team=None, executor_config=asked)
    body = ManifestRenderer("prod").render(request)

    ti = workload.ti
    stock: Any = ApiClient().sanitize_for_serialization(PodGenerator.construct_pod(
        dag_id=ti.dag_id, task_id=ti.task_id, pod_id="any", try_number=ti.try_number, kube_image=None,  # type: ignore[arg-type]
        date=None, args=list(request.args), pod_override_object=everything(), scheduler_job_id="17", run_id=ti.run_id,
        base_worker_pod=PodGenerator.deserialize_model_dict(TEMPLATE), namespace="default", map_index=ti.map_index,
        with_mutation_hook=True,
    ))  # fmt: skip
    assert body["spec"] == stock["spec"]
    ours, theirs = body["metadata"], stock["metadata"]
    for part in ("labels", "annotations"):
        changed = {name for name in ours[part] if ours[part][name] != theirs[part].get(name)}
        assert changed and all(name.startswith("podrelay/") for name in changed)
        assert set(theirs[part]) <= set(ours[part])
    for name in ("namespace", "generateName", "finalizers"):
        assert ours[name] == theirs[name]
    assert (ours["labels"][identifiers.LABEL_LAUNCH_ID], ours["namespace"]) == (launch_id, "other")
    assert ours["name"].startswith("mein-p")
    assert len(ours["name"]) <= 63
    assert ours["name"].isascii()
