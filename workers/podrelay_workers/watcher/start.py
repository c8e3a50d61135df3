"""Starts a watcher in a process that has Airflow. `airflow podrelay watcher` calls `run`, `podrelay watcher` its parts.

`run` reads and checks the configuration, and continues as `process` in an interpreter without Airflow. Where Airflow's
metrics or a client factory need it, the watcher stays in this process.
"""

from __future__ import annotations

import importlib
import socket
from functools import partial

from podrelay.settings import Settings
from podrelay.teams import has_client_factory, kube_config_of
from podrelay_workers.kube import credential_loader
from podrelay_workers.runtime import airflow_options, logs
from podrelay_workers.runtime.copies import copy_process, print_to_stderr
from podrelay_workers.runtime.handover import hand_over, team_words
from podrelay_workers.watcher.options import WatcherOptions

_PROCESS = "podrelay_workers.watcher.process"


def run(team: str | None = None) -> int:
    """Run one watcher until SIGTERM or SIGINT, and return its exit code.

    :raises ConfigError: an option is wrong; the message names it and says what to write.
    """
    options = read(team)
    if not needs_airflow(options):
        copy = copy_process(partial(answer_first, options), 1)
        options = options.answered_by(copy.pid, *copy.descriptors)
        hand_over(_PROCESS, options, ("airflow", "podrelay", "watcher", *team_words(team)), copy.descriptors)
    return int(importlib.import_module(_PROCESS).run(options))


def read(team: str | None) -> WatcherOptions:
    """Log as Airflow's options say, and read all options. Raises what `run` raises."""
    logs.configure(airflow_options.read_log_options())
    return read_options(airflow_options.read_settings(), team)


def needs_airflow(options: WatcherOptions) -> bool:
    """Must the watcher have Airflow in its own process?"""
    return options.worker.sends_stats or has_client_factory(options.worker.team)


def answer_first(options: WatcherOptions, credentials: socket.socket) -> int:
    """What a copy of the process that read the options does for the watcher: load its credentials."""
    print_to_stderr()
    return credential_loader.answer_once(credentials, options.worker.team)


def read_options(settings: Settings, team: str | None = None) -> WatcherOptions:
    """:raises ConfigError: an option is wrong."""
    kube = kube_config_of(team)
    fatal = (reason.strip() for reason in kube.worker_pod_pending_fatal_container_state_reasons)
    worker = airflow_options.read_worker_options(settings, team, kube)
    return WatcherOptions(worker, frozenset(filter(None, fatal)))
