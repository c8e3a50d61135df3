"""Warm pods beside a watcher: idle ones are passed over, and only labels say which launch one of them runs."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from typing import Any

import pytest

from podrelay.protocol import identifiers
from podrelay.protocol.mailbox import EXIT_UNUSED
from podrelay.protocol.starts import UNUSED
from tests.harness.waiting import until
from tests.harness.watcher_rig import Launch, WatcherRig
from tests.integration.watcher.test_watcher import run


def idle(rig: WatcherRig) -> Launch:
    """A warm pod that no launch has got."""
    warm_id = identifiers.new_warm_id()
    return rig.launch(
        name=identifiers.warm_pod_name("etl", warm_id), ledger=False,
        labels={
            identifiers.LABEL_WARM: warm_id, identifiers.LABEL_IDLE: "0123456789abcdef",
            identifiers.LABEL_LAUNCH_ID: None, identifiers.LABEL_ATTEMPT: None,
        },
    )  # fmt: skip


def ledger_of(pod: Launch, **fields: str) -> dict[str, str]:
    """What the ledger holds of a launch whose workload is in the mailbox of this pod."""
    return {
        "state": "created", "attempt": "0", "cluster": "default", "owner": "7", "namespace": pod.namespace, "pod": pod.pod,
        "uid": pod.uid, "warm_pod": pod.pod, "warm_attempt": "0", "delivered": "1", "start": "warm", **fields,
    }  # fmt: skip


def assign(rig: WatcherRig, pod: Launch, before_s: float = 60.0, **fields: str) -> Launch:
    """What a launcher does: ledger, labels."""
    launch_id, at_s = str(uuid.uuid4()), time.time() - before_s
    rig.redis.hset(rig.names.launch(launch_id), mapping={**ledger_of(pod, **fields), "t_created": f"{at_s:.3f}"})
    rig.redis.zadd(rig.names.live("default"), {launch_id: at_s})
    labels: dict[str, Any] = {
        identifiers.LABEL_LAUNCH_ID: launch_id, identifiers.LABEL_ATTEMPT: "0", identifiers.LABEL_IDLE: None,
    }  # fmt: skip
    rig.label(pod, **labels)
    return Launch(launch_id, pod.pod, pod.namespace, pod.uid)


def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("podrelay_workers.watcher.leader.COMPARE_S", 0.3)
    monkeypatch.setattr("podrelay_workers.watcher.leader.COMPARE_UNWATCHED_S", 0.3)


def test_idle_pods_are_no_trouble(
    rig: WatcherRig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast(monkeypatch)

    async def test() -> None:
        before = idle(rig)
        async with rig.watching():
            waits, ends, goes = (idle(rig) for _ in range(3))
            other = rig.launch(lasts_s=0.2)
            await until(lambda: rig.end_of(other))
            rig.end(ends, exit_code=EXIT_UNUSED)
            rig.delete(goes)
            rig.vanish(before)
            await asyncio.sleep(1.0)
            assert {report.launch_id for report in rig.results()} == {other.launch_id}
            assert rig.watch()["trouble"] == ""
            assert rig.redis.xlen(rig.names.quarantine) == 0
            assert waits.pod

    with caplog.at_level(logging.INFO):
        run(test())
    watchers = [record for record in caplog.records if record.name.startswith("podrelay_workers.watcher")]
    assert not [record for record in watchers if record.levelno >= logging.WARNING]
    assert "-warm-" not in caplog.text


def test_a_launch_in_a_warm_pod(rig: WatcherRig) -> None:
    async def test() -> None:
        async with rig.watching():
            pod = idle(rig)
            await asyncio.sleep(1.1)
            launch = assign(rig, pod, 0.0)
            await until(lambda: rig.results(launch))
            rig.end(launch)
            await until(lambda: rig.end_of(launch))
            started, ended = rig.results(launch)
            assert (started.outcome, ended.outcome) == ("started", "succeeded")
            assert started.pod == ended.pod == pod.pod
            entry = rig.ledger(launch)
            assert {"t_scheduled", "t_started"} & set(entry) == set(), "they are from before the launch"
            assert float(entry["t_created"]) <= float(entry["t_finished"]) + 1.0
            assert rig.watch()["trouble"] == ""

    run(test())


def test_one_that_never_got_its_workload(rig: WatcherRig) -> None:
    """After a loss of all data nothing but its exit code says so."""

    async def test() -> None:
        async with rig.watching():
            launch = assign(rig, idle(rig))
            await until(lambda: rig.results(launch))
            rig.redis.flushall()
            rig.redis.script_flush()
            rig.end(launch, exit_code=EXIT_UNUSED)
            await until(lambda: rig.end_of(launch))
            report = rig.end_of(launch)
            assert report is not None
            assert (report.reason, report.failure_class, report.exit_code) == (UNUSED, "infrastructure", EXIT_UNUSED)

    run(test())


def test_after_flushall_its_launch_is_restored(rig: WatcherRig) -> None:
    async def test() -> None:
        async with rig.watching():
            idle_pod, launch = idle(rig), assign(rig, idle(rig))
            await until(lambda: rig.results(launch))
            rig.redis.flushall()
            rig.redis.script_flush()
            await until(lambda: rig.ledger(launch).get("state") == "started")
            entry = rig.ledger(launch)
            assert (entry["pod"], entry["uid"], entry["owner"]) == (launch.pod, launch.uid, "7")
            assert {name for name in entry if name[:2] == "t_"} == set()
            score = rig.redis.zscore(rig.names.live("default"), launch.launch_id)
            assert abs(score - time.time()) < 30, "not since the pod was started"
            assert rig.redis.zcard(rig.names.live("default")) == 1
            assert idle_pod.pod not in str(rig.redis.hgetall(rig.names.watch("default")))

    run(test())


def test_a_forged_name_ends_nothing(rig: WatcherRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever can write to Redis names a warm pod that does not exist, or an idle one, or one of another launch."""
    fast(monkeypatch)

    async def test() -> None:
        async with rig.watching():
            warm, cold = assign(rig, idle(rig)), rig.launch(created_s=time.time() - 60)
            moved, beside, given_up = assign(rig, idle(rig)), assign(rig, idle(rig)), assign(rig, idle(rig))
            launches = (warm, cold, moved, beside, given_up)
            await until(lambda: rig.said("started") == 5)
            nobody = identifiers.warm_pod_name("x", identifiers.new_warm_id())
            for launch, lie in (
                (warm, {"pod": nobody}), (cold, {"pod": nobody}), (moved, {"pod": nobody, "namespace": "default"}),
                (beside, {"pod": idle(rig).pod}), (given_up, {"pod": nobody, "condemned": given_up.pod}),
            ):  # fmt: skip
                rig.redis.hset(rig.names.launch(launch.launch_id), mapping={**lie, "uid": "x"})
            await asyncio.sleep(2.0)
            assert rig.ends() == {}
            for launch in launches:
                rig.end(launch)
            await until(lambda: len(rig.ends()) == 5)
            assert [report.pod for launch in launches if (report := rig.end_of(launch))] == [
                launch.pod for launch in launches
            ]

    run(test())


