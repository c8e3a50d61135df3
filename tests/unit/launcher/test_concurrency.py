"""How many creations are sent at once, and how many jobs are held."""

from __future__ import annotations

import asyncio

from podrelay_workers.launcher.concurrency import Concurrency


def used(concurrency: Concurrency, latency_s: float, times: int = 1) -> None:
    """Answers while every slot is in use."""
    concurrency._sending = concurrency.limit
    for _ in range(times):
        concurrency.succeeded(latency_s)


def test_concurrency_doubles_while_latency_is_flat_up_to_the_ceiling() -> None:
    concurrency = Concurrency(64, start=8)
    for _ in range(3):
        used(concurrency, 0.05, concurrency.limit)
    assert concurrency.limit == 64


def test_concurrency_does_not_grow_with_latency_nor_without_load() -> None:
    slow = Concurrency(1000, start=100)
    used(slow, 0.05)
    used(slow, 0.5, 1000)
    assert slow.limit < 130
    idle = Concurrency(1000, start=100)
    for _ in range(1000):
        idle.succeeded(0.05)
    assert idle.limit == 100


def test_concurrency_halves_once_for_requests_that_failed_together_and_never_below_one() -> None:
    concurrency = Concurrency(64, start=64)
    for number in range(10):
        concurrency.failed(99.0 + number / 100, 100.0 + number / 100)
    assert concurrency.limit == 32
    concurrency.failed(99.9, 120.0)
    assert concurrency.limit == 32, "sent before, answered late"
    concurrency.failed(120.1, 120.2)
    assert concurrency.limit == 16, "after a pause, however short"
    for second in range(121, 130):
        concurrency.failed(float(second), second + 0.1)
    assert (concurrency.limit, concurrency.free) == (1, 1)


def test_the_limit_holds_and_a_cancelled_waiter_passes_its_slot_on() -> None:
    concurrency = Concurrency(8, start=8)
    most, sent = 0, 0

    async def send() -> None:
        nonlocal most, sent
        async with concurrency.slot():
            most = max(most, concurrency._sending)
            await asyncio.sleep(0)
            sent += 1

    async def scenario() -> None:
        tasks = [asyncio.create_task(send(), name=f"send {number}") for number in range(100)]
        await asyncio.sleep(0)
        for task in tasks[20:40]:
            task.cancel()
        concurrency.failed(0.0, 0.1)
        await asyncio.wait(tasks)

    asyncio.run(scenario())
    assert (most, sent, concurrency._sending) == (8, 80, 0)


def test_a_quarter_more_jobs_are_held_than_sent() -> None:
    concurrency = Concurrency(64, start=64)
    assert concurrency.free == 80
    concurrency.in_flight = 80
    assert concurrency.free == 0
