"""The calls of Airflow's REST API that the demo and the end-to-end tests make."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

# Requests to loopback must not go through a proxy of the environment.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ApiError(Exception):
    """The API server did not answer, or answered with an error."""


@dataclass(frozen=True)
class TaskState:
    """One task instance as Airflow reports it; `map_index` is -1 for a task that is not mapped."""

    id: str
    task_id: str
    map_index: int
    try_number: int
    state: str | None

    @property
    def label(self) -> str:
        return self.task_id if self.map_index < 0 else f"{self.task_id}[{self.map_index}]"


class AirflowApi:
    """A client of Airflow's API server for one user. It logs in before its first call."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self.url = url
        self._login = {"username": user, "password": password}
        self._token = ""

    def health(self) -> dict[str, str | None]:
        """Component -> `healthy`, `unhealthy`, or None if it never reported; empty without an answer. Needs no login."""
        try:
            answer = self._once("GET", "/api/v2/monitor/health")
        except (OSError, ValueError):
            return {}
        return {name: part["status"] for name, part in answer.items()}

    def execution_health(self) -> None:
        """Initialize the execution API, so that no task waits for it: its first call takes many seconds.

        :raises ApiError: it does not answer.
        """
        self._checked("GET", "/execution/health")

    def dag_is_known(self, dag_id: str) -> bool:
        """Whether the DAG processor has written this DAG to the database."""
        listed = self.get(f"/api/v2/dags?dag_id_pattern={dag_id}")
        return any(dag["dag_id"] == dag_id for dag in listed["dags"])

    def import_errors(self) -> list[str]:
        return [error["stack_trace"] for error in self.get("/api/v2/importErrors")["import_errors"]]

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None) -> str:
        """Start a run and return its id."""
        run = self.post(f"/api/v2/dags/{dag_id}/dagRuns", {"logical_date": None, "conf": conf or {}})
        return str(run["dag_run_id"])

    def run_state(self, dag_id: str, run_id: str) -> str:
        return str(self.get(f"/api/v2/dags/{dag_id}/dagRuns/{run_id}")["state"])

    def tasks(self, dag_id: str, run_id: str) -> list[TaskState]:
        answer = self.get(f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances?limit=1000")
        return [
            TaskState(row["id"], row["task_id"], row["map_index"], row["try_number"], row["state"])
            for row in answer["task_instances"]
        ]

    def xcom(self, dag_id: str, run_id: str, task_id: str) -> Any:
        """The return value of a task that is not mapped."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
        return self.get(f"{path}?deserialize=true")["value"]

    def log_text(self, dag_id: str, run_id: str, task: TaskState) -> str:
        """The log of the latest try, one line for each event."""
        answer = self.get(
            f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task.task_id}/logs/{task.try_number}"
            f"?map_index={task.map_index}&full_content=true"
        )
        return "\n".join(line if isinstance(line, str) else json.dumps(line) for line in answer["content"])

    def get(self, path: str) -> Any:
        """Three attempts, one second apart: a busy SQLite causes an occasional 500.

        :raises ApiError: all of them failed.
        """
        for _ in range(2):
            with contextlib.suppress(OSError, ValueError):
                return self._once("GET", path, token=self.token())
            time.sleep(1)
        return self._checked("GET", path, token=self.token())

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """One attempt: the server may have executed a request that failed.

        :raises ApiError: it failed.
        """
        return self._checked("POST", path, body, token=self.token())

    def patch(self, path: str, body: dict[str, Any]) -> Any:
        """One attempt.

        :raises ApiError: it failed.
        """
        return self._checked("PATCH", path, body, token=self.token())

    def token(self) -> str:
        """The token of this user, as a browser has it in its cookie after a login."""
        if not self._token:
            self._token = self._checked("POST", "/auth/token", self._login)["access_token"]
        return self._token

    def _checked(self, method: str, path: str, body: dict[str, Any] | None = None, token: str = "") -> Any:
        try:
            return self._once(method, path, body, token)
        except urllib.error.HTTPError as error:
            text = error.read(500).decode(errors="replace")
            raise ApiError(f"{method} {path}: {error.code} {text}") from error
        except (OSError, ValueError) as error:
            raise ApiError(f"{method} {path}: {error}") from error

    def _once(self, method: str, path: str, body: dict[str, Any] | None = None, token: str = "") -> Any:
        request = urllib.request.Request(self.url + path, method=method, headers={"Accept": "application/json"})
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        with _OPENER.open(request, timeout=120) as answer:
            return json.load(answer)
