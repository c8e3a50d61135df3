"""Unmodified rq-dashboard (`-j`): every page works, no page shows a secret, and its buttons are safe."""

from __future__ import annotations

import asyncio
import base64
import html
import json
import pickle
import socket
import zlib
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import rq.serializers
from rq import Queue, Worker
from rq.executions import Execution
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from podrelay.cli import commands
from podrelay.cli.dashboard import make_app, run_dashboard
from podrelay.cli.dashboard_guard import NOT_SHOWN
from podrelay.protocol import redis_keys
from tests.harness.launcher_rig import TOKEN, LauncherRig
from tests.harness.pod_api import status
from tests.harness.waiting import until


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """A dashboard changes RQ and rq-dashboard for its whole process."""
    web = pytest.importorskip("rq_dashboard.web")
    of_web = {name: getattr(web, name) for name in ("Job", "Worker", "from_url", "get_queue_registry_jobs_count")}
    of_rq = {name: getattr(rq.serializers, name) for name in ("DefaultSerializer", "PickleSerializer")}
    aliases, serializer = dict(rq.serializers.SERIALIZER_ALIASES), web.config.serializer
    yield
    for module, values in ((web, of_web), (rq.serializers, of_rq)):
        for name, value in values.items():
            setattr(module, name, value)
    rq.serializers.SERIALIZER_ALIASES.update(aliases)
    web.config.serializer = serializer


@pytest.fixture
def dashboard(rig: LauncherRig) -> Any:
    web = pytest.importorskip("rq_dashboard.web")
    from rq_dashboard.cli import make_flask_app

    web.config.serializer = JSONSerializer
    app = make_flask_app(None, None, None, "")
    app.config["RQ_DASHBOARD_REDIS_URL"] = rig.settings.redis_url
    web.setup_rq_connection(app)
    return app.test_client()


def test_every_page_works_and_shows_no_token(rig: LauncherRig, dashboard: Any) -> None:
    queue = rig.names.launch_queue("default")
    bad, good, held = rig.request(1), rig.request(2), rig.request(3)
    rig.api.fault = lambda _, pod: (
        status(422, "Invalid", "image: Required value") if "load1" in pod["metadata"]["name"] else None
    )
    pages: dict[str, str] = {}

    def look() -> None:
        paths = ["/0/view/queues", "/0/view/workers", "/0/view/jobs", "/0/data/queues.json", "/0/data/workers.json"]
        for registry in ("queued", "started", "finished", "failed", "scheduled"):
            paths += [f"/0/data/jobs/{queue}/{registry}/8/asc/1.json", f"/0/view/jobs/{queue}/{registry}/8/asc/1"]
        paths += [f"/0/data/job/{request.launch_id}_0.json" for request in (bad, good, held)]
        for path in paths:
            answer = dashboard.get(path, follow_redirects=True)
            assert answer.status_code == 200, path
            pages[path] = answer.get_data(as_text=True)

    async def scenario() -> None:
        async with rig.launcher():
            rig.offer(bad, good)
            await until(lambda: rig.states([bad, good]) == {"finished": 1, "created": 1} and not rig.in_hand())
            rig.api.latency_s = 3.0
            rig.offer(held)
            await until(lambda: len(rig.api.creates) == 3)
            await asyncio.to_thread(look)
            rig.api.latency_s = 0.0
            await until(lambda: rig.states([held]) == {"created": 1})

    asyncio.run(scenario())
    everything = "".join(pages.values())
    assert TOKEN not in everything
    assert "gAAAA" not in everything
    assert "etl.load1 try 1 (manual__2026-11-20)" in pages[f"/0/data/jobs/{queue}/failed/8/asc/1.json"]
    assert "PodRefused: image: Required value" in pages[f"/0/data/jobs/{queue}/failed/8/asc/1.json"]
    assert "etl.load2" in pages[f"/0/data/jobs/{queue}/finished/8/asc/1.json"]
    assert "etl.load3" in pages[f"/0/data/jobs/{queue}/started/8/asc/1.json"]
    assert queue in pages["/0/data/workers.json"]


