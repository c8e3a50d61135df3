"""As many deferrable tasks as the environment says, side by side; each trigger fires at once."""

from __future__ import annotations

import os

from airflow.providers.standard.sensors.date_time import DateTimeSensorAsync
from airflow.sdk import DAG

LONG_AGO = "2020-01-01T00:00:00+00:00"

with DAG("deferrals", schedule=None, catchup=False, max_active_tasks=1000):
    DateTimeSensorAsync.partial(task_id="wait").expand(
        target_time=[LONG_AGO] * int(os.environ.get("PODRELAY_DEFERRALS", "1"))
    )
