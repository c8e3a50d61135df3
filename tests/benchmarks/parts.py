"""The parts of the benchmark. Each makes rigs, measures, and returns one value per question, as plain JSON."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.builds import EXECUTOR, THIS, Build
from tests.benchmarks.figures import medians, percentiles_ms
from tests.benchmarks.rig import Rig, costs, rate, spent, stopped

Json = dict[str, Any]

STOCK = "airflow.providers.cncf.kubernetes.executors.kubernetes_executor.KubernetesExecutor"

# The stock executor's settings that are tried, each with its share of the tasks (slow ones need fewer to be judged by).
STOCK_SETTINGS: dict[str, tuple[dict[str, str], float]] = {
    "stock serial, batch 16": ({"BATCH_SIZE": "16"}, 0.06),
    "stock concurrent, batch 64": ({"BATCH_SIZE": "64", "MAX": "64"}, 0.2),
    "stock concurrent, batch 1000": ({"BATCH_SIZE": "1000", "MAX": "64"}, 1.0),
}


# Hand everything over, and end: what follows is the launchers' alone.
HAND_OVER = ("--every-s", "0.01", "--beats-after", "0")


class Bench:
    """What is to be measured, and how large; every part takes its sizes from here."""

    def __init__(self, tasks: int, rounds: int, where: Json, other: Build | None = None) -> None:
        self.tasks = tasks
        self.rounds = rounds
        self._where = where
        self._other = other

    def rig(self, latency_s: float = 0.0, **more: Any) -> Rig:
        return Rig(latency_s, **self._where, **more)

    def builds(self, turn: int) -> list[Build]:
        """Ours, and the other one if there is one; they begin in turn."""
        builds = [THIS] if self._other is None else [THIS, self._other]
        return builds if turn % 2 == 0 else builds[::-1]

    # --- whole lives --------------------------------------------------------------------------------------------------
    def life(self, latency_s: float, rounds: int, tasks: int, stock: bool) -> Json:
        """All of N tasks' lives, stock (two rounds at most, which takes minutes) and ours in turn."""
        found: dict[str, list[Json]] = {}
        for turn in range(rounds):
            for name, (setting, share) in STOCK_SETTINGS.items() if stock and turn < 2 else ():
                runs = found.setdefault(name, [])
                runs.append(_printed(latency_s, name, self._stock(latency_s, setting, max(20, int(tasks * share)))))
            for launchers in (1, 2):
                for build in self.builds(turn):
                    name = named(build, launchers)
                    run = self._ours(latency_s, launchers, tasks, build)
                    found.setdefault(name, []).append(_printed(latency_s, name, run))
        rows = [{"name": name, **medians(runs)} for name, runs in found.items()]
        return {"latency_s": latency_s, "tasks": tasks, "rounds": rounds, "rows": rows}

    def _stock(self, latency_s: float, setting: dict[str, str], tasks: int) -> Json:
        section = "AIRFLOW__KUBERNETES_EXECUTOR__"
        environment = {section + "WORKER_PODS_CREATION_BATCH_SIZE": setting["BATCH_SIZE"]}
        if "MAX" in setting:
            environment[section + "ASYNC_POD_CREATION"] = "True"
            environment[section + "POD_CREATION_MAX_CONCURRENCY"] = setting["MAX"]
        with self.rig(latency_s) as rig, rig.driver(STOCK, tasks, **environment) as driver:
            before = costs(rig.servers())
            measured = driver.run()
            return _life(rig, measured, spent(before, costs(rig.servers())))

    def _ours(self, latency_s: float, launchers: int, tasks: int, build: Build) -> Json:
        """What is spent from the hand-over until the last pod is deleted."""
        with (
            self.rig(latency_s, build=build) as rig,
            rig.workers(launchers) as pids,
            rig.driver(EXECUTOR, tasks) as driver,
        ):
            before = costs({**pids, **rig.servers()})
            measured = driver.run()
            rig.await_observed("deleted", "", tasks, most_s=60.0)
            return _life(rig, measured, spent(before, costs({**pids, **rig.servers()})))

    # --- launchers alone ----------------------------------------------------------------------------------------------
    def creation(self, latency_s: float = 0.05, in_flight: int = 64) -> Json:
        """Launchers against a bare client, each with so many in flight in all; nothing else runs."""
        found: dict[str, list[Json]] = {}
        for turn in range(self.rounds):
            with self.rig(latency_s, duration_s=600) as rig:
                found.setdefault("bare client", []).append(rig.post_bare(self.tasks, in_flight))
            for launchers in (1, 2):
                for build in self.builds(turn):
                    run = self._create(latency_s, launchers, in_flight // launchers, self.tasks, build)
                    found.setdefault(named(build, launchers), []).append(run)
        rows = [{"name": name, **medians(runs)} for name, runs in found.items()]
        return {"latency_s": latency_s, "in_flight": in_flight, "rounds": self.rounds, "rows": rows}

    def scaling(self, latency_s: float = 0.2, in_flight: int = 16) -> Json:
        """1, 2 and 4 launchers, so few in flight that latency and not this machine is the limit."""
        found: dict[str, list[Json]] = {}
        for _ in range(self.rounds):
            for launchers in (1, 2, 4):
                tasks = min(self.tasks, 320 * launchers)
                run = self._create(latency_s, launchers, in_flight, tasks, THIS)
                found.setdefault(named(THIS, launchers), []).append(run)
        rows = [{"name": name, **medians(runs)} for name, runs in found.items()]
        return {"latency_s": latency_s, "in_flight": in_flight, "rounds": self.rounds, "rows": rows}

    def capacity(self) -> Json:
        """What the API server itself can do on this machine: the bare client without latency."""
        with self.rig(0.0, duration_s=600) as rig:
            before = costs(rig.servers())
            measured = rig.post_bare(self.tasks, 64)
            return {**measured, "cost": spent(before, costs(rig.servers()))}

    def seats(self, latency_s: float = 0.004, seats: tuple[int, ...] = (5, 1)) -> Json:
        """Pods created and deleted on an API server that serves few requests at once and refuses the others with 429: the
        best of several bare clients, each with so many in flight, against launchers. A real API server is used as it is.
        """
        found: Json = {}
        for count in seats:
            rows = [row for _ in range(self.rounds) for row in self._of_seats(latency_s, count)]
            names = list(dict.fromkeys(row["name"] for row in rows))
            found[f"{count}"] = {
                "latency_s": latency_s,
                "tasks": self.tasks,
                "rows": [{"name": name, **medians([row for row in rows if row["name"] == name])} for name in names],
            }
        return found

    def _of_seats(self, latency_s: float, seats: int) -> Iterator[Json]:
        for in_flight in (1, 2, 4, 8):
            with self.rig(latency_s, duration_s=600, seats=seats) as rig:
                yield {"name": f"bare client, {in_flight} in flight", **rig.make_and_delete_bare(self.tasks, in_flight)}
        for launchers in (1, 2):
            with self.rig(latency_s, duration_s=600, seats=seats) as rig, rig.workers(launchers, watcher=False):
                yield {"name": named(THIS, launchers), "seconds": rig.make_and_delete(self.tasks)}

    def _create(self, latency_s: float, launchers: int, concurrency: int, tasks: int, build: Build) -> Json:
        with (
            self.rig(latency_s, duration_s=600, build=build) as rig,
            rig.workers(launchers, concurrency, watcher=False) as pids,
            rig.driver(EXECUTOR, tasks, *HAND_OVER) as driver,
        ):
            before = costs({**pids, **rig.servers()})
            with stopped(pids):  # the hand-over would take their time, and set their pace
                driver.run()
            created = rig.await_created("", tasks)
            cost = spent(before, costs({**pids, **rig.servers()}))
            return {
                "pods_per_s": rate(created),
                "cpu_ms_per_pod": 1000 * cpu_s_of(cost, "launcher") / tasks,
                "cost": cost,
            }

    def priority(self) -> Json:
        """100 urgent launches behind a backlog."""
        return self._overtake(priority=10)

    def fairness(self) -> Json:
        """100 launches of a second scheduler behind a backlog of the first, of the same priority."""
        return self._overtake(owner="4243")

    def _overtake(self, latency_s: float = 0.05, behind: int = 5000, later: int = 100, **of_the_later: Any) -> Json:
        """How many of the backlog were created between the offer of the later ones and the last of those."""
        with self.rig(latency_s, duration_s=600) as rig, rig.workers(1, watcher=False):
            backlog = rig.offer(behind)
            rig.await_created(backlog, 200)
            offered_s = time.time()
            last_s = rig.await_created(rig.offer(later, **of_the_later), later)[-1]
            between = [at_s for at_s in rig.observed("created", backlog).values() if offered_s <= at_s <= last_s]
            return {"behind": behind, "later": later, "seconds": last_s - offered_s, "backlog_created": len(between)}

    # --- hand-over ----------------------------------------------------------------------------------------------------
    def idle(self, tasks: int = 60) -> Json:
        """Hand-over to POST, one task at a time. The delay of the answer is none of it."""
        with self.rig(0.05, duration_s=600) as rig, rig.workers(1):
            options = ("--one-by-one-s", "0.25", "--every-s", "0.01", "--beats-after", "50")
            measured = rig.drive(EXECUTOR, tasks, *options)
            created = rig.observed("created")
            waits = [created[task] - at_s for task, at_s in measured["handed_s"].items()]
            return percentiles_ms(waits)

    def scheduler(self) -> Json:
        """What the scheduler pays to hand over, also where Redis answers late; nothing else runs."""
        found: Json = {}
        for name, delay_s in (("redis", 0.0), ("redis 5 ms late", 0.005), ("redis 20 ms late", 0.02)):
            runs = []
            for _ in range(1 if delay_s else self.rounds):
                with self.rig(redis_delay_s=delay_s, observe=False) as rig:
                    runs.append(beats(rig.drive(EXECUTOR, 1000, "--beats-after", "20")))
            found[name] = medians(runs)
        return found

    # --- growth -------------------------------------------------------------------------------------------------------
    def growth(
        self, queued: tuple[int, ...] = (1000, 10_000, 50_000), running: tuple[int, ...] = (1000, 10_000)
    ) -> Json:
        """Launch rate by queue length, and heartbeats by the number of running tasks."""
        rates = []
        for count in queued:
            with self.rig(0.05, duration_s=3600) as rig:
                dag_id = rig.offer(count)  # before the launcher comes: Redis is busy while it takes so many
                with rig.workers(1, watcher=False) as pids:
                    first = min(count, 1500)
                    created = rig.await_created(dag_id, first)[:first]
                    memory = {name: item["memory_mb"] for name, item in costs({**pids, **rig.servers()}).items()}
                rates.append({"queued": count, "pods_per_s": rate(created), "memory_mb": memory})
        heartbeats = []
        for count in running:
            with self.rig(observe=False) as rig:
                measured = rig.drive(EXECUTOR, count, "--as-running", "--beats-after", "150")
                heartbeats.append({"running": count, **beats(measured)})
        return {"queued": rates, "running": heartbeats}


def _printed(latency_s: float, name: str, run: Json) -> Json:
    beats = f"{run['heartbeat_sum_s']:.2f} s in heartbeats, longest {run['heartbeat_max_ms']:.0f} ms"
    made = f"{run['tasks']} tasks in {run['wall_s']:.0f} s, {run['pods_per_s']:.0f} pods/s"
    print(f"  {1000 * latency_s:.0f} ms, {name}: {made}, {beats}", flush=True)
    return run


def named(build: Build, launchers: int) -> str:
    return f"{build.label}, {launchers} launcher{'s' * (launchers > 1)}"


def cpu_s_of(cost: Json, process: str) -> float:
    return sum(float(item["cpu_s"]) for name, item in cost.items() if name.startswith(process))


# --- figures ----------------------------------------------------------------------------------------------------------
def _life(rig: Rig, measured: Json, cost: Json) -> Json:
    created, ended = rig.observed("created"), rig.observed("ended")
    to_post = [created[task] - at_s for task, at_s in measured["handed_s"].items() if task in created]
    to_event = [at_s - ended[task] for task, at_s in measured["over_s"].items() if task in ended]
    return {
        **beats(measured),
        "over": measured["over"],
        # From the hand-over on: an executor that renders everything first, and then sends it all in one burst, is not fast.
        "pods_per_s": len(created) / (max(created.values()) - min(measured["handed_s"].values())),
        "to_post": percentiles_ms(to_post),
        "to_event": percentiles_ms(to_event),
        "launcher_cpu_ms_per_pod": 1000 * cpu_s_of(cost, "launcher") / measured["tasks"],
        "watcher_cpu_ms_per_pod": 1000 * cpu_s_of(cost, "watcher") / measured["tasks"],
        "scheduler_cpu_ms_per_task": 1000 * measured["cost"]["cpu_s"] / measured["tasks"],
        "cost": {"scheduler": measured["cost"], **cost},
    }


def beats(measured: Json) -> Json:
    found = percentiles_ms(measured["beats_s"])
    return {
        "tasks": measured["tasks"],
        "heartbeat_sum_s": sum(measured["beats_s"]),
        "heartbeat_cpu_s": measured["beats_cpu_s"],
        "heartbeat_p50_ms": found["p50_ms"],
        "heartbeat_p99_ms": found["p99_ms"],
        "heartbeat_max_ms": found["max_ms"],
        "full_collections": len(measured["full_collections_s"]),
        "full_collection_max_ms": 1000 * max(measured["full_collections_s"], default=0.0),
        "hand_over_cpu_ms_per_task": measured["hand_over_cpu_ms_per_task"],
        "wall_s": measured["wall_s"],
    }


def where(kubeconfig: Path | None, namespace: str, image: str, kubelet: str = "") -> Json:
    return {"kubeconfig": kubeconfig, "namespace": namespace, "image": image, "kubelet": kubelet}
