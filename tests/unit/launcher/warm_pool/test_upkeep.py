"""What the pool needs: pods to create, to remove, to look at."""

from __future__ import annotations

import random
from typing import Any

from podrelay.store.warm_pool import END_MARGIN_S, PoolPod, PoolState, ShapeState
from podrelay_workers.launcher.warm_pool.upkeep import SILENT_FIRST_S, SILENT_MOST_S, SURPLUS_S, Upkeep, upkeep

A, B = "a" * 16, "b" * 16


def shape(*arrivals: float, ready_s: float = 2.0, off_s: float = 0.0, hits: int = 1) -> ShapeState:
    return ShapeState(arrivals, min(arrivals, default=300.0), hits, 0, ready_s, off_s, "")


def pod(name: str, of: str = A, *, age_s: float = 5.0, idle_s: float | None = 1.0, alive: bool = True) -> PoolPod:
    return PoolPod(name, of, age_s, idle_s, alive)


def starting(name: str, of: str = A, age_s: float = 1.0) -> PoolPod:
    return pod(name, of, age_s=age_s, idle_s=None, alive=False)


def plan(pods: list[PoolPod], shapes: dict[str, ShapeState], **options: Any) -> Upkeep:
    state = PoolState(False, tuple(pods), shapes)
    values: dict[str, Any] = {"least": 0, "most": 10, "idle_s": 300.0, "silent_s": {}, "looked_s": {}, "surplus_s": {}}
    return upkeep(state, **(values | options))


def test_an_empty_pool_is_filled_to_what_arrived_at_once() -> None:
    assert plan([], {A: shape(10.0, 10.0, 10.0)}).create == {A: 3}
    assert plan([], {A: shape(*[10.0] * 30), B: shape(*[10.0] * 10)}).create == {A: 8, B: 2}
    assert plan([], {A: shape()}, least=2).create == {A: 2}
    assert plan([], {}).create == {}


def test_a_shape_that_had_one_launch_gets_no_pod_by_demand() -> None:
    """A hook, or a label with the run's id, makes a shape for each launch: none of them comes again."""
    assert plan([], {f"{number:016x}": shape(float(number), hits=0) for number in range(9)}).create == {}
    assert plan([], {A: shape(10.0, hits=0), B: shape(10.0, hits=0)}, least=1).create == {B: 1}
    assert plan([], {A: shape(10.0, 10.0, 10.0, hits=0)}).create == {A: 3}  # a first burst
    assert plan([], {A: shape(10.0, hits=1)}).create == {A: 1}


def test_pods_that_are_there_or_start_are_counted() -> None:
    found = plan([pod("1"), starting("2")], {A: shape(10.0, 10.0, 10.0)})
    assert found == Upkeep(create={A: 1})


def test_too_many_leave_after_a_while_and_the_young_and_ready_stay() -> None:
    """A target often moves by one, and back."""
    pods = [pod("old", idle_s=200.0), pod("young", idle_s=10.0), starting("unready")]
    assert plan(pods, {A: shape(10.0)}) == Upkeep(surplus={A})
    assert plan(pods, {A: shape(10.0)}, surplus_s={A: SURPLUS_S - 1}).remove == []
    assert plan(pods, {A: shape(10.0)}, surplus_s={A: SURPLUS_S}).remove == ["old", "unready"]
    assert plan(pods, {}).remove == ["young", "old", "unready"]  # none is needed


def test_too_many_leave_at_once_where_others_need_their_room() -> None:
    pods = [pod("1", idle_s=3.0), pod("2", idle_s=2.0), pod("3", idle_s=1.0)]
    shapes = {A: shape(10.0), B: shape(10.0, 10.0)}
    assert plan(pods, shapes, most=5) == Upkeep(create={B: 2}, surplus={A})
    assert plan(pods, shapes, most=4) == Upkeep(remove=["1"], create={B: 2}, surplus={A})
    assert plan(pods, shapes, most=3) == Upkeep(remove=["2", "1"], create={B: 2}, surplus={A})
    unneeded = pod("4", "c" * 16)
    assert plan([*pods, unneeded], shapes, most=5) == Upkeep(remove=["4"], create={B: 2}, surplus={A, "c" * 16})


