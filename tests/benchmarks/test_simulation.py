"""The simulation: its parts against what queueing theory knows, its fit, and its whole against what was measured."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache

import pytest
import simpy

from tests.benchmarks.cost_fit import HandOver, Regime, fit_redis, fit_units, per_item_and_call, single_wakes
from tests.benchmarks.costs import differing
from tests.benchmarks.simulation.check import Row, compare
from tests.benchmarks.simulation.deployment import simulate
from tests.benchmarks.simulation.machine import QUANTUM_S, Inbox, Machine, Process, Steps
from tests.benchmarks.simulation.needs import Demand, limits, redis_memory_mb, scheduler_cores, use_of_a_task
from tests.benchmarks.simulation.page import PAGE, replaced, sections
from tests.benchmarks.simulation.plan import bed
from tests.benchmarks.simulation.unit_costs import ITEMS, UnitCosts, recorded

COSTS = UnitCosts.from_json(recorded()["units"])


def mean_wait_s(service_s: float, load: float, cores: int, processes: int, customers: int = 40_000) -> float:
    """Seconds that work waits before it begins: Poisson arrivals, spread over processes of one machine."""
    env = simpy.Environment()
    machine = Machine(env, cores)
    served = [Process(machine, f"{number}") for number in range(processes)]
    rng, waits = random.Random(7), []

    def customer(process: Process) -> Steps:
        arrived_s = env.now
        yield from process.work(service_s)
        waits.append(env.now - arrived_s - service_s)

    def arrivals() -> Steps:
        for number in range(customers):
            yield env.timeout(rng.expovariate(load * cores / service_s))
            env.process(customer(served[number % processes]))

    env.process(arrivals())
    env.run()
    return sum(waits) / len(waits)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_process_is_the_queue_m_d_1(load: float) -> None:
    """Pollaczek and Khinchine: with constant service time s, the mean wait is load x s / (2 (1 - load))."""
    service_s = 0.002
    expected_s = load * service_s / (2 * (1 - load))
    assert mean_wait_s(service_s, load, cores=1, processes=1) == pytest.approx(expected_s, rel=0.08)


def test_many_processes_share_two_cores_as_the_queue_m_d_2() -> None:
    """Tabulated for two servers, constant service and load 0.8: the mean wait is 0.9 of a service time, within a few percent
    half of that of M/M/2 (load^2 / (1 - load^2) = 1.78 service times).
    """
    service_s = QUANTUM_S / 2  # no turn is interrupted
    assert mean_wait_s(service_s, 0.8, cores=2, processes=50) == pytest.approx(0.9 * service_s, rel=0.1)


def test_work_is_counted_and_takes_its_time() -> None:
    env = simpy.Environment()
    process = Process(Machine(env, 1), "p")
    env.process(process.work(0.0105))
    env.run()
    assert process.cpu_s == pytest.approx(0.0105)
    assert env.now == pytest.approx(0.0105)


def test_a_process_that_sleeps_pays_for_being_woken_once_for_all_that_is_there() -> None:
    env = simpy.Environment()
    process = Process(Machine(env, 1), "p", wake_s=0.5)

    def work() -> Steps:
        for at_s, count in ((0.0, 1), (1.0, 3)):
            yield env.timeout(at_s - env.now)
            for _ in range(count):
                env.process(process.work(1.0))
        yield env.timeout(9.0)
        yield from process.work(1.0)
        yield from process.work(1.0)  # at the moment at which the last work ends: it has not slept

    env.process(work())
    env.run()
    assert process.wakes == 2
    assert process.cpu_s == pytest.approx(6.0 + 2 * 0.5)


def test_an_inbox_wakes_whoever_found_it_empty() -> None:
    env = simpy.Environment()
    inbox, seen = Inbox(env), []

    def reader() -> Steps:
        for _ in range(2):
            yield inbox.filled()
            seen.append((env.now, inbox.take(2)))

    def writer() -> Steps:
        yield env.timeout(1.0)
        inbox.put("a", "b", "c")

    env.process(reader())
    env.process(writer())
    env.run()
    assert seen == [(1.0, ["a", "b"]), (1.0, ["c"])]


def test_two_runs_separate_items_from_calls() -> None:
    item_s, call_s = 0.002, 0.0005
    runs = [(items, calls, items * item_s + calls * call_s) for items, calls in ((1000, 50), (100, 100))]
    assert per_item_and_call(*runs) == pytest.approx((item_s, call_s))


def run_of(tasks: float, wakes: float, calls: float) -> Regime:
    """An item costs 1 ms, a wake 0.5 ms and a call 0.2 ms; by Redis' own clock, which counts interruptions, twice as much."""
    idle_s, seconds = 0.01, 10.0
    processes = ("launcher 1", "watcher", "redis")
    script_s = {name: 2 * (items * tasks * 0.001 + calls * 0.0002) for name, items in ITEMS.items()}
    redis_s = sum(script_s.values()) / 2 + wakes * 0.0005
    busy_s = {"launcher 1": tasks * 0.001 + wakes * 0.0005, "watcher": 0.0, "redis": redis_s}
    return Regime(
        tasks=tasks, seconds=seconds,
        cpu_s={name: busy_s[name] + idle_s * seconds for name in processes},
        wakes=dict.fromkeys(processes, wakes + 2.0 * seconds),
        idle=dict.fromkeys(processes, idle_s), idle_wakes=dict.fromkeys(processes, 2.0),
        mb={}, calls=dict.fromkeys(ITEMS, calls), script_s=script_s, writes=0.0, in_bytes=0.0, out_bytes=0.0,
    )  # fmt: skip