def test_delete_requeue_and_empty_are_safe(rig: LauncherRig, dashboard: Any) -> None:
    queue = rig.names.launch_queue("default")
    failed, deleted, kept, started = (rig.request(number) for number in range(4))
    rig.api.fault = lambda _, pod: (
        status(422, "Invalid", "image: Required value") if "load0" in pod["metadata"]["name"] else None
    )
    rig.offer(failed, deleted, kept)

    async def scenario() -> None:
        assert dashboard.post(f"/job/{deleted.launch_id}_0/delete").status_code == 200
        async with rig.launcher():
            await until(lambda: rig.states([failed, kept]) == {"finished": 1, "created": 1} and not rig.in_hand())
            assert dashboard.post(f"/job/{failed.launch_id}_0/requeue").status_code == 200
            await until(lambda: rig.redis.hget(f"rq:job:{failed.launch_id}_0", "status") == "canceled")
            rig.api.latency_s = 0.5
            rig.offer(started)
            await until(lambda: len(rig.api.creates) == 3)
            assert dashboard.post(f"/queue/{queue}/started/empty").status_code == 200
            await until(lambda: rig.states([started]) == {"created": 1} and not rig.in_hand())

    asyncio.run(scenario())
    # The deleted launch got no pod, the failed one no second pod, and the running one is still in the ledger.
    assert rig.api.calls["create"] == 3
    assert not rig.redis.exists(f"rq:job:{started.launch_id}_0")


def test_a_waiting_job_shows_why_it_waits_until_it_is_claimed(rig: LauncherRig) -> None:
    waiting, held_back = rig.request(1), rig.request(2)
    client = redis.Redis.from_url(rig.settings.redis_url)
    page = make_app(rig.settings.redis_url, client, deployment=rig.settings.deployment).test_client()
    refusal = 'pods "x" is forbidden: exceeded quota: tasks, requested: pods=1, used: pods=1, limited: pods=1'

    def metadata(request: Any) -> Any:
        return json.loads(html.unescape(page.get(f"/0/data/job/{request.launch_id}_0.json").get_json()["metadata"]))

    async def scenario() -> None:
        rig.api.fault = lambda *_: status(403, "Forbidden", refusal)
        async with rig.launcher():
            rig.offer(waiting)
            await until(lambda: rig.states([waiting]) == {"waiting": 1})
            assert await asyncio.to_thread(metadata, waiting) == {"waits_for": "QuotaExceeded", "message": refusal}
            rig.offer(held_back)
            await until(lambda: rig.states([held_back]) == {"waiting": 1})
            assert (await asyncio.to_thread(metadata, held_back))["waits_for"] == "QuotaExceeded"
            rig.api.fault = lambda *_: None
            await until(lambda: rig.states([waiting, held_back]) == {"created": 2} and not rig.in_hand(), 30)
            assert await asyncio.to_thread(metadata, waiting) == {}

    asyncio.run(scenario())


