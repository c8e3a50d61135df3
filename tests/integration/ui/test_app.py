"""podrelay's pages inside Airflow's own application: who may see what, what is read, and what happens without Redis."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import redis
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from fastapi.testclient import TestClient

from podrelay.airflow_plugin import PodrelayPlugin, wants_pages
from podrelay.protocol.redis_keys import RQ_WORKERS, RedisKeys, rq_queue, rq_scheduled, rq_workers
from podrelay.ui.readings import NOW_KEPT_S
from tests.harness.made_up_day import write_made_up_day
from tests.harness.redis_server import RedisServer
from tests.harness.redis_users import GuardedRedis, knows_read_only, lines
from tests.harness.task_instances import load, make_task_instances

KEYS = RedisKeys("default")
PATHS = ("", "launches", "page.css", "vendor/uPlot.iife.min.js", "api/now", "api/history", "docs", "redoc", "openapi.json",
         "api/launches?dag_id=d&run_id=r&task_id=t", "nothing", "%2e%2e/app.py")  # fmt: skip
LAUNCH = "0190d5b2-3c4e-8a1b-9f00-1234567890ab"
HOSTILE = '</script><img src=x onerror="alert(1)">'


class OnlyDagsOfEtl(SimpleAuthManager):
    """An auth manager with permissions for each DAG: everybody may read those of etl."""

    def is_authorized_dag(self, *, details: Any = None, **_: Any) -> bool:
        return details is not None and str(details.id or "").startswith("etl")


@pytest.fixture(scope="module")
def airflow_app(airflow_db: None) -> Iterator[Any]:
    """Airflow's API server, as `airflow api-server` makes it, but without the execution API."""
    from airflow.api_fastapi import app

    app.purge_cached_app()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW__CORE__AUTH_MANAGER", f"{__name__}.OnlyDagsOfEtl")
        yield app.create_app(apps="core")
    app.purge_cached_app()


