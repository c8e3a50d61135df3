"""`airflow podrelay drain`: orders launchers to take nothing more, and waits until they hold nothing.

An order is a short-lived key per launcher (`RedisKeys.drain`), announced on the wake-up channel. Launchers obey within a
moment; one that misses the announcement reads its order a few seconds later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import redis
from airflow.configuration import conf

from podrelay.errors import PodrelayError
from podrelay.protocol.identifiers import DEFAULT_CLUSTER
from podrelay.protocol.orders import ANNOUNCEMENT, EXIT, GO_ON, HOLD, ORDER_TTL_S
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.settings import load_settings
from podrelay.store.connection import connect, redis_errors
from podrelay.store.liveness import RegisteredLauncher, registered_launchers

# A launcher writes its state every 5 s.
_POLL_S = 0.5
_TIMEOUT_S = 5.0
_DONE = {EXIT: "has ended", HOLD: "takes nothing and holds nothing", GO_ON: "goes on"}


class DrainFailed(PodrelayError):
    """An order cannot be given, or was not obeyed in time."""


def drain(names: Sequence[str], team: str | None, order: str, wait_s: float | None) -> Iterator[str]:
    """Order launchers, and wait for each before the next one if `wait_s` is given; a line for each step.

    :param names: empty for all that are alive.
    :raises DrainFailed: nothing is ordered if one of the names is not that of a live launcher; or one took too long.
    :raises RedisUnavailable: Redis does not answer, or refuses.
    """
    settings = load_settings(conf, conf.get("core", "fernet_key", fallback=""))
    keys, cluster = RedisKeys(settings.deployment), team or DEFAULT_CLUSTER
    with connect(settings, timeout_s=_TIMEOUT_S) as client, redis_errors(client):

        def alive() -> dict[str, RegisteredLauncher]:
            return {item.name: item for item in registered_launchers(client, keys, cluster) if item.alive}

        for name in _chosen(names, list(alive()), cluster):
            _order(client, keys, cluster, name, order)
            yield f"{name}: ordered to {order}"
            if wait_s is not None:
                _wait(lambda name=name: _obeyed(alive().get(name), order), name, wait_s)  # type: ignore[misc]
                yield f"{name}: {_DONE[order]}"


def _chosen(names: Sequence[str], alive: Sequence[str], cluster: str) -> Sequence[str]:
    """Pure. :raises DrainFailed: none is alive, or one of these is not."""
    found = f"alive in cluster {cluster}: {', '.join(alive) or 'none'}"
    unknown = [name for name in names if name not in alive]
    if unknown or not alive:
        raise DrainFailed(
            f"no launcher {', '.join(unknown)} is alive; {found}" if unknown else f"no launcher is {found}"
        )
    return list(dict.fromkeys(names)) or alive


def _order(client: redis.Redis, keys: RedisKeys, cluster: str, name: str, order: str) -> None:
    client.set(keys.drain(cluster, name), order, ex=ORDER_TTL_S)
    client.publish(keys.wake(cluster), ANNOUNCEMENT)


def _obeyed(launcher: RegisteredLauncher | None, order: str) -> bool:
    """Pure.

    :param launcher: its registration; None if it is not alive.
    """
    if launcher is None:
        return True
    if order == EXIT:
        return False
    draining = bool(launcher.snapshot.draining)
    return not draining if order == GO_ON else draining and launcher.state != "busy"


def _wait(done: Callable[[], bool], name: str, wait_s: float) -> None:
    end_s = time.monotonic() + wait_s
    while not done():
        if time.monotonic() > end_s:
            raise DrainFailed(f"{name} did not obey within {wait_s:g} s; airflow podrelay status shows what it does")
        time.sleep(_POLL_S)
