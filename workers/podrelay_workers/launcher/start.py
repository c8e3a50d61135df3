"""Starts a launcher. `airflow podrelay launcher` calls `run`; so does `python -m podrelay_workers.launcher`.

Reads and checks the configuration in this process, which imports Airflow, and continues as `process` without Airflow. Where
it is needed anyway, for a pod_mutation_hook, a client factory or Airflow's metrics, the launcher stays in this process.
"""

from __future__ import annotations

import importlib
from dataclasses import replace

from podrelay.teams import has_client_factory, kube_config_of
from podrelay_workers.kube import credential_loader
from podrelay_workers.launcher import template_proof
from podrelay_workers.launcher.fast_rendering import PodFields
from podrelay_workers.launcher.options import LauncherOptions, PodOptions
from podrelay_workers.launcher.pod_manifest import has_mutation_hook
from podrelay_workers.launcher.pod_policy import load_pod_policy
from podrelay_workers.launcher.pod_template import ManifestError, PodTemplates
from podrelay_workers.launcher.template_proof import BegunProof
from podrelay_workers.launcher.wait_limit import load_wait_limit
from podrelay_workers.runtime import airflow_options, logs
from podrelay_workers.runtime.handover import hand_over

_PROCESS = "podrelay_workers.launcher.process"


def run(team: str | None = None) -> int:
    """Run one launcher until SIGTERM or SIGINT, and return its exit code.

    :raises ConfigError: an option is wrong; the message names it and says what to write.
    """
    logs.configure(airflow_options.read_log_options())
    options = read_options(team)
    if not (options.has_hook or options.worker.sends_stats or has_client_factory(team)):
        options = replace(options, proof=_begin_proof(options), first_load=credential_loader.fork(team))
        hand_over(_PROCESS, options, ("airflow", "podrelay", "launcher", *(("--team", team) if team else ())))
    return int(importlib.import_module(_PROCESS).run(options))


def _begin_proof(options: LauncherOptions) -> BegunProof | None:
    """A copy of this process proves fast rendering while the launcher starts."""
    try:
        template = PodTemplates(options.pods.pod_template_file).get(None)
    except ManifestError:  # the launcher reports it
        return None
    return template_proof.begin(template.text, PodFields(options.worker.settings.deployment, options.pods.kube_image))


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
