"""Tasks that wait or fail for the usual reasons, to see how podrelay explains each: trigger it while `make up` runs.

Look at the event log of each task in Airflow, at `airflow podrelay status`, at rq-dashboard, and at `kubectl get events`.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag, task
from kubernetes.client import models as k8s

# The demo's cluster cannot pull this image, and allows one pod at a time in this namespace (demo/stack.py).
ABSENT_IMAGE = "registry.example.com/absent:1"
SMALL_NAMESPACE = "small"


def overrides(namespace: str | None = None, *, node: dict[str, str] | None = None, **container: object) -> k8s.V1Pod:
    """A pod_override for these parts of a pod."""
    base = k8s.V1Container(name="base", **container)
    return k8s.V1Pod(
        metadata=k8s.V1ObjectMeta(namespace=namespace), spec=k8s.V1PodSpec(containers=[base], node_selector=node)
    )


@dag(schedule=None, catchup=False, tags=["podrelay"], default_args={"execution_timeout": timedelta(minutes=5)})
def podrelay_troubles() -> None:
    @task(executor_config={"pod_override": overrides(node={"disktype": "none-has-this"})})
    def fits_no_node() -> None:
        """Waits: the pod is pending, FailedScheduling."""

    @task(executor_config={"pod_override": overrides(image=ABSENT_IMAGE)})
    def image_is_absent() -> None:
        """Waits, then fails: ErrImagePull, ImagePullBackOff."""

    @task(executor_config={"pod_override": overrides(command=["sh", "-c", "echo no library libnone; exit 3"])})
    def container_fails() -> None:
        """Fails: the container ends with code 3 before the task begins."""

    @task(executor_config={"pod_override": overrides(SMALL_NAMESPACE)})
    def in_a_small_namespace(seconds: int) -> None:
        """Two of three wait: the quota of the namespace is one pod."""
        import time

        time.sleep(seconds)

    @task
    def raises() -> None:
        """Fails: an exception of the task itself."""
        raise RuntimeError("this task fails intentionally")

    fits_no_node()
    image_is_absent()
    container_fails()
    in_a_small_namespace.expand(seconds=[20, 21, 22])
    raises()


podrelay_troubles()
