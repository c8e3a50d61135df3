"""Reads from Airflow's configuration what a worker needs. Only for processes that have imported Airflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import airflow.settings  # noqa: F401 - configures logging when first imported, so import it before we do
from airflow.configuration import conf

from podrelay.settings import Settings, load_settings
from podrelay.teams import watched_namespaces
from podrelay_workers.runtime.logs import LogOptions
from podrelay_workers.runtime.worker_options import WorkerOptions

if TYPE_CHECKING:
    from airflow.providers.cncf.kubernetes.kube_config import KubeConfig

_STATS_BACKENDS = ("statsd_on", "statsd_datadog_enabled", "otel_on")


def read_log_options() -> LogOptions:
    return LogOptions(
        conf.get("logging", "logging_level", fallback="INFO"),
        conf.getboolean("logging", "json_logs", fallback=False),
    )


def read_settings() -> Settings:
    """:raises ConfigError: an option is wrong; the message names it."""
    return load_settings(conf, conf.get("core", "fernet_key", fallback=""))


def read_worker_options(settings: Settings, team: str | None, kube_config: KubeConfig) -> WorkerOptions:
    sends = any(conf.getboolean("metrics", backend, fallback=False) for backend in _STATS_BACKENDS)
    return WorkerOptions(settings, team, watched_namespaces(kube_config), read_log_options(), sends)


def airflow_stats() -> Any:
    """What sends to StatsD, Datadog or OpenTelemetry, as `[metrics]` says."""
    from airflow.providers.common.compat.sdk import Stats

    return Stats