@pytest.fixture
def app(airflow_app: Any, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The same, with pages that have not been asked for yet."""
    monkeypatch.setenv("AIRFLOW__PODRELAY__REDIS_URL", redis_url)
    monkeypatch.setattr(PodrelayPlugin.fastapi_apps[0]["app"], "_app", None)
    return airflow_app


@pytest.fixture
def anonymous(app: Any) -> Iterator[TestClient]:
    with TestClient(app, base_url="http://testserver/podrelay/") as client:
        yield client


def logged_in(client: TestClient, role: str | None) -> TestClient:
    from airflow.api_fastapi.app import get_auth_manager

    token = get_auth_manager().generate_jwt(SimpleAuthManagerUser(username="somebody", role=role))
    client.headers["Authorization"] = f"Bearer {token}"
    return client


@pytest.fixture
def viewer(anonymous: TestClient) -> TestClient:
    return logged_in(anonymous, "VIEWER")


@pytest.fixture
def store(redis_url: str) -> Any:
    return redis.Redis.from_url(redis_url, decode_responses=True)


def wait_for_quota(store: Any, launch_id: str, dag_id: str, message: str = HOSTILE) -> None:
    """A launch that waits, as launchers leave it."""
    queue = KEYS.launch_queue("default")
    fields = {"state": "waiting", "attempt": "0", "cluster": "default", "kind": "task", "reason": "QuotaExceeded",
              "message": message, "t_offered": str(time.time() - 90), "queue": queue,
              "key": json.dumps([dag_id, "load", "manual__1", 1, 3])}  # fmt: skip
    store.hset(KEYS.launch(launch_id), mapping=fields)
    store.zadd(rq_scheduled(queue), {f"{launch_id}_0": time.time() + 5})


# --- who may see what -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", PATHS)
def test_every_path_asks_for_a_login(anonymous: TestClient, path: str) -> None:
    answer = anonymous.get(path)
    assert answer.status_code == 401, path
    assert answer.json() == {"detail": "Not authenticated"}


def test_figures_ask_for_permission(anonymous: TestClient) -> None:
    nobody = logged_in(anonymous, None)
    assert [nobody.get(path).status_code for path in ("api/now", "api/history")] == [403, 403]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_nothing_changes_anything(viewer: TestClient, method: str) -> None:
    assert {viewer.request(method, path).status_code for path in PATHS} == {405}


def test_what_does_not_exist_is_not_found(viewer: TestClient) -> None:
    for path in ("docs", "redoc", "openapi.json", "nothing", "%2e%2e/app.py", "app.py", "static/page.css", "vendor/"):
        assert viewer.get(path).status_code == 404, path


def test_a_page_runs_nothing_but_its_own_files(viewer: TestClient) -> None:
    for page in ("", "launches"):
        answer = viewer.get(page)
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'" in policy
        assert "unsafe" not in policy
        assert re.findall(r"<script(?![^>]*\ssrc=)|\son\w+=|style=|https?:", answer.text) == []
        for name in re.findall(r'(?:src|href)="([^"]+)"', answer.text):
            assert viewer.get(name).status_code == 200, name


def test_the_charts_library_comes_with_its_license() -> None:
    vendor = files("podrelay.ui").joinpath("static/vendor")
    assert "(v1.6.32)" in vendor.joinpath("uPlot.iife.min.js").read_text("utf-8")[:80]
    assert "Permission is hereby granted" in vendor.joinpath("uPlot.LICENSE").read_text("utf-8")


# --- now --------------------------------------------------------------------------------------------------------------
def test_an_empty_redis_is_no_error(viewer: TestClient) -> None:
    found = viewer.get("api/now").json()
    assert found["overview"]["waits"] == []
    assert any("no launcher is running" in problem for problem in found["problems"])
    assert found["clusters"] == ["default"]
    assert found["dashboard_url"] == ""


def test_a_wait_names_its_task_to_who_may_read_the_dag(viewer: TestClient, store: Any) -> None:
    wait_for_quota(store, LAUNCH, "etl_daily")
    (wait,) = viewer.get("api/now").json()["overview"]["waits"]
    assert wait["task"] == {
        "dag_id": "etl_daily", "task_id": "load", "run_id": "manual__1", "try_number": 1, "map_index": 3,
    }  # fmt: skip
    assert wait["message"] == HOSTILE


def test_a_wait_says_nothing_of_a_task_that_the_user_may_not_read(viewer: TestClient, store: Any) -> None:
    wait_for_quota(store, LAUNCH, "secret_dag")
    answer = viewer.get("api/now")
    (wait,) = answer.json()["overview"]["waits"]
    assert (wait["reason"], wait["count"], wait["task"], wait["example"], wait["message"]) == (
        "QuotaExceeded", 1, None, "", "",
    )  # fmt: skip
    assert "secret_dag" not in answer.text


def test_a_request_cannot_choose_the_dag_whose_permission_counts(viewer: TestClient, store: Any) -> None:
    """A wait of a launch without a task, or whose entry is gone, is for those who may read all DAGs."""
    wait_for_quota(store, LAUNCH, "secret_dag")
    store.hdel(KEYS.launch(LAUNCH), "key")
    for query in ("", "?dag_id=etl_daily", "?dag_id=~", "?dag_id="):
        (wait,) = viewer.get(f"api/now{query}").json()["overview"]["waits"]
        assert (wait["example"], wait["message"]) == ("", ""), query


@pytest.mark.parametrize("dag_id", ["etl\ud800", "etl\0", "etl\n", ""])
def test_an_id_that_airflow_has_not_is_no_task(viewer: TestClient, store: Any, dag_id: str) -> None:
    wait_for_quota(store, LAUNCH, dag_id)
    (wait,) = viewer.get("api/now").json()["overview"]["waits"]
    assert (wait["task"], wait["message"]) == (None, "")


def test_many_viewers_cost_redis_one_reading(app: Any, store: Any) -> None:
    import asyncio

    from podrelay.ui.readings import Readings

    async def look() -> None:
        readings = Readings()
        found = await asyncio.gather(*(readings.now("default") for _ in range(50)))
        assert {id(each) for each in found} == {id(found[0])}

    store.config_resetstat()
    asyncio.run(look())
    assert store.info("commandstats")["cmdstat_time"]["calls"] == 1


def test_only_clusters_that_exist_are_read(viewer: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert viewer.get("api/now?cluster=team-b").status_code == 404
    monkeypatch.setenv("AIRFLOW__CORE__MULTI_TEAM", "True")
    executors = "LocalExecutor;team-b=podrelay.executor.RedisKubernetesExecutor;team-c=LocalExecutor"
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", executors)
    found = viewer.get("api/now?cluster=team-b").json()
    assert found["overview"]["cluster"] == "team-b"
    assert found["clusters"] == ["default", "team-b"]
    assert viewer.get("api/history?cluster=team-c").status_code == 404


@pytest.mark.parametrize("url", ["javascript:alert(1)", "rq.example.com", "https://x y", 'https://x"onclick='])
def test_only_a_web_address_becomes_a_link(viewer: TestClient, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("AIRFLOW__PODRELAY__DASHBOARD_URL", url)
    found = viewer.get("api/now").json()
    assert found["dashboard_url"] == ""
    assert "[podrelay] dashboard_url" in found["error"]
    monkeypatch.setenv("AIRFLOW__PODRELAY__DASHBOARD_URL", "https://rq.example.com/")
    monkeypatch.setattr(PodrelayPlugin.fastapi_apps[0]["app"], "_app", None)
    assert viewer.get("api/now").json()["dashboard_url"] == "https://rq.example.com/"


def test_options_are_read_once(
    viewer: TestClient, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command or a secrets backend may provide the address of Redis: no request may wait for it in the event loop."""
    command = tmp_path / "address"
    command.write_text(f"#!/bin/sh\necho x >> {tmp_path}/runs\necho {redis_url}\n")
    command.chmod(0o700)
    monkeypatch.delenv("AIRFLOW__PODRELAY__REDIS_URL")
    monkeypatch.setenv("AIRFLOW__PODRELAY__REDIS_URL_CMD", str(command))
    for path in ("api/now", "api/now", "api/history", "api/now"):
        assert "error" not in viewer.get(path).json()
    assert (tmp_path / "runs").read_text() == "x\n"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://127.0.0.1:1/0", "Redis unavailable (ConnectionError"),
        ("http://127.0.0.1", "[podrelay] redis_url"),
        ("redis://nobody:wrong@127.0.0.1:{port}/0", "rejects the user or password"),
    ],
)
def test_without_redis_each_answer_says_why(
    anonymous: TestClient, redis_url: str, monkeypatch: pytest.MonkeyPatch, url: str, says: str
) -> None:
    port = re.findall(r":(\d+)/", redis_url)[0]
    monkeypatch.setenv("AIRFLOW__PODRELAY__REDIS_URL", url.format(port=port))
    viewer = logged_in(anonymous, "VIEWER")
    for path in ("api/now", "api/history"):
        answer = viewer.get(path)
        assert answer.status_code == 200
        assert says in answer.json()["error"]
        assert "wrong" not in answer.text


