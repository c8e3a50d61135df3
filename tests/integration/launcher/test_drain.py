"""`airflow podrelay drain`: a launcher takes nothing more, and ends or waits; no launch is lost or gets two pods."""

from __future__ import annotations

import asyncio
from collections import Counter
from multiprocessing.process import BaseProcess
from typing import Any

import pytest

from podrelay.cli.drain import DrainFailed, drain
from podrelay.protocol.orders import EXIT, GO_ON, HOLD
from podrelay.store.liveness import registered_launchers
from podrelay_workers.launcher import drain as drain_orders
from podrelay_workers.launcher import registration
from tests.harness.commands import type_command
from tests.harness.launcher_rig import LauncherRig
from tests.harness.waiting import until

START_S = 60.0
LOAD = 400


def names(rig: LauncherRig) -> list[str]:
    return [item.name for item in registered_launchers(rig.redis, rig.names, "default") if item.alive]


def name_of(rig: LauncherRig, process: BaseProcess) -> str:
    (name,) = [name for name in names(rig) if name.split("-")[-2] == str(process.pid)]
    return name


def created_by(rig: LauncherRig, requests: list[Any]) -> Counter[str]:
    return Counter(rig.ledger(request).get("launcher", "") for request in requests)


def test_one_of_two_is_drained_under_load(rig: LauncherRig, capsys: pytest.CaptureFixture[str]) -> None:
    leaves, stays = rig.start_process(), rig.start_process()
    asyncio.run(until(lambda: len(names(rig)) == 2, START_S))
    name = name_of(rig, leaves)
    rig.api.latency_s = 0.3
    requests = rig.offer_many(LOAD)
    asyncio.run(until(lambda: created_by(rig, requests)[name] > 20))
    assert type_command("drain", name, "--wait") == 0
    assert capsys.readouterr().out == f"{name}: ordered to exit\n{name}: has ended\n"
    leaves.join(10)
    assert leaves.exitcode == 0
    assert "putting them back" not in rig.log_of(0), "it finished what it held"
    asyncio.run(until(lambda: rig.states(requests) == {"created": LOAD}, 60))
    assert set(created_by(rig, requests)) == {name, name_of(rig, stays)}
    assert set(rig.api.names.values()) == {1}, "none twice"
    assert len(rig.api.names) == LOAD
    assert stays.is_alive()
    assert rig.in_hand() == 0
    # The other one holds, goes on, and ends.
    (other,) = names(rig)
    assert other == name_of(rig, stays)
    list(drain([other], None, HOLD, 20.0))
    waiting = rig.offer_many(5)
    assert stays.is_alive()
    assert rig.states(waiting) == {"offered": 5}
    assert type_command("drain", "--all", "--undo", "--wait") == 0
    asyncio.run(until(lambda: rig.states(waiting) == {"created": 5}))
    assert type_command("drain", "--all", "--wait", "--timeout", "20") == 0
    stays.join(10)
    assert stays.exitcode == 0
    assert names(rig) == []


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher in this process reads its order, and writes its state, more often than every five seconds."""
    monkeypatch.setattr(drain_orders, "POLL_S", 0.5)
    monkeypatch.setattr(registration, "HEARTBEAT_S", 0.5)


def test_a_drained_launcher_obeys_without_the_announcement_and_after_data_loss(rig: LauncherRig, often: None) -> None:
    async def scenario() -> None:
        async with rig.launcher() as launcher:
            await until(lambda: names(rig) == [launcher.name])
            key = rig.names.drain("default", launcher.name)
            for odd in ("", "exit now", "x" * 10_000_000):
                rig.redis.set(key, odd)
                rig.redis.publish(rig.names.wake("default"), "drain")
                await asyncio.sleep(0.1)
                assert not launcher._drain.held
            rig.redis.delete(key)
            rig.redis.hset(key, "exit", "hold")
            rig.redis.publish(rig.names.wake("default"), "drain")
            await asyncio.sleep(0.1)
            rig.redis.delete(key)
            rig.redis.set(key, HOLD)  # nobody announces it
            await until(lambda: launcher._drain.held, 10)
            rig.redis.flushall()
            await until(lambda: names(rig) == [launcher.name], 10)
            waiting = rig.offer_many(3)
            await asyncio.sleep(1.5)  # longer than the poll of an idle loop
            assert rig.states(waiting) == {"offered": 3}
            await asyncio.to_thread(lambda: list(drain([], None, GO_ON, 20.0)))
            await until(lambda: rig.states(waiting) == {"created": 3})

    asyncio.run(scenario())


def test_who_is_not_alive_cannot_be_drained(rig: LauncherRig, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DrainFailed, match="no launcher is alive in cluster default: none"):
        list(drain([], None, EXIT, None))

    async def scenario() -> None:
        async with rig.launcher() as launcher:
            await until(lambda: names(rig) == [launcher.name])
            assert await asyncio.to_thread(type_command, "drain", launcher.name, "host-1-gone") == 1
            assert (
                f"no launcher host-1-gone is alive; alive in cluster default: {launcher.name}"
                in capsys.readouterr().err
            )
            assert not rig.redis.exists(rig.names.drain("default", launcher.name)), "none of them is ordered"
            assert await asyncio.to_thread(type_command, "drain") == 2
            assert await asyncio.to_thread(type_command, "drain", "--all", launcher.name) == 2
            assert await asyncio.to_thread(type_command, "drain", "--all", "--hold", "--undo") == 2
            assert await asyncio.to_thread(type_command, "drain", "--all", "--hold", "--wait", "--timeout", "0.01") == 1
            assert "did not obey within 0.01 s" in capsys.readouterr().err

    asyncio.run(scenario())
