"""Runs a workload as ``python -m airflow.sdk.execution_time.execute_workload`` does: the same module, in this process."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import runpy
import sys
import tempfile
from typing import NoReturn

from podrelay.protocol.identifiers import warm_host
from podrelay.protocol.mailbox import Delivery

_MODULE = "airflow.sdk.execution_time.execute_workload"


def report_host_of(delivery: Delivery) -> None:
    """Let Airflow's database name the launch that runs here (`warm_host`), beside the pod.

    Only the client of the execution API gets this host name. Task code, mails and templates read that of the pod, through
    the reference that the module of the task's process has to the function. Both are so in Airflow 3.1 to 3.3.
    """
    importlib.import_module("airflow.sdk.execution_time.task_runner")  # now: it refers to the function as it is
    from airflow.sdk.api import client

    reported = warm_host(client.get_hostname(), delivery.launch_id, delivery.attempt)
    client.get_hostname = lambda: reported


def run_as_argument(workload: str) -> None:
    """Run a workload as if it stood in the arguments.

    :raises SystemExit: as Airflow's module; and every exception that it raises.
    """
    _run("--json-string", workload)


def run_as_file(workload: str) -> None:
    """Run a workload as if it stood in a file that the arguments name: a pod with `[podrelay] workload_in_secret`.

    :raises SystemExit: as Airflow's module; and every exception that it raises.
    """
    _run("--json-path", _open_path(_file_with(workload)))


def run_in_new_interpreter(delivery: Delivery, *, from_file: bool) -> NoReturn:
    """Replace this process by one that begins with this delivery (`process.main`), in the same pod under the same id."""
    descriptor = _file_with(json.dumps(dataclasses.astuple(delivery)))
    os.set_inheritable(descriptor, True)
    option = "--delivered-to-file" if from_file else "--delivered"
    arguments = ["-m", "podrelay_workers.warm_pod", option, _open_path(descriptor)]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *arguments])


def decode_delivery(content: bytes) -> Delivery:
    """The delivery that `run_in_new_interpreter` has written."""
    return Delivery(*json.loads(content))


def _run(*arguments: str) -> None:
    sys.orig_argv[1:] = ["-m", _MODULE, *arguments]
    sys.argv[1:] = arguments
    runpy.run_module(_MODULE, run_name="__main__", alter_sys=True)


def _file_with(text: str) -> int:
    """A file without a name, in memory where the system can do that."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("podrelay")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    with os.fdopen(descriptor, "wb", closefd=False) as file:
        file.write(text.encode())
        file.seek(0)
    return descriptor


def _open_path(descriptor: int) -> str:
    return f"/dev/fd/{descriptor}"
