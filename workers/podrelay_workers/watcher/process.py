"""The watcher: follows the pods of one cluster and publishes what becomes of them. `airflow podrelay watcher` runs it.

One watcher of a cluster leads, the others stand by. What it does while it leads: leading.
Killed at any moment it loses nothing: the next leader lists the pods and compares them with the ledger.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import sys
from collections.abc import AsyncGenerator, Sequence

from podrelay.errors import PodrelayError, RedisUnavailable
from podrelay.protocol import identifiers
from podrelay.settings import Settings, load_settings
from podrelay.store.async_scripts import AsyncScripts
from podrelay.store.connection import check, connect, connect_async
from podrelay.teams import cluster_of, kube_config_of, watched_namespaces
from podrelay_workers.kube.client import PodClient
from podrelay_workers.runtime.shutdown import Shutdown
from podrelay_workers.watcher.leader import Scope
from podrelay_workers.watcher.pod_lookups import LOOKUPS_MAX
from podrelay_workers.watcher.pod_state import Rules
from podrelay_workers.watcher.watcher import Watcher

log = logging.getLogger(__name__)

REDIS_TIMEOUT_S = 2.0  # nobody waits for a watcher's round trip, and a busy Redis is better waited for


async def run_watcher(
    settings: Settings,
    *,
    team: str | None = None,
    cluster: str = identifiers.DEFAULT_CLUSTER,
    shutdown: Shutdown | None = None,
) -> int:
    """Run one watcher until SIGTERM, SIGINT or `stopping`. Exit code 0.

    :raises ConfigError: an option is wrong; the message names it.
    """
    shutdown = shutdown or Shutdown()
    with shutdown.on_signals():
        await _look_at_redis(settings)
        rules, scope = read_options(settings, team, cluster)
        async with (
            _redis(settings) as scripts,
            await PodClient.connect(team, len(scope.namespaces) + 2 * LOOKUPS_MAX, "watcher") as api,
        ):
            # What was imported stays: the collector need not look through it again and again.
            gc.collect()
            gc.freeze()
            await Watcher(settings, api, scripts, scope, rules, shutdown, team).run()
    log.info("ShutdownRequested.")
    return 0


def run(team: str | None = None) -> int:
    """What the command line calls: settings from Airflow's configuration, one event loop.

    :raises PodrelayError: with one line that says what to change.
    """
    from airflow.configuration import conf

    settings = load_settings(conf, conf.get("core", "fernet_key", fallback=""))
    return asyncio.run(run_watcher(settings, team=team, cluster=cluster_of(team)))


def read_options(settings: Settings, team: str | None, cluster: str) -> tuple[Rules, Scope]:
    """What `[kubernetes_executor]` says that matters here."""
    kube = kube_config_of(team)
    fatal = (reason.strip() for reason in kube.worker_pod_pending_fatal_container_state_reasons)
    rules = Rules(frozenset(filter(None, fatal)), settings.pending_grace_s, cluster=cluster)
    label = identifiers.cluster_label(cluster)
    selector = f"{identifiers.LABEL_DEPLOYMENT}={settings.deployment},{identifiers.LABEL_CLUSTER}={label},{identifiers.LABEL_DONE}!=True"
    return rules, Scope(selector, watched_namespaces(kube))


async def _look_at_redis(settings: Settings) -> None:
    """Refuse at once what can never work; a Redis that is only away is waited for.

    :raises ConfigError: wrong password, a Redis Cluster, too old.
    """

    def look() -> list[str]:
        with connect(settings, timeout_s=REDIS_TIMEOUT_S) as client:
            return check(client)

    try:
        for warning in await asyncio.to_thread(look):
            log.warning("%s", warning)
    except RedisUnavailable as error:
        log.warning("%s", error)


@contextlib.asynccontextmanager
async def _redis(settings: Settings) -> AsyncGenerator[AsyncScripts, None]:
    client = connect_async(settings, timeout_s=REDIS_TIMEOUT_S)
    try:
        yield AsyncScripts(client)
    finally:
        await client.aclose()


def main(argv: Sequence[str] | None = None) -> int:
    """The process by itself, with its log on stderr."""
    parser = argparse.ArgumentParser(prog="podrelay-watcher", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--team", default=None, help="follow the pods of this team; default: those of no team")
    args = parser.parse_args(argv)
    import airflow.settings  # noqa: F401 - it sets up logging of its own, once

    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s", force=True
    )
    try:
        return run(args.team)
    except PodrelayError as error:
        print(f"podrelay: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