@pytest.mark.parametrize("member", ["x", "{braces}", "a=b,c", "URN:UUID:11111111-1111-4111-8111-111111111111"])
def test_no_label_selector_is_made_of_what_is_no_launch_id(
    rig: WatcherRig, monkeypatch: pytest.MonkeyPatch, member: str
) -> None:
    fast(monkeypatch)

    async def test() -> None:
        async with rig.watching():
            entry = {"state": "created", "attempt": "0", "namespace": rig.namespace,
                     "pod": identifiers.warm_pod_name("x", "f" * 32)}  # fmt: skip
            rig.redis.hset(rig.names.launch(member), mapping=entry)
            rig.redis.zadd(rig.names.live("default"), {member: 1.0})
            await until(lambda: rig.redis.xlen(rig.names.quarantine) == 1)
            assert rig.results() == []

    run(test())


def test_a_warm_pod_that_vanished_is_noticed(rig: WatcherRig, monkeypatch: pytest.MonkeyPatch) -> None:
    fast(monkeypatch)

    async def test() -> None:
        launch = assign(rig, idle(rig))
        rig.vanish(launch)
        async with rig.watching():
            await until(lambda: rig.end_of(launch))
            report = rig.end_of(launch)
            assert report is not None
            assert (report.reason, report.pod) == ("PodVanished", launch.pod)

    run(test())


def test_a_namespace_that_is_not_watched(rig: WatcherRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pods are found by their labels, whatever name the ledger holds."""
    fast(monkeypatch)

    async def test() -> None:
        rig.namespace, watched = "default", rig.namespace
        launch = assign(rig, idle(rig))
        rig.namespace = watched
        nobody = identifiers.warm_pod_name("x", identifiers.new_warm_id())
        rig.redis.hset(rig.names.launch(launch.launch_id), "pod", nobody)
        async with rig.watching():
            await until(lambda: rig.results(launch), 20)
            await asyncio.sleep(1.0)
            assert [(report.outcome, report.pod) for report in rig.results(launch)] == [("started", launch.pod)]
            rig.end(launch)
            await until(lambda: rig.end_of(launch), 20)

    run(test())
