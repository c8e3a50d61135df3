"""Both forms of a pod's command line run the same workload, as the installed Airflow reads it."""

from __future__ import annotations

import json
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from airflow.executors.base_executor import BaseExecutor
from airflow.sdk.execution_time import execute_workload

from podrelay.pod_command import with_argument, with_file

BUNDLE = {"bundle_info": {"name": "dags-folder", "version": None}, "dag_rel_path": "dag.py", "log_path": None}
TASK = {
    "type": "ExecuteTask", "token": "t", **BUNDLE,
    "ti": {
        "id": str(uuid.uuid4()), "dag_version_id": str(uuid.uuid4()), "dag_id": "d", "task_id": "t", "run_id": "r",
        "try_number": 1, "map_index": -1, "pool_slots": 1, "queue": "default", "priority_weight": 1,
    },
}  # fmt: skip
CALLBACK = {
    "type": "ExecuteCallback", "token": "t", **BUNDLE,
    "callback": {"id": str(uuid.uuid4()), "fetch_method": "import_path", "data": {"path": "a.b", "kwargs": {}}},
}  # fmt: skip


def run(args: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command line as Python does, as far as the call that begins the work: the workload that this call got."""
    seen: list[Any] = []
    monkeypatch.setattr(execute_workload, "execute_workload", seen.append)

    def run_workload(workload: Any, **_: Any) -> int:
        seen.append(workload)
        return 7

    monkeypatch.setattr(BaseExecutor, "run_workload", run_workload)
    python, how, what, *rest = args
    monkeypatch.setattr(sys, "argv", ["main", *rest])
    assert python == "python"
    if how == "-m":
        assert what == execute_workload.__name__
        execute_workload.main()
    else:
        with pytest.raises(SystemExit) as ended:
            exec(compile(what, "<string>", "exec"), {})
        assert ended.value.code == 7
    return seen.pop()


@pytest.mark.parametrize(("document", "exit_code"), [(TASK, False), (CALLBACK, True)], ids=["task", "callback"])
def test_a_workload_is_read_from_an_argument_or_from_a_file(
    document: dict[str, Any], exit_code: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload = json.dumps(document)
    args = with_argument(workload, exit_code=exit_code)
    path = tmp_path / "workload.json"
    path.write_text(workload)
    moved = with_file(args, str(path))
    assert moved is not None
    assert workload in args
    assert not [word for word in moved if "token" in word]
    assert run(args, monkeypatch) == run(moved, monkeypatch)


@pytest.mark.parametrize("args", [(), ("x",), ("airflow", "tasks", "run", "{}"), ("python", "-c", "pass", "{}")])
def test_another_command_line_is_not_changed(args: tuple[str, ...]) -> None:
    assert with_file(args, "/workload.json") is None
