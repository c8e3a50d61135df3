"""podrelay's pages in Airflow's UI, in a real browser: at the root of a server and under a path.

With PODRELAY_SCREENSHOTS=FOLDER, the pictures of the documentation are written there (`make screenshots`).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
import redis
from playwright.sync_api import Browser, FrameLocator, Page, expect

from demo.airflow_api import AirflowApi
from demo.processes import free_ports
from demo.run import TROUBLES_DAG_ID
from demo.stack import USER, Stack
from podrelay.protocol.redis_keys import RedisKeys, rq_scheduled
from tests.end_to_end.stack_rig import Run, StackRig
from tests.harness.browser import Window, window
from tests.harness.made_up_day import write_made_up_day

pytestmark = pytest.mark.timeout(600)

KEYS = RedisKeys()
PATH = "/airflow"
HOSTILE = '</td><img src="x" onerror="document.title=\'executed\'">'
HOSTILE_LAUNCH = "0190d5b2-3c4e-8a1b-9f00-1234567890ab"
PICTURES = os.environ.get("PODRELAY_SCREENSHOTS", "")


@dataclass(frozen=True)
class Server:
    """An API server of the stack, and a token for it."""

    url: str
    token: str

    @property
    def login(self) -> dict[str, object]:
        """The browser's cookie after a login."""
        return {"cookies": [{"name": "_token", "value": self.token, "url": self.url + "/"}]}


@pytest.fixture(scope="module")
def at_path(stack: Stack, browser: Browser) -> Iterator[str]:
    """The URL of another API server of this Airflow, as behind a proxy that gives it a path. It starts meanwhile."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}{PATH}"
    stack.start_api_server("api-server.path", port, {"AIRFLOW__API__BASE_URL": url})
    yield url
    stack.processes.end("api-server.path")


@pytest.fixture(scope="module")
def troubles(stack: Stack, at_path: str) -> Iterator[Run]:
    """A run whose tasks wait and fail for the usual reasons; a wait with a hostile text; a day of figures."""
    rig = StackRig(stack)
    rig.repair()
    write_made_up_day(stack.redis_url, KEYS, time.time())
    stack.make_troubles()
    run = rig.trigger(TROUBLES_DAG_ID)
    queue = KEYS.launch_queue("default")
    with redis.Redis.from_url(stack.redis_url) as client:
        key = json.dumps([HOSTILE, "load", "manual__1", 1, -1])
        fields = {"state": "waiting", "attempt": "0", "cluster": "default", "kind": "task", "key": key, "reason": "Hostile",
                  "message": HOSTILE, "t_offered": f"{time.time()}"}  # fmt: skip
        client.hset(KEYS.launch(HOSTILE_LAUNCH), mapping=fields)  # type: ignore[arg-type]
        if not PICTURES:
            client.zadd(rq_scheduled(queue), {f"{HOSTILE_LAUNCH}_0": time.time() + 300})
        rig.until("a task has failed, and others wait", lambda: _states(run) >= {"failed", "queued", "running"})
        rig.until("the image cannot be pulled", lambda: "ErrImagePull" in str(rig.pods()), 60)
        yield run
        client.zrem(rq_scheduled(queue), f"{HOSTILE_LAUNCH}_0")
        client.delete(KEYS.launch(HOSTILE_LAUNCH))
    run.fail_rest()
    rig.repair()


@pytest.fixture(scope="module")
def root(stack: Stack, troubles: Run) -> Server:
    """The stack's own."""
    return Server(stack.api.url, stack.api.token())


@pytest.fixture(scope="module", params=["root", "path"])
def server(request: pytest.FixtureRequest, root: Server, stack: Stack, at_path: str) -> Server:
    """Both, one after the other."""
    if request.param == "root":
        return root
    api = AirflowApi(at_path, USER, stack.password)
    stack.processes.wait_for("the API server under a path", lambda: bool(api.health()), 120)
    return Server(at_path, api.token())


def _states(run: Run) -> set[str]:
    return {task.state or "" for task in run.tasks()}


def picture(page: Page, name: str, width: int = 1280, height: int = 900) -> None:
    if PICTURES:
        page.mouse.move(0, 0)
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_timeout(1500)
        path = Path(PICTURES) / f"{name}.png"
        page.screenshot(path=path)
        make_small(path)


def make_small(path: Path) -> None:
    """256 colors are enough, and a third of the bytes."""
    from PIL import Image

    with Image.open(path) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def frame(opened: Window) -> FrameLocator:
    return opened.page.frame_locator("iframe[title]")


def look_again(page: Page) -> None:
    """As somebody who returns to the page does: it reads at once what is now."""
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


