"""Waiting times and the stop event."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from podrelay_workers.runtime.backoff import Backoff, exponential_s
from podrelay_workers.runtime.shutdown import Shutdown, ShutdownRequested, end


@pytest.mark.parametrize(("failures", "expected"), [(0, 0.5), (1, 0.5), (2, 1.0), (3, 2.0), (7, 30.0), (10_000, 30.0)])
def test_exponential(failures: int, expected: float) -> None:
    assert exponential_s(failures, 0.5, 30.0, lambda: 1.0) == expected
    assert exponential_s(failures, 0.5, 30.0, lambda: 0.0) == expected / 2


def test_only_what_failed_resets_its_wait() -> None:
    waits = Backoff(1.0, 60.0, lambda: 1.0)
    assert [waits.failed("watch"), waits.failed("watch"), waits.failed("list")] == [1.0, 2.0, 1.0]
    waits.worked("list")
    assert waits.failed("watch") == 4.0
    waits.worked("watch")
    assert waits.failed("watch") == 1.0
    assert waits.failed("watch", at_least_s=20.0) == 20.0


def test_race_and_wait() -> None:
    async def test() -> None:
        shutdown, ended = Shutdown(), []

        async def work(seconds: float) -> int:
            try:
                await asyncio.sleep(seconds)
            finally:
                ended.append(seconds)
            return 3

        assert await shutdown.race(work(0.0)) == 3
        assert not await shutdown.wait(0.01)
        asyncio.get_running_loop().call_later(0.05, shutdown.request)
        began = time.monotonic()
        with pytest.raises(ShutdownRequested):
            await shutdown.race(work(30.0))
        assert ended == [0.0, 30.0]
        assert await shutdown.wait(30.0)
        with pytest.raises(ShutdownRequested):  # a stop from before is not lost
            await shutdown.race(work(30.0))
        assert time.monotonic() - began < 5

    asyncio.run(test())


def test_errors_come_through_a_race() -> None:
    async def test() -> None:
        async def fails() -> None:
            raise ValueError

        with pytest.raises(ValueError):
            await Shutdown().race(fails())

    asyncio.run(test())


def test_a_cancelled_race_ends_its_work() -> None:
    async def test() -> None:
        ended = asyncio.Event()

        async def work() -> None:
            try:
                await asyncio.sleep(30)
            finally:
                ended.set()

        race = asyncio.ensure_future(Shutdown().race(work()))
        await asyncio.sleep(0.01)
        race.cancel()
        await asyncio.gather(race, return_exceptions=True)
        assert ended.is_set()

    asyncio.run(test())


def test_the_first_signal_stops_and_the_second_is_as_ever() -> None:
    async def test() -> None:
        shutdown = Shutdown()
        with shutdown.on_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            assert await shutdown.wait(5)
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        shutdown = Shutdown()
        with shutdown.on_signals():
            os.kill(os.getpid(), signal.SIGINT)
            assert await shutdown.wait(5)
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    asyncio.run(test())


def test_end_insists() -> None:
    async def test() -> None:
        async def stubborn() -> None:
            for _ in range(2):
                try:
                    await asyncio.sleep(30)
                except asyncio.CancelledError:
                    continue

        task = asyncio.ensure_future(stubborn())
        await asyncio.sleep(0)
        await end(task, again_s=0.01)
        assert task.done()

    asyncio.run(test())
