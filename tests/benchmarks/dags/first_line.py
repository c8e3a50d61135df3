"""DAGs whose tasks write down when their own code began: one task, and eight side by side."""

from __future__ import annotations

import time
from pathlib import Path

from airflow.sdk import dag, get_current_context, task

BEGAN = Path(__file__).resolve().parents[1] / "began"


@task
def own_code() -> None:
    began_s = time.time()
    ti = get_current_context()["ti"]
    (BEGAN / f"{ti.run_id}.{ti.task_id}").write_text(f"{began_s:.6f}")


@dag(schedule=None, catchup=False, max_active_runs=64, max_active_tasks=64)
def single() -> None:
    own_code()


@dag(schedule=None, catchup=False, max_active_runs=64, max_active_tasks=64)
def burst() -> None:
    for number in range(8):
        own_code.override(task_id=f"own_code_{number}")()


single()
burst()