def test_two_runs_separate_items_from_wakes_without_what_an_idle_process_does() -> None:
    runs = [run_of(2000, 2500, 300), run_of(100, 800, 120)]
    assert per_item_and_call(*(run.totals("launcher 1", run.tasks) for run in runs)) == pytest.approx((0.001, 0.0005))


def test_interruptions_are_no_cost_of_a_script() -> None:
    wake_s, call_s, task_s = fit_redis(run_of(2000, 2500, 300), run_of(100, 800, 120))
    assert wake_s == pytest.approx(0.0005)
    assert call_s == pytest.approx(dict.fromkeys(ITEMS, 0.0002))
    assert task_s == pytest.approx(dict.fromkeys(ITEMS, 0.001))


def test_heartbeats_between_two_tasks_are_no_cost_of_a_task() -> None:
    run = run_of(100, 800, 500)
    assert single_wakes(run)["launcher"] == pytest.approx(8.0)
    assert single_wakes(run)["redis"] == pytest.approx(8.0 - (5.0 - ITEMS["read_stream"]))


def test_rounds_that_differ_are_named() -> None:
    runs = {"together": [{"cpu_s": {"redis": one, "watcher": 1.0, "observer": 0.01}} for one in (0.5, 0.6)]}
    runs["together"][1]["cpu_s"]["observer"] = 0.02  # too little to say anything
    assert list(differing(runs)) == ["rounds differ by more than 10 %: together: redis 0.50, 0.60 s"]


def test_hand_overs_separate_tasks_from_the_queue_that_is_sorted() -> None:
    """Ten tasks in each heartbeat: the queue is 100, 90, 80 ... long."""
    task_s, queued_s = 1e-4, 3e-6
    runs = []
    for tasks in (100, 400):
        count = tasks // 10
        seconds = tasks * task_s + sum(range(tasks, 0, -10)) * queued_s
        runs.append(HandOver(tasks, count, seconds / tasks, 0.0).totals())
    assert per_item_and_call(*runs) == pytest.approx((task_s, queued_s))


def test_a_heartbeat_that_sends_several_offers_has_sorted_its_queue_once() -> None:
    hand_over_s, results_s, queued_s, heartbeat_s = 1e-4, 6e-5, 3e-6, 1e-3
    others = dict.fromkeys(("local cluster", "observer", "slow link"), 0.0)

    def life(tasks: float, heartbeats: float, hand_overs: float, offers: float) -> Regime:
        run = run_of(tasks, tasks, tasks)
        queue_s = queued_s * (hand_overs + 1) / 2 if hand_overs else 0.0
        scheduler_s = tasks * (hand_over_s + results_s + queue_s) + heartbeats * heartbeat_s
        return replace(
            run, cpu_s={**run.cpu_s, **others, "scheduler": scheduler_s}, wakes={**run.wakes, **others},
            writes=8 * tasks, calls={**run.calls, "offer": offers}, heartbeats=heartbeats, hand_overs=hand_overs,
            entries=1e6,
        )  # fmt: skip

    units = fit_units(
        burst=life(2000, 30, 15, 60), trickle=life(100, 500, 0, 100), clean_ups=run_of(300, 300, 300),
        foreign=life(20, 50, 0, 20), memory_bytes={},
        hand_overs=[HandOver(tasks, count, hand_over_s + queued_s * (count + 1) / 2, 1e-4)
                    for tasks, count in ((1000, 5), (4000, 20))],
    )  # fmt: skip
    assert units.queued_s == pytest.approx(queued_s)
    assert units.results_s == pytest.approx(results_s, rel=0.1)


