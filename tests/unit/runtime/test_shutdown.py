"""The shutdown event: waits that end with it, work that races it, signals that set it."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from podrelay_workers.runtime import state_signals
from podrelay_workers.runtime.shutdown import Shutdown, ShutdownRequested


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
        with pytest.raises(ShutdownRequested):  # a request made before the race counts
            await shutdown.race(work(30.0))
        assert time.monotonic() - began < 5

    asyncio.run(test())


def test_sigusr1_logs_the_state_and_sighup_is_ignored(caplog: pytest.LogCaptureFixture) -> None:
    """Neither ends the process, before, during or after the handling."""

    async def test() -> None:
        shutdown = Shutdown()
        with shutdown.on_signals():
            os.kill(os.getpid(), signal.SIGUSR1)
            await asyncio.sleep(0.01)
            shutdown.describe = lambda: [f"line {number}" for number in range(60)]
            os.kill(os.getpid(), signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGHUP)
            await asyncio.sleep(0.01)
            shutdown.describe = lambda: [str(1 // len([]))]
            os.kill(os.getpid(), signal.SIGUSR1)
            await asyncio.sleep(0.01)
            assert not shutdown.requested

    before = {number: signal.getsignal(number) for number in state_signals.SIGNALS}
    try:
        state_signals.ignore_while_starting()
        os.kill(os.getpid(), signal.SIGHUP)
        with caplog.at_level("INFO"):
            asyncio.run(test())
        os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert caplog.messages[:2] == ["State: starting", "State: line 0"]
    assert caplog.messages.count("State: and 10 lines more") == 1
    assert [line for line in caplog.messages if line.startswith("Ignored SIGHUP")]
    assert caplog.messages[-1] == "Cannot describe the state"


def test_race_raises_the_error_of_its_work() -> None:
    async def test() -> None:
        async def fails() -> None:
            raise ValueError

        with pytest.raises(ValueError):
            await Shutdown().race(fails())

    asyncio.run(test())


def test_cancelling_a_race_ends_its_work() -> None:
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


def test_the_first_signal_requests_shutdown_and_the_second_has_its_default_effect() -> None:
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