def test_the_page_of_jobs_begins_with_our_queue(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    of_one = make_app(redis_url, client, deployment="etl").test_client().get("/0/view/jobs").get_data(as_text=True)
    assert "on queue <strong>podrelay.etl.default.launch</strong>" in of_one
    of_all = make_app(redis_url, client).test_client().get("/0/view/jobs").get_data(as_text=True)
    assert "on queue <strong>default</strong>" in of_all


@pytest.mark.parametrize("registry", ["queued", "failed", "started", "finished", "scheduled"])
@pytest.mark.parametrize("order", ["asc", "dsc"])
def test_every_page_of_jobs_has_its_jobs_only(redis_url: str, registry: str, order: str) -> None:
    """25 jobs, eight to a page: no job on two pages, none missing, and none beyond the last page."""
    client = redis.Redis.from_url(redis_url)
    jobs = Queue("mail", connection=client, serializer=JSONSerializer).enqueue_many(
        [Queue.prepare_data("os.getpid", job_id=f"job-{number:02}") for number in range(25)]
    )
    if registry != "queued":
        client.zadd(registry_key(registry), {job_member(registry, job.id): 4e9 + n for n, job in enumerate(jobs)})
    page = make_app(redis_url, client).test_client()
    shown = [
        [job["id"] for job in page.get(f"/0/data/jobs/mail/{registry}/8/{order}/{number}.json").get_json()["jobs"]]
        for number in range(1, 6)
    ]
    assert [len(ids) for ids in shown] == [8, 8, 8, 1, 0]
    flat = [job_id for ids in shown for job_id in ids]
    assert flat == sorted(flat, reverse=order == "dsc")
    assert len(set(flat)) == 25


def registry_key(registry: str) -> str:
    of = {"failed": redis_keys.rq_failed, "started": redis_keys.rq_started, "scheduled": redis_keys.rq_scheduled}
    return of[registry]("mail") if registry in of else "rq:finished:mail"


def job_member(registry: str, job_id: str) -> str:
    return f"{job_id}:execution" if registry == "started" else job_id


def test_the_dashboard_listens_before_it_says_so(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a free port for `--port 0`, with the port that was taken in the line."""
    monkeypatch.setenv("AIRFLOW__PODRELAY__REDIS_URL", redis_url)
    reached: list[int] = []

    def serve(server: Any) -> None:
        line = capsys.readouterr().out
        assert line.startswith("rq-dashboard listens on http://127.0.0.1:")
        port = int(line.split("/")[2].partition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            reached.append(port)
        assert server.port == port
        raise KeyboardInterrupt

    monkeypatch.setattr("werkzeug.serving.BaseWSGIServer.serve_forever", serve)
    assert run_dashboard("127.0.0.1", 0) == 0
    assert reached


@pytest.mark.parametrize(("bind", "port"), [("127.0.0.1", None), ("127.0.0.1", 70_000), ("203.0.113.9", 0)])
def test_an_address_that_is_taken_or_impossible_is_one_line(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], bind: str, port: int | None
) -> None:
    monkeypatch.setenv("AIRFLOW__PODRELAY__REDIS_URL", redis_url)
    monkeypatch.setenv("RQ_DASHBOARD_USERNAME", "admin")
    monkeypatch.setenv("RQ_DASHBOARD_PASSWORD", "secret")
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as stopped:
        commands.dashboard(Namespace(bind=bind, port=taken.getsockname()[1] if port is None else port, read_only=False))
    assert stopped.value.code == commands.USAGE_ERROR
    output = capsys.readouterr()
    assert (output.out, len(output.err.splitlines())) == ("", 1)
    assert f"--bind, --port: cannot listen on {bind}:" in output.err


def test_a_clean_up_by_rq_loses_nothing(rig: LauncherRig) -> None:
    """`rq info` fails or requeues jobs whose lease has expired; launches may always be requeued."""
    requests = rig.offer_many(5)
    queue = rig.names.launch_queue("default")

    async def claim() -> None:
        from podrelay.store.connection import connect_async
        from podrelay_workers.launcher.job_queue import JobQueue

        client = connect_async(rig.settings)
        claim = await JobQueue(client, rig.settings, rig.cipher, "launch", "w", "default").claim(64)
        assert len(claim.jobs) == 5
        await client.aclose()

    asyncio.run(claim())
    client = rig.redis.from_url(rig.settings.redis_url)
    for member in client.zrange(redis_keys.rq_started(queue), 0, -1):
        client.zadd(redis_keys.rq_started(queue), {member: 1})
    StartedJobRegistry(queue=Queue(queue, connection=client, serializer=JSONSerializer)).cleanup()

    async def scenario() -> None:
        async with rig.launcher():
            await until(lambda: rig.states(requests) == {"created": 5})

    asyncio.run(scenario())
    assert rig.api.calls["create"] == 5


# --- what anybody can write to Redis ------------------------------------------------------------------------------------
FOREIGN = "no-json"


@pytest.fixture
def foreign(redis_url: str) -> redis.Redis:
    """A queued job whose values are pickled, as RQ does by itself; it is also the current job of a worker."""
    client = redis.Redis.from_url(redis_url)
    data = zlib.compress(pickle.dumps(("os.getpid", None, (), {})))
    meta = pickle.dumps({"a": 1})
    client.hset(f"rq:job:{FOREIGN}", mapping={"status": "queued", "origin": "mail", "data": data, "meta": meta,
                "description": "d", "created_at": "2026-11-20T00:00:00.000000Z"})  # fmt: skip
    result = {"type": 1, "return_value": base64.b64encode(pickle.dumps("result"))}
    client.xadd(f"rq:results:{FOREIGN}", result)
    client.sadd("rq:queues", "rq:queue:mail")
    client.rpush("rq:queue:mail", FOREIGN)
    client.sadd("rq:workers", "rq:worker:w")
    client.hset("rq:worker:w", mapping={"birth": "2026-11-20T00:00:00.000000Z", "queues": "mail", "state": "busy",
                "last_heartbeat": "2026-11-20T00:00:00.000000Z"})  # fmt: skip
    execution = Execution("e", FOREIGN, client)
    client.sadd(Worker([], name="w", connection=client).executions_key, execution.composite_key)
    client.hset(execution.key, mapping={"created_at": 1.0, "last_heartbeat": 1.0, "worker_name": "w"})
    return client


def test_nothing_but_json_is_decoded(redis_url: str, foreign: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """RQ's default serializer, pickle, runs what it decodes: it must not be asked, by a page or by a button."""
    asked: list[bytes] = []
    monkeypatch.setattr(rq.serializers.DefaultSerializer, "loads", asked.append)
    page = make_app(redis_url, foreign).test_client()
    paths = ["/0/view/queues", "/0/view/workers", "/0/view/jobs", f"/0/view/job/{FOREIGN}", "/0/data/queues.json"]
    paths += ["/0/data/workers.json", f"/0/data/job/{FOREIGN}.json", "/0/data/jobs/mail/queued/8/asc/1.json"]
    shown = {path: page.get(path, follow_redirects=True) for path in paths}
    assert {path: answer.status_code for path, answer in shown.items()} == dict.fromkeys(paths, 200)
    job = shown[f"/0/data/job/{FOREIGN}.json"].get_json()
    assert (job["result"], job["metadata"]) == (NOT_SHOWN, f"&#34;{NOT_SHOWN}&#34;")
    (worker,) = shown["/0/data/workers.json"].get_json()["workers"]
    assert worker["current_job"]["call_string"] == NOT_SHOWN
    assert [job["id"] for job in shown["/0/data/jobs/mail/queued/8/asc/1.json"].get_json()["jobs"]] == [FOREIGN]
    foreign.zadd("rq:failed:mail", {FOREIGN: 4e9})
    for path in (f"/job/{FOREIGN}/requeue", "/requeue/mail", "/queue/mail/compact", f"/job/{FOREIGN}/delete"):
        assert page.post(path).status_code == 200, path
    assert not foreign.exists(f"rq:job:{FOREIGN}")
    assert asked == []


def test_texts_from_redis_are_escaped(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    text = "<x-y>&'"
    client.hset("rq:job:j", mapping={"status": "queued", "origin": text, "data": b"[]", "description": text,
                "created_at": "2026-11-20T00:00:00.000000Z"})  # fmt: skip
    client.sadd("rq:queues", f"rq:queue:{text}")
    client.rpush(f"rq:queue:{text}", "j")
    page = make_app(redis_url, client).test_client()
    job, queues = page.get("/0/data/job/j.json").get_json(), page.get("/0/data/queues.json").get_json()["queues"]
    assert job["description"] == job["origin"] == queues[0]["name"] == "&lt;x-y&gt;&amp;&#39;"
    assert "<x-y>" not in page.get("/0/view/jobs/mail/queued/8/asc/1").get_data(as_text=True)
    client.rpush("rq:queue:mail", "j")
    (listed,) = page.get("/0/data/jobs/mail/queued/8/asc/1.json").get_json()["jobs"]
    assert listed["description"] == text, "this page escapes it by itself"
    for path in ("/0/view/jobs/%3Cx-y%3E%26'/queued/8/asc/1", "/0/view/jobs/mail/queued/8/%27/1", "/0/view/job/%3C"):
        answer = page.get(path)
        assert (answer.status_code, answer.mimetype) == (400, "text/plain")


@pytest.mark.parametrize(
    ("method", "headers", "read_only", "code"),
    [
        ("POST", {}, False, 200),
        ("POST", {"Origin": "http://localhost"}, False, 200),
        ("POST", {"Origin": "http://elsewhere.example"}, False, 403),
        ("POST", {"Sec-Fetch-Site": "cross-site"}, False, 403),
        ("POST", {}, True, 403),
        ("GET", {}, False, 405),
        ("GET", {}, True, 403),
    ],
)
def test_only_a_button_of_the_dashboard_changes_something(
    redis_url: str, foreign: redis.Redis, method: str, headers: dict[str, str], read_only: bool, code: int
) -> None:
    foreign.zadd("rq:failed:mail", {FOREIGN: 4e9})
    page = make_app(redis_url, foreign, read_only).test_client()
    assert page.open("/requeue/mail", method=method, headers=headers).status_code == code
    assert foreign.zcard("rq:failed:mail") == (0 if code == 200 else 1)
    assert page.get("/0/data/queues.json").status_code == 200


@pytest.mark.parametrize(
    ("bind", "login"),
    [
        ("0.0.0.0", {}),
        ("::", {}),
        ("", {}),
        ("192.0.2.1", {}),
        ("a.example", {}),
        ("127.0.0.1", {"RQ_DASHBOARD_USERNAME": "admin"}),
        ("0.0.0.0", {"RQ_DASHBOARD_PASSWORD": "secret"}),
    ],
)
def test_nobody_else_reaches_it_without_a_login(
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    bind: str,
    login: dict[str, str],
) -> None:
    monkeypatch.setenv("AIRFLOW__PODRELAY__REDIS_URL", redis_url)
    for name, value in login.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stopped:
        commands.dashboard(Namespace(bind=bind, port=0, read_only=False))
    assert stopped.value.code == commands.USAGE_ERROR
    error = capsys.readouterr().err
    assert "RQ_DASHBOARD_USERNAME and RQ_DASHBOARD_PASSWORD" in error
    assert "secret" not in error


def test_the_login_guards_every_address(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RQ_DASHBOARD_USERNAME", "admin")
    monkeypatch.setenv("RQ_DASHBOARD_PASSWORD", "sécret")
    page = make_app(redis_url, redis.Redis.from_url(redis_url)).test_client()
    for path in ("/", "/0/view/workers", "/0/data/queues.json", "/static/css/main.css"):
        assert page.get(path).status_code == 401, path
        assert page.get(path, auth=("admin", "wrong")).status_code == 401, path
        assert page.get(path, auth=("", "")).status_code == 401, path
    assert page.post("/requeue/mail").status_code == 401
    assert page.get("/0/data/queues.json", auth=("admin", "sécret")).status_code == 200


def test_no_page_shows_the_password(redis_url: str) -> None:
    page = make_app(f"{redis_url}?username=somebody&password=hunter2", redis.Redis.from_url(redis_url)).test_client()
    shown = page.get("/0/view", follow_redirects=True).get_data(as_text=True)
    assert redis_url in shown
    assert "hunter2" not in shown
    assert "somebody" not in shown


def test_a_page_moves_no_job(redis_url: str) -> None:
    """RQ cleans a registry up when its length is asked for: it would put back the job of a lease that has just ended."""
    client = redis.Redis.from_url(redis_url, decode_responses=True)
    client.hset("rq:job:l_0", mapping={"status": "started", "origin": "mail", "data": "[]", "retries_left": "5",
                "created_at": "2026-11-20T00:00:00.000000Z"})  # fmt: skip
    client.zadd("rq:wip:mail", {"l_0:e": 1})
    page = make_app(redis_url, redis.Redis.from_url(redis_url)).test_client()
    assert len(page.get("/0/data/jobs/mail/started/8/asc/1.json").get_json()["jobs"]) == 1
    assert client.zrange("rq:wip:mail", 0, -1) == ["l_0:e"]
    assert client.hget("rq:job:l_0", "status") == "started"


def test_only_the_deployments_own_queues_and_launchers_are_listed(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    client.sadd(
        "rq:queues", "rq:queue:podrelay.etl.default.launch", "rq:queue:podrelay.etl2.default.launch", "rq:queue:mail"
    )
    for worker in ("podrelay.etl.default.h-1", "podrelay.etl2.default.h-1", "w"):
        client.sadd("rq:workers", f"rq:worker:{worker}")
        client.hset(f"rq:worker:{worker}", mapping={"birth": "2026-11-20T00:00:00.000000Z", "state": "idle"})
    page = make_app(redis_url, client, deployment="etl").test_client()
    queues = page.get("/0/data/queues.json").get_json()["queues"]
    workers = page.get("/0/data/workers.json").get_json()["workers"]
    assert [queue["name"] for queue in queues] == ["podrelay.etl.default.launch"]
    assert [worker["name"] for worker in workers] == ["podrelay.etl.default.h-1"]
