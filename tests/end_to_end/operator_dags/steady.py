"""Load: many short tasks, a few at a time. Their pods speak the execution API without importing Airflow."""

from __future__ import annotations

import os
import sys

from airflow.sdk import dag, task
from kubernetes.client import models as k8s

# The environment of the test names it; the command of the pod precedes the arguments that podrelay gives.
POD = os.environ.get("OPERATOR_TEST_POD", "")
LIGHT = k8s.V1Pod(
    spec=k8s.V1PodSpec(containers=[k8s.V1Container(name="base", command=[sys.executable, "-S", "-E", POD, "succeed"])])
)


@dag(schedule=None, is_paused_upon_creation=False)
def steady() -> None:
    @task(executor_config={"pod_override": LIGHT}, max_active_tis_per_dag=4)
    def work(number: int) -> None: ...

    work.expand(number=list(range(12)))


steady()
