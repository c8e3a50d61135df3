"""Start a watcher process, which follows the pods of one cluster and publishes what becomes of them.

`airflow podrelay watcher` calls `run`; `python -m podrelay_workers.watcher` calls `main`. One watcher of a cluster leads, the
others stand by.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence
from contextlib import suppress

from podrelay.protocol import identifiers
from podrelay.settings import Settings
from podrelay.store.async_scripts import AsyncScripts
from podrelay.store.outage_log import OutageLog
from podrelay.teams import cluster_of, kube_config_of, watched_namespaces
from podrelay_workers.kube.start_up import clients
from podrelay_workers.runtime import process
from podrelay_workers.runtime.monitor import Monitor
from podrelay_workers.runtime.shutdown import Shutdown, ShutdownRequested
from podrelay_workers.watcher.leader import Scope
from podrelay_workers.watcher.pod_lookups import LOOKUPS_MAX
from podrelay_workers.watcher.pod_state import Rules
from podrelay_workers.watcher.watcher import Watcher

log = logging.getLogger(__name__)


def run(team: str | None = None) -> int:
    """Run one watcher until SIGTERM or SIGINT, and return its exit code.

    :raises ConfigError: an option is wrong; the message names it and says what to write.
    """
    return asyncio.run(run_watcher(process.load(), team=team, cluster=cluster_of(team)))


async def run_watcher(
    settings: Settings,
    *,
    team: str | None = None,
    cluster: str = identifiers.DEFAULT_CLUSTER,
    shutdown: Shutdown | None = None,
) -> int:
    """Run one watcher until `shutdown` is requested, also by SIGTERM or SIGINT, and return exit code 0.

    :raises ConfigError: an option is wrong; the message names it.
    """
    shutdown = shutdown or Shutdown()
    rules, scope = read_options(settings, team, cluster)
    outages = OutageLog(log, "Reports are kept and retried.")
    connections = len(scope.namespaces) + 2 * LOOKUPS_MAX
    monitor = Monitor.of("watcher", settings, team)
    with shutdown.on_signals(), suppress(ShutdownRequested):
        async with (
            monitor.served(settings.monitoring_bind),
            clients("watcher", settings, team, shutdown, monitor.readiness, connections=connections) as (pods, client),
        ):
            await Watcher(settings, pods, AsyncScripts(client, outages), scope, rules, shutdown, monitor).run()
            log.info("Watcher stopped")
    return 0


def read_options(settings: Settings, team: str | None, cluster: str) -> tuple[Rules, Scope]:
    """The options of `[kubernetes_executor]` that matter to a watcher."""
    kube = kube_config_of(team)
    fatal = (reason.strip() for reason in kube.worker_pod_pending_fatal_container_state_reasons)
    rules = Rules(frozenset(filter(None, fatal)), settings.pending_grace_s, cluster=cluster)
    selector = (
        f"{identifiers.LABEL_DEPLOYMENT}={settings.deployment},"
        f"{identifiers.LABEL_CLUSTER}={identifiers.cluster_label(cluster)},"
        f"{identifiers.LABEL_DONE}!=True"
    )
    return rules, Scope(selector, watched_namespaces(kube))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of `python -m podrelay_workers.watcher`; returns the exit code."""
    description = (__doc__ or "").splitlines()[0]
    return process.main("watcher", run, description, "team whose pods to follow (default: pods without a team)", argv)


if __name__ == "__main__":
    sys.exit(main())
