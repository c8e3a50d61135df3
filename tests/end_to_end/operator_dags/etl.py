"""A DAG of an operator: one task waits for a node that does not exist, another ends before its task begins."""

from __future__ import annotations

from airflow.sdk import dag, task
from kubernetes.client import models as k8s


def overrides(node: dict[str, str] | None = None, **container: object) -> k8s.V1Pod:
    base = k8s.V1Container(name="base", **container)
    return k8s.V1Pod(spec=k8s.V1PodSpec(containers=[base], node_selector=node))


@dag(schedule=None, is_paused_upon_creation=False)
def etl() -> None:
    @task(executor_config={"pod_override": overrides(node={"disktype": "ssd"})})
    def load() -> None: ...

    @task(executor_config={"pod_override": overrides(command=["sh", "-c", "echo no library libpq.so.5; exit 3"])})
    def clean() -> None: ...

    load()
    clean()


etl()
