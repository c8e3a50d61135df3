"""What launchers and watchers cost before they have work: memory, and the way from process start to the first claim."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from typing import Any

import redis

from tests.benchmarks.builds import EXECUTOR, Build
from tests.benchmarks.figures import medians
from tests.benchmarks.parts import HAND_OVER, Bench
from tests.benchmarks.processes import cost_of
from tests.benchmarks.rig import READY_MOST_S, Rig, costs

Json = dict[str, Any]

SETTLED_S = 5.0
_POLL_S = 0.002


def memory(bench: Bench) -> Json:
    """Resident memory of a launcher and a watcher (children included) some seconds after both are ready, and after they
    have worked.
    """
    found: dict[str, list[Json]] = {}
    for turn in range(bench.rounds):
        for build in bench.builds(turn):
            with bench.rig(build=build) as rig, rig.workers(1) as pids:
                time.sleep(SETTLED_S)
                idle = costs(pids)
                rig.drive(EXECUTOR, bench.tasks)
                rig.await_observed("deleted", "", bench.tasks)
                time.sleep(SETTLED_S)
                after = costs(pids)
            for name, process in (("launcher 1", "launcher"), ("watcher", "watcher")):
                run = {"idle_mb": idle[name]["memory_mb"], "after_mb": after[name]["memory_mb"]}
                found.setdefault(f"{build.label}, {process}", []).append(run)
    rows = [{"name": name, **medians(runs)} for name, runs in found.items()]
    return {"tasks": bench.tasks, "settled_s": SETTLED_S, "rounds": bench.rounds, "rows": rows}


def start(bench: Bench) -> Json:
    """From the start of a launcher's process to its first claim, of a launch that waits already.

    By the command that a build recommends, and by Airflow's command line, which is all that earlier builds have.
    """
    found: dict[str, list[Json]] = {}
    for turn in range(bench.rounds):
        for build in bench.builds(turn):
            recommended, by_airflow = build.worker("launcher"), build.worker_by_airflow("launcher")
            runs = found.setdefault(f"{build.label}, launcher", [])
            runs.append(_start(bench, build, recommended))
            again = runs[-1] if by_airflow == recommended else _start(bench, build, by_airflow)
            found.setdefault(f"{build.label}, launcher by Airflow's command line", []).append(again)
    rows = [{"name": name, **medians(runs)} for name, runs in found.items()]
    return {"rounds": bench.rounds, "rows": rows}


def _start(bench: Bench, build: Build, command: Sequence[str]) -> Json:
    with bench.rig(build=build, observe=False) as rig, (rig.folder / "launcher.log").open("ab") as log:
        rig.drive(EXECUTOR, 1, *HAND_OVER)
        waiting = _Waiting(rig)
        environment = rig.environment()
        began_s = time.monotonic()
        process = subprocess.Popen(command, cwd=build.root, env=environment, stdout=log, stderr=log)
        try:
            waiting.await_claim(process)
            return {"wall_s": time.monotonic() - began_s, "cpu_s": cost_of(process.pid)["cpu_s"]}
        finally:
            process.terminate()
            process.wait(30)


class _Waiting:
    """The launches that wait in Redis, in whichever queues a build keeps them."""

    def __init__(self, rig: Rig) -> None:
        self._log = rig.folder / "launcher.log"
        self._client = redis.Redis.from_url(rig.redis.url)
        names = self._client.keys("rq:queue:*")
        self._queues = [name for name in names if self._client.type(name) == b"list"]
        if not self._count():
            raise RuntimeError(f"no launch waits in {names}")

    def _count(self) -> int:
        pipeline = self._client.pipeline(transaction=False)
        for name in self._queues:
            pipeline.llen(name)
        return sum(pipeline.execute())

    def await_claim(self, process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + READY_MOST_S
        while self._count():
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the launcher claimed nothing:\n{self._log.read_text()[-4000:]}")
            time.sleep(_POLL_S)
        self._client.close()
