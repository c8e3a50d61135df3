"""rq-dashboard as `airflow podrelay dashboard` serves it, in a real browser: its pages, and that its buttons are safe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from playwright.sync_api import Browser, Locator, Page, expect

from demo.stack import USER, Stack
from podrelay.protocol.redis_keys import RQ_SUSPENDED, RedisKeys
from tests.end_to_end.stack_rig import Run, StackRig
from tests.harness.browser import Window, window

pytestmark = pytest.mark.timeout(600)

FIRST = RedisKeys().launch_queue("default")
# A task that another one follows has the weight 2.
QUEUE = RedisKeys().launch_queue("default", 1)


@pytest.fixture
def dashboard(browser: Browser, stack: Stack) -> Iterator[Window]:
    """The first page, of somebody who has logged in."""
    login = {"username": USER, "password": stack.password}
    with window(browser, http_credentials=login) as opened:
        opened.page.goto(stack.dashboard_url)
        yield opened
        assert opened.complaints == []


@pytest.fixture
def client(stack: Stack) -> Iterator[Any]:
    with redis.Redis.from_url(stack.redis_url, decode_responses=True) as connected:
        yield connected
        connected.delete(RQ_SUSPENDED)


def jobs(page: Page, stack: Stack, registry: str) -> Locator:
    """The rows of one registry of our queue."""
    page.goto(f"{stack.dashboard_url}/0/view/jobs/{QUEUE}/{registry}/8/asc/1")
    expect(page.locator("#jobs [data-role=loading-placeholder]")).to_have_count(0)
    return page.locator("#jobs tr[data-role=job]")


def confirmed(page: Page, button: Locator) -> None:
    """Click it, and then Yes."""
    button.click()
    with page.expect_response(lambda answer: answer.request.method == "POST") as answered:
        page.locator("#confirmation-modal-yes").click()
    assert answered.value.ok
    expect(page.locator("#confirmation-modal")).to_be_hidden()


def is_in_state(run: Run, client: Any, state: str) -> bool:
    """Has a launch of the run this state in the ledger?"""
    return any(client.hget(RedisKeys().launch(launch.launch_id), "state") == state for launch in run.launches())


def is_queued(run: Run, client: Any) -> bool:
    return any(client.hget(f"rq:job:{launch.launch_id}_0", "status") == "queued" for launch in run.launches())


def succeed(run: Run) -> None:
    """Wait for the first task, which is what a test is about; the run goes on by itself."""
    run.rig.until("the task succeeds", lambda: any(task.state == "success" for task in run.tasks()))


def test_its_login_is_asked_for(browser: Browser, stack: Stack) -> None:
    with window(browser) as opened:
        assert opened.page.request.get(stack.dashboard_url + "/0/view/queues").status == 401


def test_queues_and_workers(rig: StackRig, dashboard: Window, client: Any) -> None:
    page = dashboard.page
    page.get_by_role("link", name="Jobs").click()
    expect(page.locator("#select-queue")).to_have_value(FIRST)
    rig.cluster.faults({"verbs": ["create"], "resource": "pods", "name_prefix": "spread", "latency_s": 3.0})
    run = rig.trigger("spread", count=1, seconds=0.0)
    rig.until("a launcher is busy", lambda: is_in_state(run, client, "claimed"))
    page.goto(f"{rig.stack.dashboard_url}/0/view/workers")
    workers = page.locator("#workers tr[data-role=worker]")
    expect(workers).to_have_count(2)
    expect(workers.first).to_contain_text(QUEUE)
    expect(jobs(page, rig.stack, "started").first).to_contain_text("spread.")
    page.get_by_role("link", name="Queues").click()
    names = page.locator("#queues tr[data-role=queue] td:first-child")
    expect(names.filter(has_text=QUEUE)).to_be_visible()
    assert all(name.startswith("podrelay.default.") for name in names.all_inner_texts())
    rig.cluster.faults()
    succeed(run)


def test_a_waiting_job_shows_why_it_waits(rig: StackRig, dashboard: Window, client: Any) -> None:
    refused = {"verbs": ["create"], "resource": "pods", "name_prefix": "spread", "status": 403, "reason": "Forbidden"}
    rig.cluster.faults(
        {**refused, "message": "exceeded quota: tasks, requested: pods=1, used: pods=9, limited: pods=9"}
    )
    run = rig.trigger("spread", count=1, seconds=0.0)
    rig.until("the launch waits", lambda: is_in_state(run, client, "waiting"))
    page = dashboard.page
    waiting = jobs(page, rig.stack, "scheduled")
    expect(waiting.first).to_contain_text("spread.numbers try 1")
    waiting.first.get_by_role("link").first.click()
    expect(page.locator("#job-data")).to_contain_text('"waits_for": "QuotaExceeded"')
    expect(page.locator("#job-data")).to_contain_text("exceeded quota: tasks")
    rig.cluster.faults()
    succeed(run)


def test_deleting_and_emptying_lose_no_task(rig: StackRig, dashboard: Window, client: Any) -> None:
    client.set(RQ_SUSPENDED, 1)
    run = rig.trigger("spread", count=1, seconds=0.0)
    rig.until("the launch is queued", lambda: is_queued(run, client))
    page = dashboard.page
    rows = jobs(page, rig.stack, "queued")
    confirmed(page, rows.filter(has_text="spread.").first.get_by_role("link", name="Delete"))
    expect(rows).to_have_count(0)
    rig.until("the launch is offered again", lambda: is_queued(run, client))
    expect(jobs(page, rig.stack, "queued").first).to_contain_text("spread.")
    confirmed(page, page.get_by_role("link", name="Empty queue"))
    expect(page.locator("#jobs")).to_contain_text("No jobs.")
    client.delete(RQ_SUSPENDED)
    succeed(run)
    assert run.pods_made()["numbers", 1] == 1


def test_a_failed_job_that_is_requeued_makes_no_second_pod(rig: StackRig, dashboard: Window, client: Any) -> None:
    refused = {"verbs": ["create"], "resource": "pods", "name_prefix": "spread", "status": 422, "reason": "Invalid"}
    rig.cluster.faults({**refused, "message": "spec.containers[0].image: Required value"})
    run = rig.trigger("spread", count=1, seconds=0.0)
    assert run.finish() == "failed"
    rig.cluster.faults()
    page = dashboard.page
    failed = jobs(page, rig.stack, "failed").filter(has_text=run.run_id)
    expect(failed).to_contain_text("image: Required value")
    with page.expect_response(
        lambda answer: answer.request.method == "POST"
    ) as answered:  # it asks for no confirmation
        failed.get_by_role("link", name="Requeue").click()
    assert answered.value.ok
    (launch,) = run.launches()
    rig.until("the job is dropped", lambda: client.hget(f"rq:job:{launch.launch_id}_0", "status") == "canceled")
    assert sum(run.pods_made().values()) == 0
    assert run.state() == "failed"
