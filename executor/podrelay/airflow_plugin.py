"""What podrelay adds to Airflow's API server.

Every task process imports this module, so it imports nothing that Airflow's plugin manager has not imported anyway.
"""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin


def extend_task_logs(app: Any) -> Any:
    """Called like a middleware, once in each process of the API server and nowhere else; no request passes through it."""
    from podrelay.task_log import extend_log_reader

    extend_log_reader()
    return app


class PodrelayPlugin(AirflowPlugin):
    """Found by its entry point `airflow.plugins`."""

    name = "podrelay"
    fastapi_root_middlewares: list[Any] = [{"name": "podrelay task logs", "middleware": extend_task_logs}]
