"""Start a launcher process, which creates and cleans up pods.

`airflow podrelay launcher` calls `run`; `python -m podrelay_workers.launcher` calls `main`. Any number of launchers may run.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from podrelay.protocol.encryption import PayloadCipher
from podrelay.settings import Settings
from podrelay.teams import cluster_of, kube_config_of, watched_namespaces
from podrelay_workers.kube.start_up import clients
from podrelay_workers.launcher.launcher import Launcher
from podrelay_workers.launcher.pod_manifest import ManifestRenderer
from podrelay_workers.launcher.pod_policy import load_pod_policy
from podrelay_workers.launcher.pod_template import ManifestError
from podrelay_workers.launcher.wait_limit import WaitLimit, load_wait_limit
from podrelay_workers.runtime import process
from podrelay_workers.runtime.monitor import Monitor
from podrelay_workers.runtime.shutdown import Shutdown, ShutdownRequested

log = logging.getLogger(__name__)


def run(team: str | None = None) -> int:
    """Run one launcher until SIGTERM or SIGINT, and return its exit code.

    :raises ConfigError: an option is wrong; the message names it and says what to write.
    """
    from airflow.configuration import conf

    settings = process.load()
    PayloadCipher(settings.fernet_key, settings.deployment)  # refuses a malformed key
    kube_config = kube_config_of(team)
    policy = load_pod_policy(settings.pod_policy, watched_namespaces(kube_config))
    manifests = ManifestRenderer(
        settings.deployment,
        team,
        kube_config=kube_config,
        policy=policy,
        workload_in_secret=settings.workload_in_secret,
    )
    try:
        manifests.check()
    except ManifestError as error:
        log.error("Launches without their own pod template will fail: %s", error)
    code = process.FAILED
    try:
        code = asyncio.run(_run_launcher(settings, manifests, load_wait_limit(conf, settings, team), team))
    finally:
        manifests.close()
        if manifests.hung:  # the interpreter would never exit: it waits for the thread of the hung hook
            logging.shutdown()
            os._exit(code)
    return code


async def _run_launcher(
    settings: Settings, manifests: ManifestRenderer, wait_limit: WaitLimit, team: str | None
) -> int:
    shutdown = Shutdown()
    connections = settings.launcher_concurrency + settings.cleanup_concurrency
    # A claim whose answer was not awaited stays leased until the lease ends, so wait at least as long as configured.
    timeout_s = max(process.REDIS_TIMEOUT_S, settings.redis_timeout_s)
    monitor = Monitor.of("launcher", settings, team)
    with shutdown.on_signals(), suppress(ShutdownRequested):
        async with (
            monitor.served(settings.monitoring_bind),
            clients(
                "launcher", settings, team, shutdown, monitor.readiness,
                connections=connections, redis_timeout_s=timeout_s,
            ) as (pods, client),
        ):  # fmt: skip
            launcher = Launcher(
                settings, client, pods, manifests, wait_limit, shutdown, monitor, cluster=cluster_of(team), team=team
            )
            await launcher.run()
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of `python -m podrelay_workers.launcher`; returns the exit code."""
    description = (__doc__ or "").splitlines()[0]
    return process.main("launcher", run, description, "team to serve (default: launches without a team)", argv)


if __name__ == "__main__":
    sys.exit(main())
