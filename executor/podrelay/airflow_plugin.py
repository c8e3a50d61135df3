"""What podrelay adds to Airflow's API server: its lines in the logs of tasks, a page under Browse, a tab of a task instance.

Every task process imports this module, so it imports nothing that Airflow's plugin manager has not imported anyway.
"""

from __future__ import annotations

import asyncio
from typing import Any

from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin

# Relative: an absolute one would leave out the path of [api] base_url.
_PAGE = "podrelay/"
_TASK = "dag_id={DAG_ID}&run_id={RUN_ID}&task_id={TASK_ID}&map_index={MAP_INDEX}"
_VIEWS = [
    {"name": "podrelay", "href": _PAGE, "destination": "nav", "category": "browse", "url_route": "podrelay"},
    {
        "name": "Launches",
        "href": f"{_PAGE}launches?{_TASK}",
        "destination": "task_instance",
        "url_route": "podrelay-launches",
    },
]


def extend_task_logs(app: Any) -> Any:
    """Called like a middleware, once in each process of the API server and nowhere else; no request passes through it."""
    from podrelay.task_log import extend_log_reader

    extend_log_reader()
    return app


class Pages:
    """The ASGI application of the pages, built at its first request."""

    def __init__(self) -> None:
        self._app: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._app is None:
            from podrelay.ui.app import build

            built = await asyncio.to_thread(build)
            self._app = self._app or built
        await self._app(scope, receive, send)


def wants_pages() -> bool:
    """Does this Airflow use podrelay, and want its pages?"""
    executors, wanted = conf.get("core", "executor", fallback=""), conf.get("podrelay", "ui_page", fallback=None)
    return "podrelay" in executors and (wanted or "").strip().lower() not in ("false", "f", "0")


class PodrelayPlugin(AirflowPlugin):
    """Found by its entry point `airflow.plugins`."""

    name = "podrelay"
    fastapi_root_middlewares: list[Any] = [{"name": "podrelay task logs", "middleware": extend_task_logs}]
    # The prefix must begin with a slash, the addresses of views must not.
    fastapi_apps: list[Any] = (
        [{"name": "podrelay pages", "app": Pages(), "url_prefix": "/podrelay"}] if wants_pages() else []
    )
    external_views: list[Any] = _VIEWS if wants_pages() else []
