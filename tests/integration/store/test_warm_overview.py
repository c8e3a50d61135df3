"""What `status`, the page and the metrics say about warm pods, as the keeper's scripts leave it in Redis."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from podrelay import metrics_table
from podrelay.cli.status_problems import problems
from podrelay.cli.status_text import render_overview
from podrelay.store.overview import read_overview
from podrelay_workers.watcher.overview_metrics import figures_of
from tests.harness.warm_rig import CLUSTER, KEYS, OTHER_SHAPE, SHAPE, WarmRig


@pytest.fixture
def rig(redis_url: str) -> Iterator[WarmRig]:
    rig = WarmRig(redis_url)
    yield rig
    rig.close()


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    return redis.Redis.from_url(redis_url)


def overview(client: redis.Redis) -> Any:
    return read_overview(client, KEYS, CLUSTER, time.time())


def test_without_warm_pods_nothing_is_said(client: redis.Redis) -> None:
    found = overview(client)
    assert "warm" not in found
    assert "warm" not in render_overview(found)
    assert figures_of(found)[metrics_table.WARM_POOLS_OFF] is None


def test_the_pool_of_each_shape(rig: WarmRig, client: redis.Redis) -> None:
    rig.save_shape(OTHER_SHAPE)
    for _ in range(3):
        rig.assigned()
    rig.assign(rig.offered_job())  # there is no idle pod left
    rig.idle_pod()
    rig.starting_pod()
    rig.keep()
    warm = overview(client)["warm"]
    assert (warm["keeper"], warm["most"], warm["idle"], warm["starting"]) == ("a", 10, 1, 1)
    assert (warm["hits"], warm["misses"], warm["hit_rate"]) == (3, 1, 0.75)
    by_shape = {shape["shape"]: shape for shape in warm["shapes"]}
    assert set(by_shape) == {SHAPE, OTHER_SHAPE}
    assert by_shape[SHAPE]["hit_rate"] == 0.75
    assert by_shape[SHAPE]["ready_s"] is not None
    assert by_shape[SHAPE]["off_s"] == 0.0
    assert by_shape[OTHER_SHAPE]["hit_rate"] is None
    lines = render_overview(overview(client)).splitlines()
    start = lines.index("warm pods: 1 idle, 1 starting, at most 10, hit rate 75 %, kept by a")
    assert lines[start + 1].split() == [
        "shape", "idle", "starting", "hits", "misses", "hit", "rate", "ready", "after", "last", "launch", "off",
    ]  # fmt: skip
    shown = next(line.split() for line in lines[start + 2 :] if SHAPE in line)
    assert shown[:7] == [SHAPE, "1", "1", "3", "1", "75", "%"]


def test_a_pool_that_is_off_is_a_problem(rig: WarmRig, client: redis.Redis) -> None:
    rig.save_shape()
    rig.keep()
    why = "image example/airflow:1 ended with exit code 1: No module named podrelay_workers\x1b[2J"
    assert rig.call(rig.pool.switch_off(SHAPE, 600.0, why))
    found = overview(client)
    (sentence,) = [sentence for sentence in problems(found) if "warm" in sentence]
    assert sentence.startswith(f"no warm pods of shape {SHAPE} are kept for another ")
    assert "No module named podrelay_workers" in sentence
    shown = render_overview(found)
    assert "\x1b" not in shown
    assert "for 10 min: image example/airflow:1" in shown
    assert figures_of(found)[metrics_table.WARM_POOLS_OFF] == 1
    rig.redis.hset(KEYS.warm_state(CLUSTER), f"{SHAPE} off_until", time.time() - 1)
    assert not [sentence for sentence in problems(overview(client)) if "warm" in sentence]
    assert figures_of(overview(client))[metrics_table.WARM_POOLS_OFF] == 0


def test_warm_pods_that_were_switched_off_are_forgotten(rig: WarmRig, client: redis.Redis) -> None:
    rig.idle_pod()
    key = KEYS.warm_state(CLUSTER)
    rig.redis.hset(key, "expires", time.time() - 5)
    assert overview(client)["warm"]["keeper"] == "", "another launcher is about to keep them"
    rig.redis.hset(key, "expires", time.time() - 100)
    assert "warm" not in overview(client)


@pytest.mark.parametrize("value", ["x", "-1", "1e300", "nan", "inf", "", "\ud800", "9" * 4000, "\x1b[2J"])
@pytest.mark.parametrize(
    "field", ["idle", "hits", "misses", "off_until", "off_why", "ready_s", "seen", "most", "keeper"]
)
def test_whatever_somebody_wrote_is_shown(rig: WarmRig, client: redis.Redis, field: str, value: str) -> None:
    rig.idle_pod()
    name = field if field in ("most", "keeper") else f"{SHAPE} {field}"
    client.hset(KEYS.warm_state(CLUSTER), name, value.encode("utf-8", "surrogatepass"))
    found = overview(client)
    shown = render_overview(found)
    assert all(char.isprintable() or char == "\n" for char in shown)
    assert len(shown) < 10_000
    warm = found.get("warm", {"shapes": []})
    for shape in warm["shapes"]:
        assert shape["idle"] >= 0
        assert shape["hits"] >= 0
        assert 0 <= shape["off_s"] <= 3600


def test_fields_of_no_shape_are_left_out(rig: WarmRig, client: redis.Redis) -> None:
    rig.idle_pod()
    odd = {f"{number:016x} idle": "1" for number in range(500)} | {"<b> idle": "1", "idle": "1", f"{SHAPE} <b>": "1"}
    client.hset(KEYS.warm_state(CLUSTER), mapping=odd)  # type: ignore[arg-type]
    shapes = overview(client)["warm"]["shapes"]
    assert len(shapes) == 64
    assert shapes[0]["shape"] == SHAPE, "of the latest launch"
    assert "<b>" not in render_overview(overview(client))
