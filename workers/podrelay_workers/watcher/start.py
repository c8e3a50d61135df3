"""Starts a watcher. `airflow podrelay watcher` calls `run`; so does `python -m podrelay_workers.watcher`.

Reads and checks the configuration in this process, which imports Airflow, and continues as `process` without Airflow; in this
process only where Airflow's metrics or a client factory need it.
"""

from __future__ import annotations

import importlib
from dataclasses import replace

from podrelay.settings import Settings
from podrelay.teams import has_client_factory, kube_config_of
from podrelay_workers.kube import credential_loader
from podrelay_workers.runtime import airflow_options, logs
from podrelay_workers.runtime.handover import hand_over
from podrelay_workers.watcher.options import WatcherOptions

_PROCESS = "podrelay_workers.watcher.process"


def run(team: str | None = None) -> int:
    """Run one watcher until SIGTERM or SIGINT, and return its exit code.

    :raises ConfigError: an option is wrong; the message names it and says what to write.
    """
    logs.configure(airflow_options.read_log_options())
    options = read_options(airflow_options.read_settings(), team)
    if not (options.worker.sends_stats or has_client_factory(team)):
        options = replace(options, first_load=credential_loader.fork(team))
        hand_over(_PROCESS, options, ("airflow", "podrelay", "watcher", *(("--team", team) if team else ())))
    return int(importlib.import_module(_PROCESS).run(options))


def read_options(settings: Settings, team: str | None = None) -> WatcherOptions:
    """:raises ConfigError: an option is wrong."""
    kube = kube_config_of(team)
    fatal = (reason.strip() for reason in kube.worker_pod_pending_fatal_container_state_reasons)
    worker = airflow_options.read_worker_options(settings, team, kube)
    return WatcherOptions(worker, frozenset(filter(None, fatal)))
