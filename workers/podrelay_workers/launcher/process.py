"""The launcher process, which creates and cleans up pods. Any number of launchers may run. It does not import Airflow.

`start` reads the options and calls `run`, mostly in a new interpreter (`runtime.handover`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from contextlib import suppress

from podrelay_workers.kube.start_up import clients
from podrelay_workers.launcher.launcher import Launcher
from podrelay_workers.launcher.options import LauncherOptions
from podrelay_workers.launcher.pod_manifest import ManifestRenderer
from podrelay_workers.launcher.pod_policy import load_pod_policy
from podrelay_workers.runtime.monitor import Monitor
from podrelay_workers.runtime.process import REDIS_TIMEOUT_S
from podrelay_workers.runtime.shutdown import Shutdown, ShutdownRequested
from podrelay_workers.runtime.start import exit_code


def run(options: LauncherOptions) -> int:
    """Run one launcher until SIGTERM or SIGINT, and return its exit code. Prints errors of podrelay."""
    worker = options.worker
    manifests = ManifestRenderer(
        worker.settings.deployment,
        worker.team,
        kube_config=options.pods,
        hook=options.has_hook,
        policy=load_pod_policy(worker.settings.pod_policy, worker.namespaces),
        workload_in_secret=worker.settings.workload_in_secret,
    )
    manifests.begin_check(options.proof)
    try:
        code = exit_code(lambda: asyncio.run(_run_launcher(options, manifests)))
    finally:
        manifests.close()
    if manifests.busy:  # the interpreter would wait for its thread
        logging.shutdown()
        sys.stderr.flush()
        os._exit(code)
    return code


async def _run_launcher(options: LauncherOptions, manifests: ManifestRenderer) -> int:
    worker, settings = options.worker, options.worker.settings
    shutdown = Shutdown()
    connections = settings.launcher_concurrency + settings.cleanup_concurrency
    # A claim whose answer was not awaited stays leased until the lease ends, so wait at least as long as configured.
    timeout_s = max(REDIS_TIMEOUT_S, settings.redis_timeout_s)
    monitor = Monitor.of("launcher", settings, worker.team, sends_stats=worker.sends_stats)
    with shutdown.on_signals(), suppress(ShutdownRequested):
        async with (
            monitor.served(settings.monitoring_bind),
            clients(
                "launcher", settings, worker.team, shutdown, monitor.readiness,
                connections=connections, redis_timeout_s=timeout_s, first_load=options.first_load,
            ) as (pods, client),
        ):  # fmt: skip
            launcher = Launcher(
                settings, client, pods, manifests, options.wait_limit, shutdown, monitor,
                cluster=worker.cluster, team=worker.team, namespaces=worker.namespaces,
            )  # fmt: skip
            await launcher.run()
    return 0
