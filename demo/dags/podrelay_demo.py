"""The demo DAG: a fan-out, a pod_override, a retry and a deferral, to cover the main paths through podrelay."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.providers.standard.sensors.date_time import DateTimeSensorAsync
from airflow.sdk import dag, get_current_context, task
from kubernetes.client import models as k8s

FAN_OUT = 8

# As for the stock executor: `base` is the container that runs the task.
WITH_GREETING = k8s.V1Pod(
    metadata=k8s.V1ObjectMeta(labels={"greeting": "hello"}),
    spec=k8s.V1PodSpec(containers=[k8s.V1Container(name="base", env=[k8s.V1EnvVar(name="GREETING", value="hello")])]),
)


@dag(schedule=None, catchup=False, tags=["podrelay"])
def podrelay_demo() -> None:
    @task
    def plan() -> list[int]:
        return list(range(FAN_OUT))

    @task
    def square(number: int) -> int:
        return number * number

    @task
    def add_up(squares: Any) -> int:
        total = sum(squares)
        if total != sum(number * number for number in range(FAN_OUT)):
            raise ValueError(f"the mapped tasks returned {squares}")
        return total

    @task(executor_config={"pod_override": WITH_GREETING})
    def greet() -> str:
        return os.environ["GREETING"]  # only the pod_override sets it

    @task(retries=1, retry_delay=timedelta(seconds=1))
    def fail_once() -> None:
        if get_current_context()["ti"].try_number == 1:
            raise RuntimeError("the first try fails intentionally")

    wait = DateTimeSensorAsync(task_id="wait", target_time="{{ ti.start_date + macros.timedelta(seconds=5) }}")

    total = add_up(square.expand(number=plan()))
    [greet(), fail_once(), wait] >> total


podrelay_demo()
