"""From queued in the database to the first line of the task's own code: the stock executor, podrelay cold and podrelay warm.

The three alternate for each start delay of the pods, on one whole Airflow. Then a steady task a second with warm pods, to an
API server that takes 50 ms: how many found an idle pod, how long an assignment takes, what it costs the API server.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.airflow_rig import AirflowRig, Contestant, Run
from tests.benchmarks.figures import percentiles_ms

Json = dict[str, Any]

_STOCK = "airflow.providers.cncf.kubernetes.executors.kubernetes_executor.KubernetesExecutor"
_SECTION = "AIRFLOW__KUBERNETES_EXECUTOR__"
# The stock executor at its best.
_CONCURRENT = {
    "AIRFLOW__CORE__EXECUTOR": _STOCK,
    f"{_SECTION}ASYNC_POD_CREATION": "True",
    f"{_SECTION}POD_CREATION_MAX_CONCURRENCY": "64",
    f"{_SECTION}WORKER_PODS_CREATION_BATCH_SIZE": "64",
}
MOST_WARM_PODS = 10
STOCK = Contestant("stock", launcher=False, options=_CONCURRENT)
COLD = Contestant("podrelay cold", launcher=True, options={"AIRFLOW__PODRELAY__WARM_PODS_MAX": "0"})
WARM = Contestant("podrelay warm", launcher=True, options={"AIRFLOW__PODRELAY__WARM_PODS_MAX": f"{MOST_WARM_PODS}"})

BURST = 8
# A cold task without start delay needs about 2 s of a core: single tasks this far apart do not disturb each other.
EVERY_S = 2.5
API_LATENCY_S = 0.05


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    # Start delay of the pods (s), and how many bursts.
    bursts: tuple[tuple[float, int], ...] = ((0.0, 2), (2.0, 2), (10.0, 1))
    singles: int = 8
    steady: int = 60
    # Until the pool has as many pods as the rate calls for.
    before_steady: int = 20


QUICK = Sizes(bursts=((0.0, 1), (2.0, 1)), singles=2, steady=10, before_steady=5)


def measure(sizes: Sizes) -> Json:
    """All of the part. See `targets.py` for what is promised."""
    with AirflowRig() as rig:
        rows = []
        for delay_s, bursts in sizes.bursts:
            rig.cluster.faults(pod_start_delay_s=delay_s)
            for contestant in (STOCK, COLD, WARM):
                rig.become(contestant)
                rows += _waits(rig, contestant, delay_s, bursts, sizes.singles)
        steady = _steady(rig, sizes)
        return {"database": rig.database, "every_s": EVERY_S, "burst": BURST, "rows": rows, "steady": steady}


def _waits(rig: AirflowRig, contestant: Contestant, delay_s: float, bursts: int, singles: int) -> list[Json]:
    """Single tasks and bursts of one contestant. What new processes do first is not measured; a burst of warm pods shows
    launchers what to keep.
    """
    if contestant is WARM:
        _burst(rig)
    else:
        rig.finish([rig.trigger("single")])
    measured: dict[str, list[Run]] = {f"burst of {BURST}": [], "single": []}
    for _ in range(bursts):
        _fill(rig, contestant)
        measured[f"burst of {BURST}"].append(_burst(rig))
    _fill(rig, contestant)
    for _ in range(singles):
        due_s = time.monotonic() + EVERY_S
        measured["single"].append(rig.trigger("single"))
        time.sleep(max(0.0, due_s - time.monotonic()))
    rig.finish(measured["single"])
    return [_row(rig, contestant, delay_s, kind, runs) for kind, runs in measured.items()]


def _fill(rig: AirflowRig, contestant: Contestant) -> None:
    """What is measured begins with a full pool."""
    if contestant is WARM:
        rig.until("idle pods for a burst", lambda: rig.idle_pods() >= BURST)


def _burst(rig: AirflowRig) -> Run:
    run = rig.trigger("burst")
    rig.await_own_code(run, BURST)
    rig.finish([run])
    return run


def _row(rig: AirflowRig, contestant: Contestant, delay_s: float, kind: str, runs: list[Run]) -> Json:
    waits_s = rig.waits_s(runs)
    row = {
        "name": f"{contestant.name}, {kind}",
        "contestant": contestant.name,
        "delay_s": delay_s,
        "kind": kind,
        "tasks": len(waits_s),
        "warm": _warm(rig.launches(runs)),
        **percentiles_ms(waits_s),
    }
    print(f"  {delay_s:g} s, {row['name']}: p50 {row['p50_ms']:.0f} ms, p99 {row['p99_ms']:.0f} ms", flush=True)
    return row


def _steady(rig: AirflowRig, sizes: Sizes) -> Json:
    """One task a second. Requests count until the pool is full again; what it has grown by is no refill."""
    latency = {"verbs": ["create", "get", "list", "patch", "delete"], "latency_s": API_LATENCY_S}
    rig.cluster.faults(latency, pod_start_delay_s=2.0)
    rig.become(Contestant("podrelay warm", True, {**WARM.options, **rig.forked_pods()}))
    _one_a_second(rig, sizes.before_steady)
    before, _ = rig.requests(0)
    kept = rig.kept_pods()
    runs = _one_a_second(rig, sizes.steady)
    rig.until("a pool of ready pods", lambda: rig.idle_pods() >= rig.kept_pods())
    grown = max(0, rig.kept_pods() - kept)
    _, sent = rig.requests(before)
    launches = rig.launches(runs)
    warm = [launch for launch in launches if launch.get("start") == "warm"]
    assigned_s = [float(launch["t_created"]) - float(launch["t_claimed"]) for launch in warm]
    return {
        "tasks": len(launches),
        "warm": len(warm),
        "hit_rate": len(warm) / len(launches),
        "cold_because": dict(Counter(launch.get("start") for launch in launches if launch not in warm)),
        "assignment": percentiles_ms(assigned_s),
        "to_own_code": percentiles_ms(rig.waits_s(runs)),
        "requests": dict(sent),
        "grown": grown,
        "requests_per_task": (sent.total() - grown) / len(launches),
    }


def _one_a_second(rig: AirflowRig, count: int) -> list[Run]:
    runs, began_s = [], time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, began_s + number - time.monotonic()))
        runs.append(rig.trigger("single"))
    rig.finish(runs)
    rig.await_ends()
    return runs


def _warm(launches: list[dict[str, str]]) -> int:
    return sum(launch.get("start") == "warm" for launch in launches)