def test_a_shape_that_is_off_or_has_no_room_keeps_no_pod() -> None:
    assert plan([pod("1")], {A: shape(1.0, off_s=5.0)}) == Upkeep(remove=["1"], surplus={A})
    assert plan([pod("1")], {A: shape(1.0)}, full={A}) == Upkeep(remove=["1"], surplus={A})
    assert plan([pod("1", B)], {A: shape(*[1.0] * 20), B: shape(1.0)}, full={A}) == Upkeep()


def test_pods_that_no_launch_gets_any_more_make_room() -> None:
    """Also where all came at the same time, and the pool has no room for their successors beside them."""
    pods = [pod(str(number), idle_s=300.0 - END_MARGIN_S) for number in range(10)]
    found = plan(pods, {A: shape(*[10.0] * 20)})
    assert len(found.remove) == 10
    assert found.create == {A: 10}


def test_the_successor_of_a_pod_that_ends_soon_is_created_in_time() -> None:
    ending = pod("1", idle_s=299.0 - END_MARGIN_S)
    assert plan([ending], {A: shape(10.0)}).create == {A: 1}
    assert plan([ending], {A: shape(10.0)}, most=1).create == {}  # never more than the most
    assert plan([ending], {A: shape(10.0)}).remove == []


def test_ready_pods_that_are_silent_leave_after_a_while() -> None:
    """After an outage of Redis all of them are silent for a moment."""
    silent, shapes = pod("1", alive=False), {A: shape(10.0)}
    assert plan([silent], shapes, silent_s={"1": 0.1}) == Upkeep()
    assert plan([silent], shapes, silent_s={"1": SILENT_FIRST_S}) == Upkeep(create={A: 1})
    assert plan([silent], shapes, silent_s={"1": SILENT_FIRST_S}, most=1) == Upkeep()
    assert plan([silent], shapes, silent_s={"1": SILENT_MOST_S}) == Upkeep(remove=["1"], create={A: 1})


def test_pods_that_take_longer_than_usual_are_looked_at() -> None:
    pods = [starting("1", age_s=9.0), starting("2", age_s=11.0), starting("3", age_s=31.0)]
    assert plan(pods, {A: shape(*[10.0] * 3)}).look == ["3", "2"]
    assert plan(pods, {A: shape(*[10.0] * 3, ready_s=10.0)}).look == ["3"]
    assert plan(pods, {A: shape(*[10.0] * 3)}, looked_s={"2": 10.5, "3": 20.0}).look == ["3"]


def test_never_more_than_the_most_and_nothing_is_created_and_removed_at_once() -> None:
    rng = random.Random(7)
    for _ in range(500):
        shapes = {
            name * 16: shape(
                *(rng.uniform(0, 300) for _ in range(rng.randint(0, 30))), ready_s=rng.choice([0.0, 2.0, 30.0]),
                off_s=rng.choice([0.0, 0.0, 9.0]), hits=rng.randint(0, 50),
            )
            for name in "abc"[: rng.randint(0, 3)]
        }  # fmt: skip
        pods = [
            pod(
                f"{number}", rng.choice("abcd") * 16, age_s=rng.uniform(0, 300),
                idle_s=rng.choice([None, rng.uniform(0, 300)]), alive=rng.random() < 0.8,
            )
            for number in range(rng.randint(0, 12))
        ]  # fmt: skip
        least, most = sorted((rng.randint(0, 12), rng.randint(0, 12)))
        found = plan(pods, shapes, least=least, most=most, silent_s={"0": 99.0})
        assert len(set(found.remove)) == len(found.remove)
        staying = [item for item in pods if item.warm_id not in found.remove]
        # Those that Redis' outage silenced may come back: they count.
        assert len(staying) + sum(found.create.values()) <= max(most, len(staying))
        for name in found.create:
            removed = [item for item in pods if item.shape == name and item.warm_id in found.remove and item.alive]
            assert all((item.idle_s or 0.0) >= 300.0 - END_MARGIN_S for item in removed)  # no launch gets these
