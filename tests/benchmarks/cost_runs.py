"""Real lives of tasks on the local cluster, with what each process used and how often it was woken. Used by `costs`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import redis

from podrelay.protocol.messages import LaunchRequest
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.scheduling import heartbeat_budget
from podrelay.store.script_table import script
from tests.benchmarks import backlog, redis_memory
from tests.benchmarks.builds import EXECUTOR
from tests.benchmarks.cost_fit import HandOver
from tests.benchmarks.rig import FERNET_KEY, Rig, costs, spent

Json = dict[str, Any]
SCRIPTS = ("offer", "claim", "finish", "publish", "read_stream", "acknowledge")
TRICKLE_S = 0.1
FOREIGN, FOREIGN_OWNER = 1000, "4243"
# As many as a launcher may send at once several times over, so that each launcher opens its connections.
WARM_UP = 300
IDLE_S = 5.0
# Launchers write the last outcomes of a life, and the watcher has seen the last deletion.
SETTLE_S = 0.3
# Shorter than every script and longer than the commands in a script, each of which the slow log would count as well.
SLOW_US = 15


class Bed:
    """A rig with launchers and a watcher, in which one life after the other is measured."""

    def __init__(self, rig: Rig, pids: Mapping[str, int], client: Any) -> None:
        self.rig = rig
        self._client = client
        self._processes = {**pids, **rig.servers(), "observer": rig.observer.pid}
        self._idle: Json = {}
        self._warm_ups = 0

    def measure_idle(self) -> None:
        """What processes use and how often they wake without work is measured once; each result names it."""
        self.warm_up()
        before, began_s = costs(self._processes), time.monotonic()
        time.sleep(IDLE_S)
        idle, idle_s = spent(before, costs(self._processes)), time.monotonic() - began_s
        self._idle = {
            "idle": {name: item["cpu_s"] / idle_s for name, item in idle.items()},
            "idle_wakes": {name: item["wakes"] / idle_s for name, item in idle.items()},
        }

    @contextmanager
    def metered(self) -> Iterator[Json]:
        """Filled in after the block: what each process used in it, calls and seconds of each script, bytes."""
        found: Json = {}
        version, network = self._version(), self._net()
        self._client.slowlog_reset()
        before, began_s = costs(self._processes), time.monotonic()
        yield found
        cost, took_s = spent(before, costs(self._processes)), time.monotonic() - began_s
        calls, after = scripts_of(self._client), self._net()
        found |= {
            **self._idle,
            "seconds": took_s,
            "cpu_s": {name: item["cpu_s"] for name, item in cost.items()} | found.get("cpu_s", {}),
            "wakes": {name: item["wakes"] for name, item in cost.items()},
            "mb": {name: item["memory_mb"] for name, item in cost.items()} | found.get("mb", {}),
            "calls": {name: count for name, (count, _) in calls.items()},
            "script_s": {name: seconds for name, (_, seconds) in calls.items()},
            "writes": self._version() - version,
            "in_bytes": after[0] - network[0],
            "out_bytes": after[1] - network[1],
        }

    def warm_up(self) -> Json:
        """Lives without a scheduler, so that connections are open; their clean-ups, all at once, are measured."""
        self._warm_ups += 1
        dag_id = f"warm_up_{self._warm_ups}"
        launches = ended_pods(self.rig, self._client, dag_id, WARM_UP)
        with self.metered() as found:
            clean_up(self.rig, dag_id, launches)
        return {"tasks": WARM_UP, **found}

    def live(self, tasks: int, *options: str, beside: Callable[[], object] = lambda: None) -> Json:
        """Whole lives, until the last pod is deleted.

        :param options: of the driver.
        :param beside: called when they have begun.
        """
        with self.rig.driver(EXECUTOR, tasks, *options) as driver:
            self.warm_up()
            entries = self._entries()
            with self.metered() as found:
                driver.go()
                beside()
                driven = driver.result()
                dag_id = next(iter(driven["handed_s"])).partition(".")[0]
                self.rig.await_observed("deleted", dag_id, tasks)
                time.sleep(SETTLE_S)
                found["cpu_s"] = {"scheduler": scheduler_s(driven)}
                found["mb"] = {"scheduler": driven["cost"]["memory_mb"]}
        return {
            "tasks": tasks,
            **found,
            **self._times(driven, dag_id),
            "heartbeats": len(driven["beats_s"]),
            "hand_overs": driven["hand_overs"],
            "entries": self._entries() - entries,
            "entry_bytes": self._entry_bytes(),
        }

    def trickle(self, tasks: int) -> Json:
        """One after the other."""
        return self.live(tasks, "--one-by-one-s", str(TRICKLE_S), "--every-s", "0.02")

    def beside_another(self, tasks: int) -> Json:
        """One scheduler with hardly any task, while launches of another one live."""
        offer = lambda: self.rig.offer(FOREIGN, owner=FOREIGN_OWNER)  # noqa: E731
        return self.live(tasks, "--one-by-one-s", "0.5", beside=offer)

    def _times(self, driven: Json, dag_id: str) -> Json:
        first_s = min(driven["handed_s"].values())
        created = self.rig.observed("created", dag_id)
        created_s = max(created.values()) - first_s
        return {
            "last_created_s": created_s,
            "last_event_s": max(driven["over_s"].values()) - first_s,
            "last_deleted_s": max(self.rig.observed("deleted", dag_id).values()) - first_s,
            "pods_per_s": len(created) / created_s,
        }

    def _net(self) -> tuple[int, int]:
        stats = self._client.info("stats")
        return stats["total_net_input_bytes"], stats["total_net_output_bytes"]

    def _version(self) -> int:
        """The local cluster counts every write of any object."""
        assert self.rig.cluster is not None
        answer = self.rig.cluster.call("GET", f"/api/v1/namespaces/{self.rig.namespace}/pods?limit=1")
        return int(answer["metadata"]["resourceVersion"])

    def _entries(self) -> int:
        return int(self._client.xlen(RedisKeys(backlog.DEPLOYMENT).results))

    def _entry_bytes(self) -> float:
        entries = self._client.xrevrange(RedisKeys(backlog.DEPLOYMENT).results, count=500)
        return sum(len(name) + len(value) for _, fields in entries for name, value in fields.items()) / len(entries)


@contextmanager
def bed(latency_s: float, launchers: int) -> Iterator[Bed]:
    """A bed that is ready; Redis keeps every script run in its slow log."""
    with Rig(latency_s) as rig, rig.workers(launchers) as pids, counted(rig) as client:
        ready = Bed(rig, pids, client)
        ready.measure_idle()
        yield ready


def ended_pods(rig: Rig, client: Any, dag_id: str, count: int) -> list[LaunchRequest]:
    """Launches without a scheduler, whose pods have ended."""
    launches = list(backlog.requests(dag_id, count, rig.namespace))
    backlog.offer(rig.redis.url, FERNET_KEY, iter(launches))
    redis_memory.until(lambda: redis_memory.in_state(client, launches, "finished") == count)
    return launches


def clean_up(rig: Rig, dag_id: str, launches: Sequence[LaunchRequest]) -> None:
    """Let launchers delete their pods."""
    backlog.clean_up(rig.redis.url, FERNET_KEY, launches)
    rig.await_observed("deleted", dag_id, len(launches))
    time.sleep(SETTLE_S)


def hand_over_of(tasks: int) -> HandOver:
    """A hand-over of so many tasks; nothing else runs."""
    with Rig(observe=False) as rig, rig.driver(EXECUTOR, tasks, "--beats-after", "1") as driver:
        driven = driver.run()
    count = driven["hand_overs"]
    slices_s = heartbeat_budget.HAND_OVER_ALONE_S + (count - 1) * heartbeat_budget.HAND_OVER_MOST_S
    return HandOver(tasks, count, driven["hand_over_cpu_ms_per_task"] / 1000, slices_s / tasks)


def scheduler_s(driven: Json) -> float:
    """Processor seconds of the driver without full garbage collections, whose cost is that of Airflow's own objects."""
    return float(driven["cost"]["cpu_s"] - sum(driven["full_collections_s"]))


@contextmanager
def counted(rig: Rig) -> Iterator[Any]:
    """A client of the rig's Redis, which keeps every script run in its slow log."""
    client = redis.Redis.from_url(rig.redis.url, decode_responses=True)
    client.config_set("slowlog-max-len", 1_000_000)
    client.config_set("slowlog-log-slower-than", SLOW_US)
    yield client
    client.close()


def scripts_of(client: Any) -> dict[str, tuple[int, float]]:
    """Calls and seconds of each script."""
    names = {script(name).sha: name for name in SCRIPTS}
    found = {name: (0, 0.0) for name in SCRIPTS}
    for entry in client.slowlog_get(1_000_000):
        words = entry["command"].split(b" ", 2)
        name = names.get(words[1].decode()) if words[0] == b"EVALSHA" else None
        if name is not None:
            count, seconds = found[name]
            found[name] = (count + 1, seconds + entry["duration"] / 1e6)
    return found