def check_overview(shown: FrameLocator | Page) -> None:
    """Everything that the overview should say about the stack."""
    tiles = shown.locator("#tiles li")
    expect(tiles).to_have_count(7)
    assert tiles.locator(".title").all_inner_texts()[:4] == ["Waiting", "Starting", "Running", "Ending"]
    expect(shown.locator("#tiles li", has_text="Launchers").locator(".value")).to_have_text("2")
    expect(shown.locator("#tiles li", has_text="Watcher").locator(".value")).to_have_text("leads")
    waits = shown.locator(".card", has_text="What waits")
    expect(waits.locator("tr", has_text="QuotaExceeded")).to_contain_text("exceeded quota")
    expect(waits.locator("tr", has_text="Unschedulable")).to_contain_text(f"{TROUBLES_DAG_ID}.fits_no_node")
    if not PICTURES:
        expect(waits.locator("tr", has_text="Hostile")).to_contain_text(HOSTILE)
    expect(shown.locator(".card", has_text="Queues").first.locator("tbody tr").last).to_contain_text("Clean-up")
    expect(shown.locator(".card", has_text="Launchers").first.locator("tbody tr")).to_have_count(2)
    expect(shown.locator("#panels .panel")).to_have_count(6)
    expect(shown.locator("#panels canvas")).to_have_count(6)
    expect(shown.locator("#panels .panel").first.locator(".summary")).to_contain_text("succeeded")
    expect(shown.locator("#hours tbody tr")).to_have_count(24)
    expect(shown.locator("#notice")).to_be_hidden()
    expect(shown.locator("img")).to_have_count(0)


def test_the_overview_is_found_under_browse_and_leads_to_tasks(browser: Browser, server: Server, troubles: Run) -> None:
    with window(browser, storage_state=server.login) as opened:
        page = opened.page
        page.goto(server.url + "/")
        page.get_by_role("button", name="Browse").click()
        page.get_by_role("menuitem", name="podrelay").click()
        shown = frame(opened)
        check_overview(shown)
        assert page.title() != "executed"
        picture(page, "overview", height=1240)
        shown.get_by_role("link", name=f"{TROUBLES_DAG_ID}.fits_no_node").click()
        page.wait_for_url(f"{server.url}/dags/{TROUBLES_DAG_ID}/runs/*/tasks/fits_no_node")
        page.go_back()
        with page.context.expect_page() as other:
            shown.get_by_role("link", name=f"{TROUBLES_DAG_ID}.fits_no_node").click(modifiers=["ControlOrMeta"])
        assert other.value.url.startswith(f"{server.url}/dags/{TROUBLES_DAG_ID}/runs/")
        assert page.url.startswith(f"{server.url}/plugin/podrelay"), "the page itself has stayed"
        assert opened.complaints == []


def test_a_task_instance_shows_its_launches(browser: Browser, server: Server, troubles: Run) -> None:
    (launch,) = [launch for launch in troubles.launches() if launch.label == "container_fails"]
    with window(browser, storage_state=server.login) as opened:
        page = opened.page
        page.goto(f"{server.url}/dags/{TROUBLES_DAG_ID}/runs/{quote(troubles.run_id)}/tasks/container_fails")
        page.get_by_role("link", name="Launches").click()
        shown = frame(opened)
        expect(shown.locator(".try h2")).to_contain_text("Try 1: failed")
        expect(shown.locator(".why")).to_contain_text("Caused by the task itself.")
        expect(shown.locator("dl")).to_contain_text(launch.pod)
        steps = shown.locator("tbody tr")
        expect(steps.first).to_contain_text("Handed over")
        expect(steps.last).to_contain_text("Taken by the scheduler")
        picture(page, "launches")
        assert opened.complaints == []


def test_a_narrow_window_and_dark_colors(browser: Browser, root: Server) -> None:
    with window(browser, 400, 800, storage_state=root.login, color_scheme="dark") as opened:
        page = opened.page
        page.goto(root.url + "/podrelay/")
        check_overview(page)
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        assert page.evaluate("document.documentElement.scrollWidth") == 400
        picture(page, "overview-narrow", 400, 1400)
        page.goto(root.url + "/plugin/podrelay")
        shown = frame(opened)
        expect(shown.locator("#panels canvas")).to_have_count(6)
        html = shown.locator("html")
        expect(html).to_have_attribute("data-theme", "dark")
        picture(page, "overview-dark", height=1240)
        page.emulate_media(color_scheme="light")
        expect(html).to_have_attribute("data-theme", "light")
        assert opened.complaints == []


def test_nobody_sees_anything_without_a_login(browser: Browser, server: Server) -> None:
    with window(browser) as opened:
        for path in ("", "launches", "api/now", "api/history", "page.css", "docs", "openapi.json"):
            answer = opened.page.goto(f"{server.url}/podrelay/{path}")
            assert answer is not None
            assert (answer.status, answer.json()) == (401, {"detail": "Not authenticated"}), path
        opened.page.goto(server.url + "/plugin/podrelay")
        opened.page.wait_for_url("**/auth/login**")


def test_a_server_that_does_not_answer_is_said_and_the_figures_stay(browser: Browser, root: Server) -> None:
    with window(browser, storage_state=root.login) as opened:
        page = opened.page
        page.goto(root.url + "/podrelay/")
        check_overview(page)
        assert opened.complaints == []
        page.context.set_offline(True)
        look_again(page)
        expect(page.locator("#notice")).to_have_text("Airflow's API server does not answer.")
        expect(page.locator("#tiles li")).to_have_count(7)
        page.context.set_offline(False)
        look_again(page)
        expect(page.locator("#notice")).to_be_hidden()
