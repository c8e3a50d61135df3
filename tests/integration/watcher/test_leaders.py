"""Several watchers of one cluster, as processes: killed, paused, stopped. Every end is published once."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet

from podrelay.protocol.encryption import PayloadCipher
from podrelay.store.log_requests import request_logs
from podrelay.store.script_table import ScriptCall, script
from tests.harness.waiting import until
from tests.harness.watcher_rig import Launch, WatcherRig, start_cluster


def run(test: Awaitable[None], seconds: float = 110.0) -> None:
    asyncio.run(asyncio.wait_for(test, seconds))


async def two(rig: WatcherRig) -> tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]:
    """Leader and standby."""
    first = rig.start()
    await until(lambda: rig.watch().get("t_listed"), 60)
    second = rig.start()
    await until(lambda: "Standing by" in rig.log_of(1), 60)
    return first, second


def test_a_killed_leader_is_replaced_and_nothing_is_lost(rig: WatcherRig) -> None:
    async def test() -> None:
        first, second = await two(rig)
        launches = [rig.launch(created_s=time.time() - 30) for _ in range(20)]
        await until(lambda: rig.said("started") == 20)
        for launch in launches[:5]:
            rig.end(launch)
        killed = time.monotonic()
        first.kill()
        for launch in launches[5:15]:
            rig.end(launch)
        for launch in launches[15:]:
            rig.vanish(launch)
        await until(lambda: len(rig.ends()) == 20, 20)
        assert time.monotonic() - killed < 10
        assert set(rig.ends().values()) == {1}
        # After an orderly stop another watcher may lead at once.
        second.send_signal(signal.SIGTERM)
        assert second.wait(10) == 0
        assert rig.watch()["leader"] == ""

    run(test())


def test_a_paused_leader_publishes_nothing_when_it_resumes(rig: WatcherRig) -> None:
    async def test() -> None:
        first, second = await two(rig)
        fence = int(rig.watch()["fence"])
        launches = [rig.launch(created_s=time.time() - 30) for _ in range(10)]
        await until(lambda: rig.said("started") == 10)
        first.send_signal(signal.SIGSTOP)
        for launch in launches[:5]:
            rig.end(launch)
        for launch in launches[5:]:
            rig.vanish(launch)
        await until(lambda: len(rig.ends()) == 10, 20)
        assert int(rig.watch()["fence"]) > fence
        known = len(rig.results())
        first.send_signal(signal.SIGCONT)
        await until(lambda: "Standing by" in rig.log_of(0), 20)
        await asyncio.sleep(0.5)
        assert len(rig.results()) == known
        assert first.poll() is None
        # It is an ordinary standby.
        second.kill()
        late = rig.launch(lasts_s=0.1)
        await until(lambda: rig.end_of(late), 20)

    run(test())


def test_log_tail_of_a_failed_process(redis_url: str, tmp_path: Path) -> None:
    cluster = start_cluster(tmp_path, runner="process")
    rig = WatcherRig(redis_url, cluster, tmp_path, "default")
    script = "for n in 1 2 3 4 5; do echo line $n; done; echo last words >&2; exit 7"
    container = {"name": "base", "image": "any", "command": ["sh", "-c", script]}

    async def test() -> None:
        rig.start()
        await until(lambda: rig.watch().get("t_listed"), 60)
        launch = rig.launch(spec={"containers": [container]})
        end = await until(lambda: rig.end_of(launch), 20)
        assert (end.outcome, end.exit_code, end.failure_class) == ("failed", 7, "application")
        assert end.log_tail[-1] == "last words"
        assert "line 5" in end.log_tail
        (logged,) = await until(lambda: [line for line in rig.log_of(0).splitlines() if " Pod ended " in line])
        for part in (f"launch_id={launch.launch_id}", f"pod={end.pod}", "outcome=failed", "exit_code=7", "ran_s="):
            assert part in logged

    try:
        run(test())
    finally:
        rig.close()
        cluster.close()


def test_log_tail_of_a_pod_that_ended_well_on_request(redis_url: str, tmp_path: Path) -> None:
    cluster = start_cluster(tmp_path, runner="process")
    rig = WatcherRig(redis_url, cluster, tmp_path, "default")
    container = {"name": "base", "image": "any", "command": ["sh", "-c", "echo last words"]}

    def request(*requests: str) -> None:
        rig.redis.eval(*arguments(request_logs(rig.names, cluster="default", requests=requests)))

    def tails(launch: Launch) -> list[tuple[str, ...]]:
        return [result.log_tail for result in rig.results(launch) if result.outcome == "log"]

    async def test() -> None:
        rig.start()
        await until(lambda: rig.watch().get("t_listed"), 60)
        launch = rig.launch(spec={"containers": [container]})
        end = await until(lambda: rig.end_of(launch), 20)
        assert (end.outcome, end.log_tail) == ("succeeded", ())
        ledger = rig.ledger(launch)
        foreign = PayloadCipher(Fernet.generate_key().decode(), rig.settings.deployment)
        request("no request", foreign.requests.encrypt(end.encode()), rig.cipher.requests.encrypt(end.encode()))
        await until(lambda: tails(launch), 20)
        assert tails(launch) == [("last words",)]
        assert rig.ledger(launch) == ledger, "the end stays as it was reported"
        rig.redis.set(rig.names.log_requests("default"), "not a list")
        await until(lambda: not rig.redis.exists(rig.names.log_requests("default")), 20)
        rig.redis.hset(rig.names.launch(launch.launch_id), "state", "acknowledged")
        gone = rig.launch(spec={"containers": [container]})
        ended = await until(lambda: rig.end_of(gone), 20)
        rig.vanish(gone)
        request(rig.cipher.requests.encrypt(end.encode()), rig.cipher.requests.encrypt(ended.encode()))
        await until(lambda: tails(gone), 20)
        assert "log not available" in tails(gone)[0][0]
        assert len(tails(launch)) == 1, "nobody waits for it any more"
        assert rig.processes[0].poll() is None

    try:
        run(test())
    finally:
        rig.close()
        cluster.close()


def arguments(call: ScriptCall) -> tuple[Any, ...]:
    return script(call.name).text, len(call.keys), *call.keys, *call.args
