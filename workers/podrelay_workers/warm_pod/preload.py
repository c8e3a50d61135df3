"""Imports what a task needs before there is one: the modules of the supervisor, of the task's process, which is forked from
it, and of the DAG bundles.

Plugins and DAGs are not imported: a pod starts without a task, and Airflow imports them in the task's process.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
import warnings
from collections.abc import Iterable
from typing import Any

# Importing Airflow's module alone is not enough: it imports most of the rest when it runs.
_OF_THE_SUPERVISOR = (
    "airflow.executors.workloads",
    "airflow.executors.base_executor",
    "airflow.settings",
    "airflow.sdk.log",
    "airflow.sdk.execution_time.supervisor",
)
_OF_THE_TASK = (
    "airflow.sdk.execution_time.task_runner",
    "airflow.dag_processing.dagbag",
    "airflow.serialization.serialized_objects",
    "airflow.sdk.definitions.decorators",
    "airflow.sdk.definitions.dag",
    "airflow.providers.standard.operators.bash",
    "airflow.providers.standard.operators.empty",
    "airflow.providers.standard.operators.python",
    "airflow.providers.standard.decorators.python",
    "airflow.providers.standard.decorators.bash",
    "encodings.idna",
    "jinja2.ext",
    "setproctitle",
)


def preload() -> None:
    """Import it all. What cannot be imported is left to the task, which fails if it needs it."""
    _import(_OF_THE_SUPERVISOR)
    with warnings.catch_warnings():  # a task that does not use these modules would not have seen their warnings
        warnings.simplefilter("ignore")
        _import(_OF_THE_TASK)
        with contextlib.suppress(Exception):
            _import_bundles()


def _import(names: Iterable[str]) -> None:
    for name in names:
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def _import_bundles() -> None:
    """Import the classes of the configured DAG bundles. None is fetched: which one a task needs, in which version, is not
    known, and connections for it are read with the task's token.
    """
    from airflow.configuration import conf

    bundles: Any = conf.getjson("dag_processor", "dag_bundle_config_list", fallback=())
    for bundle in bundles:
        importlib.import_module(bundle["classpath"].rpartition(".")[0])


def may_fork() -> bool:
    """May Airflow fork the task from this process? A thread, such as those of OpenTelemetry, does not exist in a fork, and
    leaves there what it held: locks, and connections that were opened since.
    """
    return threading.active_count() == 1