def test_two_runs_of_the_same_batches_cannot() -> None:
    assert per_item_and_call((1000, 2000, 1.0), (100, 200, 0.1)) == pytest.approx((0.001, 0.0))


def test_noise_makes_no_negative_cost() -> None:
    assert per_item_and_call((1000, 50, 2.0), (100, 100, 0.1)) == pytest.approx((0.002, 0.0))
    item_s, call_s = per_item_and_call((1000, 500, 0.1), (100, 100, 0.3))
    assert item_s >= 0.0
    assert call_s >= 0.0


def test_what_one_life_costs_is_what_the_parts_cost() -> None:
    found = simulate(bed(400, 1, 0.0), replace(COSTS, launcher_idle=0.0, watcher_idle=0.0))
    assert found.tasks == 400
    assert found.api_requests == 800, "a creation and a deletion each"
    events = 400 * (1 + COSTS.status_changes + COSTS.deletion_changes)
    for process, items_s, wake_s in (
        ("watcher", events * COSTS.watch_event_s, COSTS.watcher_wake_s),
        ("launcher 1", 400 * (COSTS.create_s + COSTS.clean_up_s), COSTS.launcher_wake_s),
    ):
        assert found.cpu_s[process] == pytest.approx(items_s + found.wakes[process] * wake_s)


def test_latency_and_launchers_matter_as_they_should() -> None:
    """16 requests in flight of 0.5 s each: one launcher sends 32 a second at most, two send 64."""
    few = replace(bed(320, 1, 0.5), launcher_concurrency=16, cleanup_concurrency=1, cores=None)
    one, two = (simulate(replace(few, launchers=count), COSTS) for count in (1, 2))
    assert one.pods_per_s == pytest.approx(32, rel=0.1)
    assert two.pods_per_s == pytest.approx(64, rel=0.15)


def test_needs_grow_with_the_load() -> None:
    use = use_of_a_task(COSTS, schedulers=10, pace="singly")
    assert use.redis > use_of_a_task(COSTS, schedulers=1, pace="singly").redis > 0
    assert use.launchers > use_of_a_task(COSTS, schedulers=10, pace="together").launchers
    assert use.launchers > use_of_a_task(COSTS, schedulers=10, pace="singly", launchers=1).launchers
    assert scheduler_cores(use, 10.0, 1) == pytest.approx(10 * use.scheduler)
    rates = [limit.tasks_per_s for limit in limits(COSTS, 10)]
    assert rates == sorted(rates)
    small, large = (redis_memory_mb(COSTS, Demand(running=running)) for running in (1000, 50_000))
    assert large["running"] == pytest.approx(50 * small["running"])


def test_costs_of_another_version_name_what_is_missing() -> None:
    with pytest.raises(ValueError, match="without hand_over_s: measure them again with `python -m tests"):
        UnitCosts.from_json({name: 0.0 for name in recorded()["units"] if name != "hand_over_s"})


@cache
def compared() -> list[Row]:
    return compare(recorded()["lives"], COSTS)


@pytest.mark.parametrize(
    "measure",
    [
        "last_created_s",
        "last_event_s",
        "last_deleted_s",
        "pods_per_s",
        "cpu_s of scheduler",
        "cpu_s of launchers",
        "cpu_s of watcher",
        "cpu_s of redis",
    ],
)
def test_the_simulation_is_within_a_fifth_of_what_was_measured(measure: str) -> None:
    rows = [row for row in compared() if row.measure == measure]
    assert len({row.life for row in rows}) >= 3
    assert [row for row in rows if not row.ok] == []


@pytest.mark.parametrize("name", ["costs", "needs", "memory", "limits", "check"])
def test_the_page_shows_the_recorded_costs(name: str) -> None:
    text = PAGE.read_text()
    lines = sections(recorded(), Demand())[name]()
    assert replaced(text, name, lines) == text, "write it again: python -m tests.benchmarks.simulation page"


def test_a_part_that_the_page_lacks_is_named() -> None:
    with pytest.raises(ValueError, match="no part between <!-- other -->"):
        replaced(PAGE.read_text(), "other", [])
