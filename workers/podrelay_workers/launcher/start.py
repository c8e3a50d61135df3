"""Starts a launcher in a process that has Airflow. `airflow podrelay launcher` calls `run`, `podrelay launcher` its parts.

`run` reads and checks the configuration, and continues as `process` in an interpreter without Airflow. Where it is needed
anyway, for a pod_mutation_hook, a client factory or Airflow's metrics, the launcher stays in this process.
"""

from __future__ import annotations

import importlib
import socket
from functools import partial

from podrelay.teams import has_client_factory, kube_config_of
from podrelay_workers.kube import credential_loader
from podrelay_workers.launcher import template_proof
from podrelay_workers.launcher.fast_rendering import PodFields
from podrelay_workers.launcher.options import LauncherOptions, PodOptions
from podrelay_workers.launcher.pod_manifest import has_mutation_hook
from podrelay_workers.launcher.pod_policy import load_pod_policy
from podrelay_workers.launcher.wait_limit import load_wait_limit
from podrelay_workers.runtime import airflow_options, logs
from podrelay_workers.runtime.copies import copy_process, print_to_stderr
from podrelay_workers.runtime.handover import hand_over, team_words

_PROCESS = "podrelay_workers.launcher.process"


def run(team: str | None = None) -> int:
    """Run one launcher until SIGTERM or SIGINT, and return its exit code.

    :raises ConfigError: an option is wrong; the message names it and says what to write.
    """
    options = read(team)
    if not needs_airflow(options):
        copy = copy_process(partial(answer_first, options), 2)
        options = options.answered_by(copy.pid, *copy.descriptors)
        hand_over(_PROCESS, options, ("airflow", "podrelay", "launcher", *team_words(team)), copy.descriptors)
    return int(importlib.import_module(_PROCESS).run(options))


def read(team: str | None) -> LauncherOptions:
    """Log as Airflow's options say, and read all options. Raises what `run` raises."""
    logs.configure(airflow_options.read_log_options())
    return read_options(team)


def needs_airflow(options: LauncherOptions) -> bool:
    """Must the launcher have Airflow in its own process?"""
    return options.has_hook or options.worker.sends_stats or has_client_factory(options.worker.team)


def answer_first(options: LauncherOptions, credentials: socket.socket, proof: socket.socket) -> int:
    """What a copy of the process that read the options does for the launcher: prove its template, load its credentials."""
    print_to_stderr()
    fields = PodFields(options.worker.settings.deployment, options.pods.kube_image)
    template_proof.answer_once(proof, options.pods.pod_template_file, fields)
    return credential_loader.answer_once(credentials, options.worker.team)


def read_options(team: str | None) -> LauncherOptions:
    """:raises ConfigError: an option is wrong."""
    from airflow.configuration import conf

    from podrelay.protocol.encryption import PayloadCipher

    settings = airflow_options.read_settings()
    PayloadCipher(settings.fernet_key, settings.deployment)  # refuses a malformed key
    kube = kube_config_of(team)
    worker = airflow_options.read_worker_options(settings, team, kube)
    load_pod_policy(settings.pod_policy, worker.namespaces)  # refuses an unknown rule
    return LauncherOptions(
        worker,
        PodOptions(kube.kube_image, kube.pod_template_file or ""),
        load_wait_limit(conf, settings, team),
        has_mutation_hook(),
    )
