"""Launchers, watcher and scheduler of an earlier build beside today's on one queue: an upgrade under load, and the way back.

One process at a time is replaced while tasks run, first to today's build, workers before the scheduler, then back in the
same order. So an old scheduler works with new workers, a new scheduler with old ones, and launchers of both share a queue.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

import podrelay
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.store.overview import read_overview
from tests.chaos.judge import Judgement, judge, leftovers, refused, unfinished
from tests.chaos.rig import Rig
from tests.harness.earlier_build import EarlierProcess, unpack
from tests.harness.redis_server import find_server

WORKERS = ("launcher-1", "launcher-2", "watcher-1")
AT_A_TIME = 12


class MixedRig(Rig):
    """A deployment whose processes are of the earlier build, or of today's."""

    def __init__(self, tree: Path) -> None:
        super().__init__(drivers=1, launchers=2, watchers=1, sqlite=True)
        self._tree = tree
        self.earlier = {*WORKERS, "driver-1"}
        # The build of each process, by its id.
        self.pids: dict[int, str] = {}

    def launch(self, name: str) -> None:
        member = self.members[name]
        if name in self.earlier:
            log = self.folder / f"{name}.log"
            member.process = EarlierProcess(self._tree, member.role, member.environment, log)
            member.starts += 1
        else:
            super().launch(name)
        assert member.process is not None
        self.pids[member.process.pid or 0] = "earlier" if name in self.earlier else "today"

    def replace(self, name: str) -> None:
        """End a process as its supervisor does, and start that of the other build."""
        process = self.members[name].process
        assert process is not None
        if self.members[name].role != "driver":
            self.signal(name, signal.SIGTERM)
            process.join(20)
            assert not process.is_alive()
        self.kill(name)
        self.earlier ^= {name}
        self.launch(name)

    def shown_launchers(self) -> list[Any]:
        """The versions of the launchers that `airflow podrelay status` of today shows; None for one that writes none."""
        found = read_overview(redis.Redis.from_url(self.redis.url), RedisKeys(), "default", time.time())
        return [launcher["version"] for launcher in found["launchers"] if launcher["alive"]]

    def has_begun(self, tasks: list[str]) -> bool:
        return any(state != "scheduled" for state, _ in self.rows.states(tasks).values())

    def builds_that_launched(self, tasks: list[str]) -> set[str]:
        """Of the launchers that made the pods of these tasks."""
        client, found = self.client(), set()
        for key in client.scan_iter("podrelay:default:launch:*", count=1000):
            subject, launcher = client.hmget(key, "subject", "launcher")
            if subject in tasks:
                found.add(self.pids[int(str(launcher).split("-")[-2])])
        return found


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[MixedRig]:
    find_server()
    tree = unpack(tmp_path / "earlier")
    before = dict(os.environ)
    rig = MixedRig(tree)
    try:
        rig.start()
        yield rig
    finally:
        rig.stop()
        os.environ.clear()
        os.environ.update(before)


@pytest.mark.timeout(300)
def test_an_upgrade_and_the_way_back_lose_nothing_and_run_nothing_twice(rig: MixedRig) -> None:
    for name in rig.earlier:
        assert "earlier/executor/podrelay/" in (rig.folder / f"{name}.log").read_text().splitlines()[0]
    tasks = rig.make_tasks(10 * AT_A_TIME, "mixed_builds")
    waiting = list(tasks)

    def schedule() -> list[str]:
        """The next tasks become ready."""
        batch, waiting[:AT_A_TIME] = waiting[:AT_A_TIME], []
        rig.rows.schedule(batch)
        return batch

    def run_all() -> set[str]:
        """A batch from its start to its end; of which build its launchers were."""
        batch = schedule()
        rig.until(lambda: not unfinished(rig, batch), 60, "the end of a batch")
        return rig.builds_that_launched(batch)

    def replace(*names: str) -> None:
        """Replace each of these while a batch is under way."""
        for name in names:
            batch = schedule()
            rig.until(lambda batch=batch: rig.has_begun(batch), 30, "work")  # type: ignore[misc]
            rig.replace(name)

    replace(*WORKERS)
    assert run_all() == {"today"}  # an old scheduler and new workers
    rig.until(lambda: rig.shown_launchers() == [podrelay.__version__] * 2, 30, "both launchers")
    replace("driver-1", *WORKERS)
    assert run_all() == {"earlier"}  # a new scheduler and old workers
    rig.until(lambda: rig.shown_launchers() == [None, None], 30, "both launchers")
    rig.rows.schedule(waiting)

    rig.until(lambda: not unfinished(rig, tasks), 90, "the end of all tasks")
    with contextlib.suppress(TimeoutError):
        rig.until(lambda: not leftovers(rig, tasks), 60, "nothing left over")
    assert leftovers(rig, tasks) == []
    verdict = Judgement("mixed builds", 0, len(tasks))
    judge(rig, tasks, rig.cluster.audit(), 0.0, verdict, limit_s=30.0)
    assert verdict.wrong + refused(rig, 0) == []
    assert rig.client().xlen("podrelay:default:quarantine") == 0
