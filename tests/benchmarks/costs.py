"""What one task costs each process: `python -m tests.benchmarks.costs` writes results/costs.json.

Real lives of tasks on the local cluster in two regimes, all at once and one after the other: their batches differ, so that
what a batch costs and what a task in it costs can be separated. Redis itself counts what its scripts take, by its slow log.
Then whole lives of other sizes, which the simulation is compared with. Takes about seven minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import redis

from podrelay.protocol.messages import LaunchRequest
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.scheduling import heartbeat_budget
from podrelay.store.script_table import script
from tests.benchmarks import backlog, redis_memory
from tests.benchmarks.builds import EXECUTOR
from tests.benchmarks.cost_fit import HandOver, Regime, fit_units
from tests.benchmarks.figures import medians
from tests.benchmarks.rig import FERNET_KEY, Rig, costs, spent
from tests.benchmarks.simulation.check import compare, markdown
from tests.benchmarks.simulation.unit_costs import MADE_BY, RECORDED, UnitCosts, recorded

Json = dict[str, Any]
SCRIPTS = ("offer", "claim", "finish", "publish", "read_stream", "acknowledge")
# Answers are late as from a server that is not on this machine: a process then sees them one by one, which costs it more.
LATENCY_S = 0.05
TRICKLE_S = 0.1
FOREIGN = 1000
WARM_UP, WARM_UP_DAG = 300, "warm_up"
IDLE_S = 5.0
# Shorter than every script and longer than the commands in a script, each of which the slow log would count as well.
SLOW_US = 15


@dataclass(frozen=True)
class Life:
    """A whole life of so many tasks at once, which the simulation is compared with."""

    latency_s: float
    launchers: int
    tasks: int


LIVES = (Life(0.05, 1, 250), Life(0.05, 2, 1000), Life(0.0, 1, 4000))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=2000, help="at once; one after the other: a tenth")
    parser.add_argument("--rounds", type=int, default=1, help="of each measurement; medians count")
    parser.add_argument("--memory-launches", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=RECORDED)
    parser.add_argument("--kubeconfig", type=Path, help="a real API server without nodes: measure only what it costs")
    parser.add_argument("--api-server-pid", type=int, help="with --kubeconfig: its process on this machine")
    parser.add_argument("--etcd-pid", type=int, help="with --kubeconfig: the process of its etcd")
    options = parser.parse_args()
    if options.kubeconfig:
        if not (options.api_server_pid and options.etcd_pid):
            parser.error("--kubeconfig needs --api-server-pid and --etcd-pid: their processor time is what is measured")
        pids = {"api_server_s": options.api_server_pid, "etcd_s": options.etcd_pid}
        measured = control_plane(options.kubeconfig, pids, options.tasks)
        write({**recorded(options.out), "control_plane": measured}, options.out)
        return
    units = unit_costs(options.tasks, options.rounds, options.memory_launches)
    document: Json = {
        "when": time.strftime("%Y-%m-%d", time.gmtime()),
        "made_by": MADE_BY,
        "units": asdict(units),
        **({"control_plane": recorded(options.out).get("control_plane")} if options.out.exists() else {}),
        "lives": [{**asdict(life), **medians([measure(life) for _ in range(options.rounds)])} for life in LIVES],
    }
    write(document, options.out)
    rows = compare(document["lives"], units)
    print(markdown(rows))
    if not all(row.ok for row in rows):
        raise SystemExit("the simulation is more than 20 % off: measure again on a quiet machine, or mend it")


def write(document: Json, path: Path) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n")


def unit_costs(tasks: int, rounds: int, memory_launches: int) -> UnitCosts:
    few = max(50, tasks // 10)
    print("measuring; nothing else should run", file=sys.stderr)
    burst = regime([burst_of(tasks) for _ in range(rounds)])
    trickle = regime([burst_of(few, "--one-by-one-s", str(TRICKLE_S), "--every-s", "0.02") for _ in range(rounds)])
    creation = regime([creation_of(tasks) for _ in range(rounds)])
    foreign = regime([foreign_of(20) for _ in range(rounds)])
    hand_overs = [hand_over_of(tasks // 2), hand_over_of(2 * tasks)]
    memory_names = ("queued", "runs", "ended", "acknowledged", "without_jobs", "without_ledger")
    with Rig(duration_s=redis_memory.DURATION_S, observe=False) as rig:
        sizes = dict(zip(memory_names, (size for _, size in redis_memory.measure(rig, memory_launches)), strict=True))
    return fit_units(burst, trickle, creation, foreign, hand_overs, sizes)


def regime(runs: list[Json]) -> Regime:
    return Regime(**medians(runs))


# --- runs -------------------------------------------------------------------------------------------------------------
@contextmanager
def started(**options: Any) -> Iterator[tuple[Rig, dict[str, int], Any]]:
    """A rig with one launcher and a watcher, their process ids, and a client of the Redis that counts."""
    with Rig(**options) as rig, rig.workers(1) as pids, counted(rig) as counts:
        yield rig, pids, counts


def warm_up(rig: Rig) -> None:
    """A few lives, cleaned up: what only the first launches of a process cost, such as connections, is no cost of a task."""
    launches = list(backlog.requests(WARM_UP_DAG, WARM_UP, rig.namespace))
    backlog.offer(rig.redis.url, FERNET_KEY, iter(launches))
    with redis.Redis.from_url(rig.redis.url) as client:
        redis_memory.until(lambda: all(pods_in_ledger(client, launches)))
    backlog.clean_up(rig.redis.url, FERNET_KEY, launches)
    rig.await_observed("deleted", WARM_UP_DAG, WARM_UP)


def pods_in_ledger(client: Any, launches: Sequence[LaunchRequest]) -> list[Any]:
    keys = RedisKeys(backlog.DEPLOYMENT)
    with client.pipeline(transaction=False) as pipeline:
        for launch in launches:
            pipeline.hget(keys.launch(launch.launch_id), "uid")
        return list(pipeline.execute())


def burst_of(tasks: int, *options: str) -> Json:
    """Whole lives through one launcher."""
    with started(latency_s=LATENCY_S) as (rig, pids, counts), rig.driver(EXECUTOR, tasks, *options) as driver:
        measured: Json = {}
        with metered(rig, pids, counts, measured):
            driven = driver.run()
        measured["cpu_s"]["scheduler"] = scheduler_s(driven)
        measured["mb"]["scheduler"] = driven["cost"]["memory_mb"]
        return {
            "tasks": tasks,
            **measured,
            "heartbeats": len(driven["beats_s"]),
            "hand_over_s": driven["hand_over_cpu_ms_per_task"] / 1000,
            "entry_bytes": entry_bytes(rig),
        }


def hand_over_of(tasks: int) -> HandOver:
    """A hand-over of so many tasks; nothing else runs."""
    with Rig(observe=False) as rig, counted(rig) as counts, rig.driver(EXECUTOR, tasks, "--beats-after", "1") as driver:
        counts.slowlog_reset()
        driven = driver.run()
        offers, _ = scripts_of(counts)["offer"]
    # A large heartbeat offers in several calls at once.
    beats = min(offers, len(driven["beats_s"]))
    slice_s = heartbeat_budget.HAND_OVER_S * beats / tasks
    return HandOver(tasks, beats, driven["hand_over_cpu_ms_per_task"] / 1000, slice_s)


def creation_of(tasks: int) -> Json:
    """Pods that only start: no scheduler, no end."""
    with started(latency_s=LATENCY_S, duration_s=600) as (rig, pids, counts):
        measured: Json = {}
        with metered(rig, pids, counts, measured):
            rig.await_created(rig.offer(tasks), tasks)
            time.sleep(1.0)  # until the watcher has seen all of them run
        return {"tasks": tasks, **measured}


def foreign_of(tasks: int) -> Json:
    """One scheduler with hardly any task, while launches of another one live."""
    with started() as (rig, pids, counts), rig.driver(EXECUTOR, tasks, "--one-by-one-s", "0.5") as driver:
        measured: Json = {}
        with metered(rig, pids, counts, measured):
            driver.go()
            rig.offer(FOREIGN, owner="4243")
            driven = driver.result()
        measured["cpu_s"]["scheduler"] = scheduler_s(driven)
        entries = counts.xlen(RedisKeys(backlog.DEPLOYMENT).results) - WARM_UP
        return {"tasks": tasks, **measured, "heartbeats": len(driven["beats_s"]), "entries": entries}


def measure(life: Life) -> Json:
    """One whole life of the benchmark, as the simulation is asked for it."""
    with Rig(life.latency_s) as rig, rig.workers(life.launchers) as pids:
        with rig.driver(EXECUTOR, life.tasks) as driver:
            warm_up(rig)
            before = costs({**pids, **rig.servers()})
            driven = driver.run()
            cost = spent(before, costs({**pids, **rig.servers()}))
        first_s = min(driven["handed_s"].values())
        created = {task: at_s for task, at_s in rig.observed("created").items() if task in driven["handed_s"]}
        created_s = max(created.values()) - first_s
        return {
            "last_created_s": created_s,
            "last_event_s": max(driven["over_s"].values()) - first_s,
            "pods_per_s": len(created) / created_s,
            "cpu_s": {
                "scheduler": scheduler_s(driven),
                "launchers": sum(item["cpu_s"] for name, item in cost.items() if name.startswith("launcher")),
                "watcher": cost["watcher"]["cpu_s"],
                "redis": cost["redis"]["cpu_s"],
                "api server": cost["local cluster"]["cpu_s"],
                "slow link": cost.get("slow link", {"cpu_s": 0.0})["cpu_s"],
            },
        }


def control_plane(kubeconfig: Path, pids: dict[str, int], tasks: int) -> Json:
    """Processor seconds of a real API server and of etcd for one task: every write to its pod, those of the simulated kubelet
    too, and the watches of watcher, kubelet and observer.
    """
    with Rig(kubeconfig=kubeconfig, kubelet="simulated") as rig, rig.workers(1), rig.driver(EXECUTOR, tasks) as driver:
        warm_up(rig)
        before = costs(pids)
        driven = driver.run()
        rig.await_observed("deleted", next(iter(driven["handed_s"])).partition(".")[0], tasks)
        cost = spent(before, costs(pids))
    server = version_at(kubeconfig)
    return {"version": server, **{name: item["cpu_s"] / tasks for name, item in cost.items()}}


def version_at(kubeconfig: Path) -> str:
    from kubernetes import client, config

    return str(client.VersionApi(config.new_client_from_config(str(kubeconfig))).get_code().git_version)


def scheduler_s(driven: Json) -> float:
    """Processor seconds of the driver without full garbage collections, whose cost is that of Airflow's own objects."""
    return float(driven["cost"]["cpu_s"] - sum(driven["full_collections_s"]))


