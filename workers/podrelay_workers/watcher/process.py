"""The watcher process, which follows the pods of one cluster and publishes what becomes of them. It does not import Airflow.

`start` reads the options and calls `run`, mostly in a new interpreter (`runtime.handover`). One watcher of a cluster leads,
the others stand by.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from podrelay.protocol import identifiers
from podrelay.store.async_scripts import AsyncScripts
from podrelay.store.outage_log import OutageLog
from podrelay_workers.kube.start_up import clients
from podrelay_workers.runtime.monitor import Monitor
from podrelay_workers.runtime.shutdown import Shutdown, ShutdownRequested
from podrelay_workers.watcher.leader import Scope
from podrelay_workers.watcher.options import WatcherOptions
from podrelay_workers.watcher.pod_lookups import LOOKUPS_MAX
from podrelay_workers.watcher.pod_state import Rules
from podrelay_workers.watcher.watcher import Watcher

log = logging.getLogger(__name__)


def run(options: WatcherOptions) -> int:
    """Run one watcher until SIGTERM or SIGINT, and return its exit code.

    :raises ConfigError: an option is wrong; the message names it and says what to write.
    """
    return asyncio.run(run_watcher(options))


async def run_watcher(options: WatcherOptions, shutdown: Shutdown | None = None) -> int:
    """Run one watcher until `shutdown` is requested, also by SIGTERM or SIGINT, and return exit code 0.

    :raises ConfigError: an option is wrong; the message names it.
    """
    shutdown = shutdown or Shutdown()
    worker, settings, scope = options.worker, options.worker.settings, scope_of(options)
    rules = Rules(options.fatal_reasons, settings.pending_grace_s, cluster=worker.cluster)
    outages = OutageLog(log, "Reports are kept and retried.")
    connections = len(scope.namespaces) + 2 * LOOKUPS_MAX
    monitor = Monitor.of("watcher", settings, worker.team, sends_stats=worker.sends_stats)
    with shutdown.on_signals(), suppress(ShutdownRequested):
        async with (
            monitor.served(settings.monitoring_bind),
            clients(
                "watcher", settings, worker.team, shutdown, monitor.readiness,
                connections=connections, first_load=options.first_load,
            ) as (pods, client),
        ):  # fmt: skip
            await Watcher(settings, pods, AsyncScripts(client, outages), scope, rules, shutdown, monitor).run()
            log.info("Watcher stopped")
    return 0


def scope_of(options: WatcherOptions) -> Scope:
    """The pods that this watcher follows."""
    worker = options.worker
    selector = (
        f"{identifiers.LABEL_DEPLOYMENT}={worker.settings.deployment},"
        f"{identifiers.LABEL_CLUSTER}={identifiers.cluster_label(worker.cluster)},"
        f"{identifiers.LABEL_DONE}!=True"
    )
    return Scope(selector, worker.namespaces)