def test_the_pages_read_as_the_user_status(
    anonymous: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (ti_id,) = make_task_instances(dag_id="etl_as_status", task_id="load")
    with GuardedRedis(tmp_path) as server:
        server.load(*lines(not knows_read_only(server.url), roles=("status",)))
        wait_for_quota(server.admin, str(load(ti_id).external_executor_id), "etl_as_status")
        write_made_up_day(server.url, KEYS, time.time())
        server.admin.execute_command("ACL", "LOG", "RESET")
        monkeypatch.setenv("AIRFLOW__PODRELAY__REDIS_URL", server.url_of("status"))
        viewer = logged_in(anonymous, "VIEWER")
        assert viewer.get("api/now").json()["overview"]["waits"][0]["task"]["dag_id"] == "etl_as_status"
        assert viewer.get("api/history").json()["history"]["day"]["started"] > 0
        (found,) = viewer.get("api/launches?dag_id=etl_as_status&run_id=run&task_id=load").json()["tries"]
        assert found["known"]
        assert server.denials() == []


def test_while_redis_hangs_the_server_answers_everything_else(
    anonymous: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RedisServer(tmp_path) as server, ThreadPoolExecutor(8) as threads:
        monkeypatch.setenv("AIRFLOW__PODRELAY__REDIS_URL", server.url)
        viewer = logged_in(anonymous, "VIEWER")
        assert "overview" in viewer.get("api/now").json()
        time.sleep(NOW_KEPT_S)
        server.pause()
        waiting = [threads.submit(viewer.get, path) for path in ["api/now", "api/history"] * 4]
        assert viewer.get("page.css").status_code == 200
        assert not any(answer.done() for answer in waiting)
        assert all("Redis unavailable (TimeoutError" in answer.result(30).json()["error"] for answer in waiting)
        server.resume()


def test_a_redis_that_hangs_makes_no_queue_of_requests(airflow_db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each page asks again every few seconds, and none of these requests is kept for the others."""
    import asyncio

    from podrelay.ui.readings import Readings

    with socket.create_server(("127.0.0.1", 0), backlog=100) as silent:
        monkeypatch.setenv("AIRFLOW__PODRELAY__REDIS_URL", f"redis://127.0.0.1:{silent.getsockname()[1]}/0")

        async def look() -> None:
            readings = Readings()
            wanted = (readings.entries([LAUNCH]) for _ in range(40))
            found = await asyncio.wait_for(asyncio.gather(*wanted), 20.0)
            assert all("Redis unavailable" in each["error"] for each in found)

        asyncio.run(look())


def test_keys_of_another_type_are_no_error(viewer: TestClient, store: Any) -> None:
    queue = KEYS.launch_queue("default")
    for key in (KEYS.rollups("default"), KEYS.watch("default"), KEYS.throttle("default"), KEYS.results, rq_queue(queue),
                rq_scheduled(queue), rq_workers(queue), RQ_WORKERS):  # fmt: skip
        store.set(key, HOSTILE)
    assert "overview" in viewer.get("api/now").json()
    assert "history" in viewer.get("api/history").json()


# --- the last 24 hours ------------------------------------------------------------------------------------------------
def test_the_last_day_has_a_value_for_each_bucket(viewer: TestClient, redis_url: str) -> None:
    now_s = time.time()
    day = write_made_up_day(redis_url, KEYS, now_s)
    found = viewer.get("api/history").json()["history"]
    values = [found["started"], found["ended"], found["throttled_s"], *found["failed"].values()]
    values += [values for step in found["steps"].values() for values in step.values()]
    assert {len(each) for each in (found["at_s"], *values)} == {288}
    assert found["day"]["started"] == sum(rollup["started"] for rollup in day.values())
    assert sum(found["day"]["failed_by_class"].values()) == found["day"]["failed"] > 0
    assert found["started"][0] == pytest.approx(next(iter(day.values()))["started"] / 5, abs=0.001)
    p50, p95 = found["day"]["steps"]["created"]["p50"], found["day"]["steps"]["created"]["p95"]
    assert 0.1 < p50 < p95 < 10
    assert found["steps"]["created"]["p50"][-1] is None, "nothing was launched in the last hour"


# --- the launches of a task instance ----------------------------------------------------------------------------------
def test_a_task_instance_shows_its_launch(viewer: TestClient, store: Any) -> None:
    (ti_id,) = make_task_instances(dag_id="etl_launches", task_id="load")
    launch_id = str(load(ti_id).external_executor_id)
    at_s = time.time()
    store.hset(KEYS.launch(launch_id), mapping={
        "state": "acknowledged", "attempt": "1", "outcome": "failed", "reason": "OOMKilled", "message": HOSTILE, "pod": "p",
        "failure_class": "application", "result": "sealed", "t_offered": at_s - 9, "t_created": at_s - 8, "t_started": "soon",
    })  # fmt: skip
    path = "api/launches?dag_id=etl_launches&run_id=run&task_id=load&map_index={MAP_INDEX}"
    answer = viewer.get(path)
    (found,) = answer.json()["tries"]
    assert (found["try_number"], found["launch_id"], found["known"]) == (1, launch_id, True)
    assert found["fields"]["reason"] == "OOMKilled"
    assert [step["step"] for step in found["steps"]] == ["offered", "created"]
    assert found["steps"][1]["took_s"] == pytest.approx(1.0, abs=0.01)
    assert "sealed" not in answer.text


def test_a_launch_that_redis_has_forgotten_is_named(viewer: TestClient) -> None:
    (ti_id,) = make_task_instances(dag_id="etl_forgotten", task_id="load", state="success")
    (found,) = viewer.get("api/launches?dag_id=etl_forgotten&run_id=run&task_id=load&map_index=-1").json()["tries"]
    assert found == {
        "try_number": 1, "state": "success", "launch_id": load(ti_id).external_executor_id, "known": False, "fields": {},
        "steps": [],
    }  # fmt: skip


def test_an_id_of_another_executor_is_not_looked_up(viewer: TestClient) -> None:
    make_task_instances(dag_id="etl_celery", task_id="load", external_executor_id="celery/../x")
    (found,) = viewer.get("api/launches?dag_id=etl_celery&run_id=run&task_id=load").json()["tries"]
    assert (found["launch_id"], found["known"]) == ("", False)


def test_launches_of_another_dag_need_its_permission(viewer: TestClient) -> None:
    make_task_instances(dag_id="secret_launches", task_id="load")
    assert viewer.get("api/launches?dag_id=secret_launches&run_id=run&task_id=load").status_code == 403


@pytest.mark.parametrize("query", ["", "dag_id=etl", f"dag_id=etl&run_id=r&task_id={'x' * 300}"])
def test_a_request_that_is_not_complete_is_refused(viewer: TestClient, query: str) -> None:
    assert viewer.get(f"api/launches?{query}").status_code in (403, 422)


@pytest.mark.parametrize("index", ["{MAP_INDEX}", "-1", "1e9", "٣", "9" * 30, HOSTILE])
def test_an_odd_map_index_is_none(viewer: TestClient, index: str) -> None:
    found = viewer.get("api/launches", params={"dag_id": "etl", "run_id": "r", "task_id": "t", "map_index": index})
    assert found.json() == {"error": "", "tries": []}


# --- what it costs others ---------------------------------------------------------------------------------------------
_IMPORTED = """
import sys
import airflow.sdk.execution_time.task_runner, airflow.plugins_manager
before = set(sys.modules)
import podrelay.airflow_plugin
print(*sorted(set(sys.modules) - before))
"""


def test_a_task_imports_only_the_plugin_itself() -> None:
    done = subprocess.run([sys.executable, "-c", _IMPORTED], capture_output=True, text=True, timeout=60, check=True)
    found = set(done.stdout.splitlines()[-1].split())
    assert found - {"podrelay"} == {"podrelay.airflow_plugin"}


@pytest.mark.parametrize(
    ("executor", "ui_page", "wanted"),
    [
        ("podrelay.executor.RedisKubernetesExecutor", None, True),
        ("podrelay.executor.RedisKubernetesExecutor", "False", False),
        ("podrelay.executor.RedisKubernetesExecutor", "maybe", True),
        ("LocalExecutor", None, False),
        ("LocalExecutor,podrelay.executor.RedisKubernetesExecutor", None, True),
    ],
)
def test_an_airflow_without_podrelay_has_no_page(
    monkeypatch: pytest.MonkeyPatch, executor: str, ui_page: str | None, wanted: bool
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", executor)
    if ui_page:
        monkeypatch.setenv("AIRFLOW__PODRELAY__UI_PAGE", ui_page)
    assert wants_pages() is wanted


# --- warm pods --------------------------------------------------------------------------------------------------------
def keep_warm_pods(store: Any) -> None:
    """As the launcher that keeps them writes it."""
    shape, now_s = "0123456789abcdef", time.time()
    figures = {"idle": 2, "starting": 1, "hits": 9, "misses": 1, "seen": now_s, "off_until": now_s + 300,
               "off_why": "image secret/etl:1 cannot be pulled"}  # fmt: skip
    fields = {"keeper": "l-1", "expires": now_s + 5, "most": 10} | {
        f"{shape} {name}": figures[name] for name in figures
    }
    store.hset(KEYS.warm_state("default"), mapping=fields)


def test_the_pool_is_shown_and_its_images_only_to_who_may_read_all_dags(
    viewer: TestClient, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_warm_pods(store)
    answer = viewer.get("api/now")
    warm = answer.json()["overview"]["warm"]
    assert (warm["idle"], warm["hit_rate"], warm["shapes"][0]["off_why"]) == (2, 0.9, "")
    assert any("no warm pods of shape 0123456789abcdef" in problem for problem in answer.json()["problems"])
    assert "secret" not in answer.text
    monkeypatch.setattr("podrelay.ui.app._may_read", lambda task, user: True)
    found = viewer.get("api/now").json()
    assert found["overview"]["warm"]["shapes"][0]["off_why"] == "image secret/etl:1 cannot be pulled"


def test_without_warm_pods_the_page_has_nothing_about_them(viewer: TestClient) -> None:
    assert "warm" not in viewer.get("api/now").json()["overview"]


def test_an_attempt_says_how_its_pod_began() -> None:
    from podrelay.ui.attempts import TaskTry, launch_of

    shown = launch_of(TaskTry(1, "running", LAUNCH), {"start": "warm", "pod": "p"})
    assert shown["fields"] == {"start": "a warm pod", "pod": "p"}
    assert "start" not in launch_of(TaskTry(1, "running", LAUNCH), {"pod": "p"})["fields"]
    assert launch_of(TaskTry(1, "running", LAUNCH), {"start": "<b>"})["fields"]["start"] == ""
