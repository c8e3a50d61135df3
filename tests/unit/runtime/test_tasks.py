"""Tasks that end together, and the log line that names the one that failed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from podrelay_workers.runtime.tasks import TaskSupervisor, cancel_and_wait


async def forever(ended: list[str], name: str) -> None:
    try:
        await asyncio.sleep(30)
    finally:
        ended.append(name)


async def fails(error: Exception) -> None:
    raise error


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 5))


@pytest.mark.parametrize("background", [False, True])
def test_a_failed_task_is_named_and_ends_the_others(background: bool, caplog: pytest.LogCaptureFixture) -> None:
    ended: list[str] = []

    async def test() -> None:
        with pytest.raises(ValueError, match="no more"):
            async with TaskSupervisor() as tasks:
                tasks.start("first", forever(ended, "first"))
                tasks.start_background("second", forever(ended, "second"))
                (tasks.start_background if background else tasks.start)("renew leases", fails(ValueError("no more")))
                await tasks.wait()
        assert sorted(ended) == ["first", "second"]

    run(test)
    assert "Task 'renew leases' failed (ValueError: no more)" in caplog.text


def test_an_expected_error_is_raised_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        with pytest.raises(KeyError):
            async with TaskSupervisor(KeyError) as tasks:
                tasks.start("lead", fails(KeyError()))
                await tasks.wait()

    with caplog.at_level(logging.DEBUG, "podrelay_workers"):
        run(test)
    assert not caplog.text


def test_a_loop_that_ends_without_an_error_ends_the_wait() -> None:
    ended: list[str] = []

    async def test() -> None:
        async with TaskSupervisor() as tasks:
            tasks.start("other", forever(ended, "other"))
            tasks.start_background("short", asyncio.sleep(0))
            tasks.start("shutdown", asyncio.sleep(0.05))
            await tasks.wait()
            assert not ended
        assert ended == ["other"]

    run(test)


def test_cancel_and_wait_repeats_a_cancellation_that_was_lost() -> None:
    async def test() -> None:
        async def stubborn() -> None:
            for _ in range(2):
                try:
                    await asyncio.sleep(30)
                except asyncio.CancelledError:
                    continue

        task = asyncio.create_task(stubborn(), name="stubborn")
        await asyncio.sleep(0)
        await cancel_and_wait(task, again_s=0.01)
        assert task.done()

    run(test)
