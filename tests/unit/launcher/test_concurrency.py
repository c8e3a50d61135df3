"""How many requests are sent at once, of which kind, and how many jobs are held."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from podrelay_workers.launcher.concurrency import HOLD_FIRST_S, HOLD_MOST_S, Concurrency, JobSlots
from podrelay_workers.launcher.leased_job import Kind


@pytest.fixture(scope="module", autouse=True)
def _loop() -> Iterator[None]:
    """A slot is a context of an event loop; that of the tests which fill slots without one."""
    _LOOP.append(asyncio.new_event_loop())
    yield
    _LOOP.pop().close()


_LOOP: list[asyncio.AbstractEventLoop] = []


@contextmanager
def full(concurrency: Concurrency, kind: Kind = "launch") -> Iterator[int]:
    """Every slot in use; how many that are."""
    (loop,) = _LOOP
    slots = []
    while concurrency.sending < concurrency.limit_of(kind):
        slots.append(concurrency.slot(kind))
        loop.run_until_complete(slots[-1].__aenter__())
    yield concurrency.sending
    for slot in slots:
        loop.run_until_complete(slot.__aexit__(None, None, None))


def answer(concurrency: Concurrency, latency_s: float = 0.05, at_s: float = 1000.0, kind: Kind = "launch") -> None:
    concurrency.succeeded(kind, at_s - latency_s, at_s)


def use(concurrency: Concurrency, latency_s: float = 0.05, times: int = 1, at_s: float = 1000.0) -> None:
    """Answers while every slot is in use."""
    for _ in range(times):
        with full(concurrency):
            answer(concurrency, latency_s, at_s)


def refuse(concurrency: Concurrency, seats: int, at_s: float) -> None:
    """All slots are in use; the server takes so many of these requests and refuses the others."""
    with full(concurrency) as sent:
        for number in range(max(0, sent - seats)):
            concurrency.failed(at_s - 0.05, at_s + number / 10_000, refused=True)


def test_the_limit_doubles_while_latency_is_flat_up_to_the_most_of_both_kinds() -> None:
    concurrency = Concurrency(64, 16, start=8)
    for _ in range(3):
        use(concurrency, times=concurrency.limit)
    assert concurrency.limit == 64
    use(concurrency, times=200)
    assert (concurrency.limit, concurrency.limit_of("launch"), concurrency.limit_of("cleanup")) == (80, 64, 16)


def test_the_limit_does_not_grow_with_latency_nor_without_load() -> None:
    slow = Concurrency(1000, 16, start=20)
    use(slow, 0.05)
    use(slow, 0.5, 200)
    assert slow.limit < 26
    idle = Concurrency(1000, 16, start=100)
    for _ in range(1000):
        answer(idle)
    assert idle.limit == 100


def test_clean_ups_that_are_answered_faster_do_not_make_launches_look_slow() -> None:
    concurrency = Concurrency(64, 16, start=16)
    for _ in range(20):
        with full(concurrency):
            answer(concurrency, 0.002, kind="cleanup")
            answer(concurrency, 0.4)
    assert concurrency.limit > 32


def test_the_limit_halves_once_for_requests_that_failed_together_and_never_below_one() -> None:
    concurrency = Concurrency(64, 16, start=64)
    for number in range(10):
        concurrency.failed(99.0 + number / 100, 100.0 + number / 100)
    assert concurrency.limit == 32
    concurrency.failed(99.9, 120.0)
    assert concurrency.limit == 32, "sent before, answered late"
    concurrency.failed(120.1, 120.2)
    assert concurrency.limit == 16, "after a pause, however short"
    for second in range(121, 130):
        concurrency.failed(float(second), second + 0.1)
    assert (concurrency.limit, JobSlots(concurrency, "launch").free) == (1, 3)


# --- refused for now (429) ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seats", [1, 2, 5, 7])
def test_one_round_of_refusals_shows_how_many_the_server_takes(seats: int) -> None:
    concurrency = Concurrency(64, 16)
    refuse(concurrency, seats, 100.0)
    assert concurrency.limit == seats


def test_a_request_that_was_stopped_does_not_count_as_accepted() -> None:
    concurrency = Concurrency(64, 16, start=10)
    with full(concurrency):
        for _ in range(4):
            concurrency.failed(99.9, 100.0, refused=True)
        for _ in range(3):
            concurrency.stopped(99.9)
        concurrency.stopped(100.1)
    assert concurrency.limit == 3


def test_the_limit_returns_at_once_to_what_was_accepted_and_stays_there() -> None:
    concurrency = Concurrency(64, 16, start=6)
    refuse(concurrency, 5, 100.0)
    assert concurrency.limit == 3, "halved"
    use(concurrency, times=3, at_s=101.0)
    assert concurrency.limit == 5
    use(concurrency, times=500, at_s=100.0 + HOLD_FIRST_S - 1)
    assert concurrency.limit == 5
    use(concurrency, times=6, at_s=100.0 + HOLD_FIRST_S + 1)
    assert concurrency.limit == 6


def test_tries_that_are_refused_again_become_rarer_and_a_server_that_takes_more_is_tried_sooner() -> None:
    concurrency = Concurrency(64, 16, start=6)
    at_s, holds = 100.0, []
    for _ in range(5):
        refuse(concurrency, 5, at_s)
        refused_s = at_s
        while concurrency.limit < 6:
            at_s += 0.5
            use(concurrency, times=6, at_s=at_s)
        holds.append(at_s - refused_s)
    assert holds == pytest.approx([10.0, 20.0, 40.0, 60.0, 60.0], abs=1.0)
    assert holds[-1] <= HOLD_MOST_S + 1.0
    use(concurrency, times=200, at_s=at_s)
    assert concurrency.limit > 15
    refuse(concurrency, 12, at_s + 1.0)
    use(concurrency, times=20, at_s=at_s + 2.0)
    assert concurrency.limit == 12
    use(concurrency, times=20, at_s=at_s + 2.0 + HOLD_FIRST_S)
    assert concurrency.limit > 12


def test_a_process_whose_only_request_is_refused_leaves_the_server_to_the_others_for_longer_each_time() -> None:
    """Two launchers may share one seat: no limit is low enough for both."""
    concurrency = Concurrency(64, 16, start=2)
    assert concurrency.failed(99.9, 100.0, refused=True) == 0.0
    quiets = [concurrency.failed(at_s, at_s + 0.1, refused=True) for at_s in (101.0, 104.0, 110.0, 120.0, 140.0)]
    for quiet_s, expected_s in zip(quiets, (2.0, 4.0, 8.0, 15.0, 15.0), strict=True):
        assert expected_s / 2 <= quiet_s <= expected_s * 1.5
    assert concurrency.failed(150.0, 150.1) == 0.0, "not refused: it failed"
    assert concurrency.failed(202.0, 202.1, refused=True) <= 3.0, "that was long ago"


def test_a_failing_server_does_not_make_forget_what_was_accepted() -> None:
    concurrency = Concurrency(64, 16, start=10)
    refuse(concurrency, 8, 100.0)
    concurrency.failed(101.0, 101.1)
    assert concurrency.limit == 2
    use(concurrency, times=50, at_s=102.0)
    assert concurrency.limit == 8


# --- slots --------------------------------------------------------------------------------------------------------------
def test_the_limit_holds_and_a_cancelled_waiter_passes_its_slot_on() -> None:
    concurrency = Concurrency(8, 16, start=8)
    most, sent = 0, 0

    async def send() -> None:
        nonlocal most, sent
        async with concurrency.slot("launch"):
            most = max(most, concurrency.sending)
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
    assert (most, sent, concurrency.sending) == (8, 80, 0)


def test_a_waiter_that_is_cancelled_when_admitted_passes_its_slot_on() -> None:
    concurrency = Concurrency(1, 1, start=1)

    async def scenario() -> None:
        async with concurrency.slot("launch"):
            admitted = asyncio.create_task(hold(), name="admitted")
            next_one = asyncio.create_task(hold(), name="next")
            await asyncio.sleep(0)
        admitted.cancel()
        await asyncio.wait_for(next_one, 5)

    async def hold() -> None:
        async with concurrency.slot("launch"):
            pass

    asyncio.run(scenario())
    assert concurrency.sending == 0


@pytest.mark.parametrize("limit", [1, 4])
def test_launches_come_first_and_each_fourth_slot_is_a_clean_ups(limit: int) -> None:
    concurrency = Concurrency(64, 16, start=limit)
    order: list[Kind] = []

    async def send(kind: Kind) -> None:
        async with concurrency.slot(kind):
            order.append(kind)
            await asyncio.sleep(0)

    async def scenario() -> None:
        kinds: list[Kind] = [*["cleanup"] * 20, *["launch"] * 40]  # type: ignore[list-item]
        async with concurrency.slot("launch"):
            concurrency.failed(0.0, 0.0)  # one slot, which is in use
            tasks = [asyncio.create_task(send(kind), name=str(kind)) for kind in kinds]
            await asyncio.sleep(0)
        await asyncio.wait(tasks)

    asyncio.run(scenario())
    begun = order if limit == 1 else order[4:]
    assert begun[:36].count("cleanup") == 9
    assert sorted(order) == ["cleanup"] * 20 + ["launch"] * 40


def test_neither_kind_takes_more_than_its_own_part() -> None:
    concurrency = Concurrency(4, 2, start=6)
    most: dict[Kind, int] = {"launch": 0, "cleanup": 0}
    now: dict[Kind, int] = {"launch": 0, "cleanup": 0}

    async def send(kind: Kind) -> None:
        async with concurrency.slot(kind):
            now[kind] += 1
            most[kind] = max(most[kind], now[kind])
            await asyncio.sleep(0)
            now[kind] -= 1

    async def scenario() -> None:
        kinds: list[Kind] = ["cleanup", "launch"] * 20
        await asyncio.gather(*(send(kind) for kind in kinds))

    asyncio.run(scenario())
    assert most == {"launch": 4, "cleanup": 2}


def test_half_as_many_more_jobs_are_held_than_sent() -> None:
    concurrency = Concurrency(64, 16, start=64)
    slots = JobSlots(concurrency, "launch")
    assert (slots.free, JobSlots(concurrency, "cleanup").free) == (96, 32)
    slots.in_flight = 96
    assert slots.free == 0


@pytest.mark.parametrize(("kind", "first"), [("launch", 16), ("cleanup", 8)])
def test_jobs_are_claimed_together_and_no_request_waits_for_a_claim(kind: Kind, first: int) -> None:
    concurrency = Concurrency(64, 16, start=64)
    slots = JobSlots(concurrency, kind)
    most = slots.free
    assert slots.claimable == most
    for slots.in_flight in range(most, 0, -1):
        free = most - slots.in_flight
        assert slots.claimable == (free if free >= first else 0)
        assert slots.claimable or slots.in_flight > concurrency.limit_of(kind), "enough are held to send"


def test_a_single_request_at_a_time_is_claimed_for() -> None:
    slots = JobSlots(Concurrency(1, 1, start=1), "launch")
    assert slots.claimable == 3
    slots.in_flight = 2
    assert slots.claimable == 1
    slots.in_flight = 3
    assert slots.claimable == 0
