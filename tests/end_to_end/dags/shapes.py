"""The shapes of the provider's example for its Kubernetes executor: a pod_override of each kind, in one DAG."""

from __future__ import annotations

from typing import Any

from airflow.sdk import dag, get_current_context, task
from kubernetes.client import models as k8s

Overrides = dict[str, Any]


def _pod(**parts: Any) -> Overrides:
    return {"pod_override": k8s.V1Pod(**parts)}


def _base(**parts: Any) -> k8s.V1Container:
    return k8s.V1Container(name="base", **parts)


ANNOTATED = _pod(metadata=k8s.V1ObjectMeta(annotations={"example": "annotation"}))
LABELLED = _pod(metadata=k8s.V1ObjectMeta(labels={"release": "stable"}))
WITH_VOLUME = _pod(
    spec=k8s.V1PodSpec(
        containers=[_base(volume_mounts=[k8s.V1VolumeMount(name="host", mount_path="/host")])],
        volumes=[k8s.V1Volume(name="host", host_path=k8s.V1HostPathVolumeSource(path="/tmp"))],  # noqa: S108
    )
)
WITH_SIDECAR = _pod(
    spec=k8s.V1PodSpec(
        containers=[
            _base(volume_mounts=[k8s.V1VolumeMount(name="shared", mount_path="/shared")]),
            k8s.V1Container(
                name="sidecar",
                image="ubuntu",
                command=["sh", "-c", "exit 0"],
                volume_mounts=[k8s.V1VolumeMount(name="shared", mount_path="/shared")],
            ),
        ],
        volumes=[k8s.V1Volume(name="shared", empty_dir=k8s.V1EmptyDirVolumeSource())],
    )
)
OTHER_IMAGE = _pod(spec=k8s.V1PodSpec(containers=[_base(image="another/worker:1")]))
PLACED = _pod(
    spec=k8s.V1PodSpec(
        containers=[
            _base(resources=k8s.V1ResourceRequirements(requests={"memory": "64Mi"}, limits={"memory": "2Gi"})),
        ],
        affinity=k8s.V1Affinity(
            pod_anti_affinity=k8s.V1PodAntiAffinity(
                required_during_scheduling_ignored_during_execution=[
                    k8s.V1PodAffinityTerm(
                        label_selector=k8s.V1LabelSelector(match_labels={"app": "airflow"}),
                        topology_key="kubernetes.io/hostname",
                    )
                ]
            )
        ),
        tolerations=[k8s.V1Toleration(key="dedicated", operator="Equal", value="airflow")],
    )
)


@dag(schedule=None, catchup=False)
def shapes() -> None:
    def step(name: str, config: Overrides) -> Any:
        @task(task_id=name, executor_config=config)
        def run() -> str:
            return str(get_current_context()["ti"].task_id)

        return run()

    first = step("annotated", ANNOTATED)
    middle = [step("with_volume", WITH_VOLUME), step("with_sidecar", WITH_SIDECAR)]
    labelled = step("labelled", LABELLED)
    first >> middle >> labelled >> [step("other_image", OTHER_IMAGE), step("placed", PLACED)]


shapes()