# --- what is counted --------------------------------------------------------------------------------------------------
@contextmanager
def counted(rig: Rig) -> Iterator[Any]:
    """A client of the rig's Redis, which keeps every script run in its slow log."""
    client = redis.Redis.from_url(rig.redis.url)
    client.config_set("slowlog-max-len", 1_000_000)
    client.config_set("slowlog-log-slower-than", SLOW_US)
    yield client
    client.close()


@contextmanager
def metered(rig: Rig, pids: Mapping[str, int], client: Any, found: Json) -> Iterator[None]:
    """Fill in what each process used in the block, and before it while idle; calls and seconds of each script; bytes."""
    processes = {**pids, **rig.servers(), "observer": rig.observer.pid}
    before, began_s = costs(processes), time.monotonic()
    time.sleep(IDLE_S)
    idle, idle_s = spent(before, costs(processes)), time.monotonic() - began_s
    warm_up(rig)
    version, network = version_of(rig), net(client)
    client.slowlog_reset()
    before, began_s = costs(processes), time.monotonic()
    yield
    cost, took_s = spent(before, costs(processes)), time.monotonic() - began_s
    calls = scripts_of(client)
    after = net(client)
    found |= {
        "seconds": took_s,
        "cpu_s": {name: item["cpu_s"] for name, item in cost.items()},
        "idle": {name: item["cpu_s"] / idle_s for name, item in idle.items()},
        "mb": {name: item["memory_mb"] for name, item in cost.items()},
        "calls": {name: count for name, (count, _) in calls.items()},
        "script_s": {name: seconds for name, (_, seconds) in calls.items()},
        "writes": version_of(rig) - version,
        "in_bytes": after[0] - network[0],
        "out_bytes": after[1] - network[1],
    }


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


def net(client: Any) -> tuple[int, int]:
    stats = client.info("stats")
    return stats["total_net_input_bytes"], stats["total_net_output_bytes"]


def version_of(rig: Rig) -> int:
    """The local cluster counts every write of any object."""
    assert rig.cluster is not None
    answer = rig.cluster.call("GET", f"/api/v1/namespaces/{rig.namespace}/pods?limit=1")
    return int(answer["metadata"]["resourceVersion"])


def entry_bytes(rig: Rig) -> float:
    client: Any = redis.Redis.from_url(rig.redis.url)
    entries = client.xrange(RedisKeys(backlog.DEPLOYMENT).results, count=500)
    return sum(len(name) + len(value) for _, fields in entries for name, value in fields.items()) / len(entries)


if __name__ == "__main__":
    main()
