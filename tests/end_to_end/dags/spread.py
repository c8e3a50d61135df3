"""Tasks side by side for the tests that kill processes; the run's conf says how many, how long, and which one dies."""

from __future__ import annotations

import os
import signal
import time

from airflow.sdk import dag, get_current_context, task


@dag(schedule=None, catchup=False, params={"count": 8, "seconds": 1.0, "dies": -1})
def spread() -> None:
    @task
    def numbers() -> list[int]:
        return list(range(get_current_context()["params"]["count"]))

    @task(retries=1, retry_delay=0.5)
    def work(number: int) -> None:
        context = get_current_context()
        if number == context["params"]["dies"] and context["ti"].try_number == 1:
            # The supervisor first: no process is left to report to Airflow, only Kubernetes sees the end of the pod.
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        context["ti"].xcom_push("began", True)
        time.sleep(context["params"]["seconds"])

    work.expand(number=numbers())


spread()
