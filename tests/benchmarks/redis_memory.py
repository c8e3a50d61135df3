"""How much memory Redis needs for one launch, from the queue to its expiry: `python -m tests.benchmarks.redis_memory`.

Real launches through a launcher and a watcher on the local cluster, measured by Redis itself (used_memory), less
what Redis used before. What expires later is part of it: ledger entry, finished jobs, entries of the results stream.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import redis

from podrelay.protocol.redis_keys import RedisKeys
from tests.benchmarks import backlog
from tests.benchmarks.rig import FERNET_KEY, Rig

# Long enough for all of them to run at the same time.
DURATION_S = 30.0
MOST_S = 300.0
# What has expired by then. Nobody waits an hour for it: the keys are deleted.
LATER = {
    "ten minutes later, without its jobs": "rq:job:*",
    "an hour later, without its ledger entry": "podrelay:default:launch:*",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--launches", type=int, default=5000)
    options = parser.parse_args()
    print("| state | bytes a launch |\n|---|---|")
    with Rig(duration_s=DURATION_S, observe=False) as rig:
        for state, size in measure(rig, options.launches):
            print(f"| {state} | {size:,.0f} |", flush=True)


def measure(rig: Rig, count: int) -> list[tuple[str, float]]:
    """Bytes of one launch in each state."""
    client: Any = redis.Redis.from_url(rig.redis.url, decode_responses=True)
    launches = list(backlog.requests("memory", count, rig.namespace))
    with rig.workers(0):
        empty = used(client)

        def each(state: str) -> tuple[str, float]:
            return state, (used(client) - empty) / count

        backlog.offer(rig.redis.url, FERNET_KEY, iter(launches))
        found = [each("queued")]
        with rig.workers(1, watcher=False):
            until(lambda: in_state(client, launches, "started") == count)
            found.append(each("runs"))
            until(lambda: in_state(client, launches, "finished") == count)
            found.append(each("ended, not acknowledged"))
            backlog.clean_up(rig.redis.url, FERNET_KEY, launches)
            until(lambda: not rig.cluster or not pods_of(rig))
            found.append(each("acknowledged, pod deleted"))
        for later, pattern in LATER.items():
            for key in client.scan_iter(pattern):
                client.delete(key)
            found.append(each(later))
    return found


def used(client: Any) -> int:
    return int(client.info("memory")["used_memory"])


def in_state(client: Any, launches: list[Any], state: str) -> int:
    keys = RedisKeys(backlog.DEPLOYMENT)
    with client.pipeline(transaction=False) as pipeline:
        for launch in launches:
            pipeline.hget(keys.launch(launch.launch_id), "state")
        return int(pipeline.execute().count(state))


def pods_of(rig: Rig) -> int:
    assert rig.cluster is not None
    return len(rig.cluster.call("GET", f"/api/v1/namespaces/{rig.namespace}/pods")["items"])


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + MOST_S
    while not true():
        if time.monotonic() > end:
            raise TimeoutError("the launches did not get there")
        time.sleep(0.2)


if __name__ == "__main__":
    main()
