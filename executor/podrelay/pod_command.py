"""The command line of a pod, with the workload as its last argument or in a file. Pure.

The executor always writes the workload into the argument; a launcher with `[podrelay] workload_in_secret` moves it.
"""

from __future__ import annotations

from collections.abc import Sequence

# For tasks. Airflow 3.1 and later read the workload from either place.
_EXECUTE = ("python", "-m", "airflow.sdk.execution_time.execute_workload")
_EXECUTE_ARGUMENT, _EXECUTE_FILE = (*_EXECUTE, "--json-string"), (*_EXECUTE, "--json-path")
# For the rest: the exit code of Airflow's module does not show whether a callback succeeded.
_RUN = (
    "import sys; from pydantic import TypeAdapter; from airflow.executors import workloads; "
    "from airflow.executors.base_executor import BaseExecutor; "
    "sys.exit(BaseExecutor.run_workload(TypeAdapter(workloads.All).validate_json({}), "
    "subprocess_logs_to_stdout=True))"
)
_RUN_ARGUMENT = ("python", "-c", _RUN.format("sys.argv[1]"))
_RUN_FILE = ("python", "-c", f"from pathlib import Path; {_RUN.format('Path(sys.argv[1]).read_bytes()')}")

_WITH_FILE = {_EXECUTE_ARGUMENT: _EXECUTE_FILE, _RUN_ARGUMENT: _RUN_FILE}


def with_argument(workload: str, *, exit_code: bool = False) -> tuple[str, ...]:
    """The command line that runs this workload, which contains a token.

    :param exit_code: end with the workload's own exit code.
    """
    return (*(_RUN_ARGUMENT if exit_code else _EXECUTE_ARGUMENT), workload)


def with_file(args: Sequence[str], path: str) -> tuple[str, ...] | None:
    """The same command line, with the workload read from a file; None for one that `with_argument` did not write."""
    command = _WITH_FILE.get(tuple(args[:-1]))
    return None if command is None else (*command, path)


def runs_task(args: Sequence[str]) -> bool:
    """Is this what `with_argument` writes for a task?"""
    return tuple(args[:-1]) == _EXECUTE_ARGUMENT


def is_same(args: Sequence[str], others: Sequence[str]) -> bool:
    """Are the others the same command line, possibly with the workload in a file?"""
    file = _WITH_FILE.get(tuple(args[:-1]))
    return tuple(others) == tuple(args) or (file is not None and tuple(others[:-1]) == file)
