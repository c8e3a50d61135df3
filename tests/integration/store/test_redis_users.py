"""The users that `airflow podrelay acl` prints may do all that podrelay does, and nothing else."""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
from kubernetes.client import models as k8s

from podrelay.cli import commands
from podrelay.cli.acl import PLACEHOLDER, acl_lines, user_name
from podrelay.cli.check import run_checks
from podrelay.cli.dashboard import make_app
from podrelay.errors import ConfigError
from podrelay.protocol import redis_keys
from podrelay.protocol.access import Role
from podrelay.protocol.messages import Json
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.settings import Settings
from podrelay.store.connection import connect
from podrelay.ui.readings import Readings
from tests.harness.commands import type_command
from tests.harness.parity_rig import Task, Workers, workers
from tests.harness.redis_server import find_server
from tests.harness.redis_users import GuardedRedis, cluster_for_users, knows_read_only, lines, password
from tests.harness.task_instances import load, update
from tests.real_cluster.loop import Loop
from tests.real_cluster.server import Server, ended

KEYS = RedisKeys("default")
QUEUE = KEYS.launch_queue("default")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GuardedRedis]:
    find_server()
    monkeypatch.setenv("AIRFLOW__PODRELAY__DEPLOYMENT", "default")
    folder = tmp_path / "redis"
    folder.mkdir()
    with GuardedRedis(folder) as server:
        server.load(*lines(redis_6=not knows_read_only(server.url)))
        yield server


@pytest.fixture
def environment(server: GuardedRedis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    with cluster_for_users(server, tmp_path, monkeypatch) as environment:
        yield environment


@pytest.fixture
def start(server: GuardedRedis, environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[[Role], Workers]]:
    """Starts a launcher or a watcher as its user."""
    with ExitStack() as stack:

        def begin(role: Role) -> Workers:
            more = {**environment, "AIRFLOW__PODRELAY__REDIS_URL": server.url_of(role)}
            return stack.enter_context(workers(tmp_path / role, server.admin, modules=(role,), environment=more))

        yield begin


def succeed(loop: Loop, *tasks: Task) -> None:
    for task in tasks:
        pod = loop.pod(task)
        update(task.ti_id, state="success")
        loop.server.set_status(pod, ended(0))
    assert {loop.event(task)[0] for task in tasks} == {"success"}


def unexpected(server: GuardedRedis) -> list[str]:
    """The denials, without that of CONFIG GET by Redis 6.2, which cannot be asked whether it is allowed."""
    harmless = () if knows_read_only(server.url) else ("command config (toplevel)",)
    return [denial for denial in server.denials() if not denial.endswith(harmless)]


def test_everything_that_podrelay_does_is_allowed(
    airflow_db: None, server: GuardedRedis, environment: dict[str, str], start: Any, monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:  # fmt: skip
    admin = server.admin
    api = Server(Path(environment["AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE"]), "default")
    # A forged pod: the watcher quarantines it with its next comparison.
    admin.hset(
        KEYS.launch("no-such-pod"),
        mapping={"state": "created", "attempt": "0", "namespace": "default", "pod": "forged"},
    )
    admin.zadd(KEYS.live("default"), {"no-such-pod": time.time() - 3600})
    launchers, _ = start("launcher"), start("watcher")
    loop = Loop(api)
    # One succeeds, one fails, one is revoked, one is rejected.
    succeed(loop, *loop.submit())
    bad, pod = loop.run()
    api.set_status(pod, ended(1))
    assert loop.event(bad)[0] == "failed"
    (taken,) = loop.submit()
    pod = loop.pod(taken)
    loop.executor.revoke_task(ti=load(taken.ti_id))
    loop.until(lambda: api.get(pod) is None)
    invalid = k8s.V1Pod(metadata=k8s.V1ObjectMeta(labels={"team": "no / label"}))
    (refused,) = loop.submit(executor_config={"pod_override": invalid})
    assert loop.event(refused)[0] == "failed"
    # A quota is exhausted for a moment, then the API server answers with 503.
    api.call("PUT", "/local-cluster/faults", {"quota": {"default": 0}})
    late = loop.submit(3)
    loop.until(lambda: admin.zcard(redis_keys.rq_scheduled(QUEUE)))
    api.call("PUT", "/local-cluster/faults", {"rules": [{"verbs": ["create"], "status": 503, "count": 2}]})
    succeed(loop, *late)
    # A launcher is killed while it holds jobs: another one takes them over.
    api.call("PUT", "/local-cluster/faults", {"rules": [{"verbs": ["create"], "hang": True}]})
    held = loop.submit(3)
    loop.until(lambda: admin.zcard(redis_keys.rq_started(QUEUE)) == 3)
    launchers.kill("launcher")
    launchers.start("launcher")
    api.call("PUT", "/local-cluster/faults", {})
    succeed(loop, *held)
    assert {int(admin.hget(f"rq:job:{task.launch_id}_0", "losses")) for task in held} == {1}
    # A second scheduler hands over beside the first, and adopts what that one leaves behind.
    (orphan,) = loop.submit()
    loop.pod(orphan)
    loop.executor._breaker.close()
    loop = Loop(api)
    assert not loop.executor.try_adopt_task_instances([load(orphan.ti_id)])
    succeed(loop, orphan)
    # What nobody can read goes to quarantine, on all sides.
    admin.hset("rq:job:forged_0", mapping={"status": "queued", "data": "[]"})
    admin.rpush(redis_keys.rq_queue(QUEUE), "forged_0", "not-ours")
    admin.xadd(KEYS.results, {"result": "forged"})
    loop.until(lambda: admin.xlen(KEYS.quarantine) >= 4)
    assert unexpected(server) == []
    # Redis restarts and has lost everything but its users. A task that has reported success in the meantime needs no event.
    (running, pod), (waits,) = loop.run(), loop.submit()
    pods = {running: pod, waits: loop.pod(waits)}
    server.kill()
    server.start()
    for task, pod in pods.items():
        update(task.ti_id, state="success")
        api.set_status(pod, ended(0))
    loop.until(lambda: not loop.executor.running, "the end of what Redis has forgotten")
    (last,) = loop.submit()
    succeed(loop, last)
    # What people type and see.
    role: Role
    for role in ("scheduler", "launcher", "watcher"):
        monkeypatch.setenv("AIRFLOW__PODRELAY__REDIS_URL", server.url_of(role))
        failed = {
            item.name: item.detail for item in run_checks(None, None if role == "scheduler" else role) if not item.ok
        }
        assert failed == {}
    for role in ("scheduler", "status"):
        monkeypatch.setenv("AIRFLOW__PODRELAY__REDIS_URL", server.url_of(role))
        for launch in (None, last.launch_id):
            assert type_command("status", "--json", *(["--launch", launch] if launch else [])) in (0, 1)
    assert all("error" not in page for page in asyncio.run(pages(last.launch_id)))
    monkeypatch.setenv("AIRFLOW__PODRELAY__REDIS_URL", server.url_of("operator"))
    loop.until(lambda: admin.scard(redis_keys.rq_workers(QUEUE)), "the registration of the launcher")
    assert type_command("drain", "--all", "--wait", "--timeout", "30") == 0
    loop.executor.end()
    assert unexpected(server) == []
    printed = capsys.readouterr().out
    assert '"launchers"' in printed
    assert "has ended" in printed


async def pages(launch_id: str) -> list[Json]:
    """What the pages in Airflow's user interface show."""
    readings = Readings()
    return list(
        await asyncio.gather(readings.now("default"), readings.history("default"), readings.entries([launch_id]))
    )


# --- the dashboard ------------------------------------------------------------------------------------------------
PAGES = ["/0/view", "/0/view/workers", "/0/view/jobs", "/0/view/job/l1_0", "/0/data/job/l1_0.json",
         "/0/data/workers.json", "/0/data/queues.json"]  # fmt: skip
PAGES += [
    f"/0/{kind}/jobs/{QUEUE}/{registry}/8/{order}/1{end}"
    for kind, end in (("view", ""), ("data", ".json"))
    for registry in ("queued", "failed", "deferred", "started", "finished", "scheduled", "canceled")
    for order in ("asc", "dsc")
]
BUTTONS = ["/job/l0_0/requeue", f"/requeue/{QUEUE}", "/job/l1_0/delete", f"/queue/{QUEUE}/compact"]
BUTTONS += [f"/queue/{QUEUE}/{registry}/empty" for registry in ("failed", "finished", "scheduled", "started", "queued")]


@pytest.fixture
def jobs(server: GuardedRedis) -> Any:
    """Jobs in every place where ours can be, a launcher that lives and one that has expired, and a queue of somebody else."""
    admin = server.admin
    places = {"queued": redis_keys.rq_queue, "failed": redis_keys.rq_failed, "finished": redis_keys.rq_finished,
              "scheduled": redis_keys.rq_scheduled, "started": redis_keys.rq_started}  # fmt: skip
    for number in range(12):
        status = list(places)[(number + 1) % 5]
        job = f"l{number}_0"
        admin.hset(f"rq:job:{job}", mapping={
            "created_at": "2026-11-20T00:00:00.000000Z", "data": json.dumps(["f", None, ["x"], {}]),
            "description": "etl.load", "origin": QUEUE, "status": status, "timeout": "180",
        })  # fmt: skip
        if status == "queued":
            admin.rpush(places[status](QUEUE), job)
        else:
            admin.zadd(places[status](QUEUE), {f"{job}:e" if status == "started" else job: 4e9})
    admin.xadd("rq:results:l0_0", {"type": 2, "exc_string": "eJwDAAAAAAE="})
    admin.sadd("rq:queues", redis_keys.rq_queue(QUEUE), "rq:queue:mail")
    alive = KEYS.worker("default", "host-1-aa")
    admin.hset(alive, mapping={"birth": "2026-11-20T00:00:00.000000Z", "queues": QUEUE, "state": "idle"})
    admin.sadd("rq:workers", alive, KEYS.worker("default", "expired"), "rq:worker:of-somebody-else")
    return admin


def app_as(server: GuardedRedis, role: Role) -> Any:
    pytest.importorskip("rq_dashboard.web")
    url = server.url_of(role)
    return make_app(url, connect(Settings(url, "")), deployment="default").test_client()


@pytest.mark.parametrize("role", ["dashboard", "operator"])
def test_every_page_of_the_dashboard_can_be_read(server: GuardedRedis, jobs: Any, role: Role) -> None:
    page = app_as(server, role)
    shown = {path: page.get(path, follow_redirects=True) for path in PAGES}
    assert {path: answer.status_code for path, answer in shown.items()} == dict.fromkeys(PAGES, 200)
    assert [queue["name"] for queue in shown["/0/data/queues.json"].get_json()["queues"]] == [QUEUE]
    (worker,) = shown["/0/data/workers.json"].get_json()["workers"]
    assert worker["queues"] == [QUEUE]
    assert server.denials() == []
    assert jobs.scard("rq:workers") == 3, "a page changes nothing"


def test_every_button_of_the_dashboard_works_as_operator(server: GuardedRedis, jobs: Any) -> None:
    page = app_as(server, "operator")
    assert {path: page.post(path).status_code for path in BUTTONS} == dict.fromkeys(BUTTONS, 200)
    assert server.denials() == []
    assert jobs.llen(redis_keys.rq_queue(QUEUE)) == 0
    assert page.post("/queue/mail/queued/empty").status_code == 403


def test_no_button_of_the_dashboard_works_for_who_may_only_read(server: GuardedRedis, jobs: Any) -> None:
    if not knows_read_only(server.url):
        pytest.skip("Redis 6.2 knows no patterns for reading only")
    page = app_as(server, "dashboard")
    before = {key: jobs.dump(key) for key in jobs.keys()}  # noqa: SIM118
    for path in BUTTONS:
        answer = page.post(path)
        assert answer.status_code == 403, path
        assert answer.get_data(as_text=True).startswith("Redis denies "), path
        assert user_name("default", "dashboard") in answer.get_data(as_text=True)
    assert {key: jobs.dump(key) for key in jobs.keys()} == before  # noqa: SIM118


# --- what is denied -------------------------------------------------------------------------------------------------
EVERYBODY: tuple[Role, ...] = ("scheduler", "launcher", "watcher", "status", "dashboard", "operator", "task")
DENIED: list[tuple[tuple[Role, ...], tuple[str, ...]]] = [
    (("watcher",), ("LPUSH", redis_keys.rq_queue(QUEUE), "l_0")),
    (("watcher",), ("HGET", "rq:job:l_0", "data")),
    (("watcher",), ("HGET", KEYS.current, "subject")),
    (("watcher",), ("HSET", KEYS.current, "subject", "launch")),
    (("launcher",), ("HSET", KEYS.watch("default"), "leader", "me")),
    (("status", "dashboard"), ("HSET", KEYS.launch("l"), "state", "finished")),
    (("status",), ("HGETALL", "rq:job:l_0")),
    (("dashboard", "operator", "task"), ("HGETALL", KEYS.launch("l"))),
    (("task",), ("RPUSH", KEYS.mailbox_in("m"), "workload")),
    (("task",), ("GET", KEYS.current)),
    (("dashboard",), ("DEL", "rq:job:l_0")),
    (("dashboard",), ("LPOP", redis_keys.rq_queue(QUEUE))),
    (("status", "dashboard", "watcher"), ("PUBLISH", KEYS.wake("default"), "1")),
    (EVERYBODY, ("HGETALL", RedisKeys("default2").launch("l"))),
    (EVERYBODY, ("HGETALL", "podrelay:other:current")),
    (EVERYBODY, ("LPUSH", redis_keys.rq_queue(RedisKeys("default2").launch_queue("default")), "l_0")),
    (EVERYBODY, ("LRANGE", "rq:queue:mail", "0", "-1")),
    (EVERYBODY, ("HGETALL", "rq:job:0b86a51a-6f7e-4a34-8d4e-6b3d6f0f9a55")),
    (EVERYBODY, ("PUBLISH", RedisKeys("default2").wake("default"), "1")),
    (EVERYBODY, ("SET", "somebody:else", "1")),
    (EVERYBODY, ("CONFIG", "GET", "requirepass")),
    (EVERYBODY, ("ACL", "LIST")),
    (EVERYBODY, ("FLUSHALL",)),
    (EVERYBODY, ("KEYS", "*")),
    (EVERYBODY, ("SCAN", "0")),
    (EVERYBODY, ("MONITOR",)),
    (EVERYBODY, ("EVAL", "return redis.call('GET', 'somebody:else')", "0")),
]


# These keys may be read: Redis 6.2 does not distinguish reading from writing.
READ_ONLY: list[tuple[tuple[Role, ...], tuple[str, ...]]] = [
    (("launcher",), ("HSET", KEYS.current, "subject", "launch")),
    (("launcher", "scheduler"), ("SET", "rq:suspended", "1")),
    (("scheduler",), ("HSET", KEYS.watch("default"), "leader", "me")),
    (("scheduler",), ("HSET", KEYS.throttle("default"), "until", "1")),
    (("scheduler",), ("ZADD", KEYS.live("default"), "1", "l")),
]
CASES = [(role, command) for roles, command in [*DENIED, *READ_ONLY] for role in roles]


@pytest.mark.parametrize(
    ("role", "command"), CASES, ids=lambda item: item if isinstance(item, str) else " ".join(item)[:40]
)
def test_everything_else_is_denied(server: GuardedRedis, role: Role, command: tuple[str, ...]) -> None:
    if command in [found for _, found in READ_ONLY] and not knows_read_only(server.url):
        pytest.skip("Redis 6.2 does not distinguish reading from writing")
    with connect(Settings(server.url_of(role), "")) as client, pytest.raises(redis.exceptions.NoPermissionError):
        client.execute_command(*command)
    assert [user_name("default", role) in entry for entry in server.denials()] == [True]


@pytest.mark.parametrize(("mine", "other"), [("default", "default2"), ("default2", "default"), ("default", "d*")])
def test_a_deployment_reads_nothing_of_another(
    server: GuardedRedis, monkeypatch: pytest.MonkeyPatch, mine: str, other: str
) -> None:
    monkeypatch.setenv("AIRFLOW__PODRELAY__DEPLOYMENT", "default2")
    server.load(*lines(redis_6=not knows_read_only(server.url)))
    theirs = RedisKeys(other)
    queue = redis_keys.rq_queue(theirs.launch_queue("default"))
    keys = [
        theirs.launch("l"),
        theirs.current,
        theirs.results,
        theirs.quarantine,
        theirs.epoch,
        theirs.key_rings,
        queue,
    ]
    for role in EVERYBODY:
        with connect(Settings(server.url_of(role, mine), "")) as client:
            for key in keys:
                with pytest.raises(redis.exceptions.NoPermissionError):
                    client.execute_command("EXISTS" if role in ("status", "dashboard", "operator") else "DEL", key)


def test_a_worker_of_a_team_is_confined_to_it(server: GuardedRedis) -> None:
    source = io.StringIO(password("launcher"))
    redis_6 = not knows_read_only(server.url)
    server.load(*acl_lines("ops", "launcher", "file", redis_6=redis_6, password_from=source))
    login = f"//{user_name('default', 'launcher', 'ops')}:{password('launcher')}@"
    client = redis.Redis.from_url(server.url.replace("//", login))
    client.lpush(redis_keys.rq_queue(KEYS.launch_queue("ops")), "l_0")
    for cluster in ("default", "ops2", "op"):
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.lpush(redis_keys.rq_queue(KEYS.launch_queue(cluster)), "l_0")


# --- what the command prints ----------------------------------------------------------------------------------------
def test_the_commands_for_redis_cli_make_the_same_users(server: GuardedRedis) -> None:
    redis_6 = not knows_read_only(server.url)
    before = users(server.admin)
    for role in EVERYBODY:
        source = io.StringIO(password(role))
        (line,) = acl_lines(None, role, "setuser", redis_6=redis_6, password_from=source)
        server.admin.execute_command("ACL", "SETUSER", line.split()[2], "allkeys", "+@all", ">old")
        server.admin.execute_command(*line.split())
    assert users(server.admin) == before


def users(admin: Any) -> dict[str, Any]:
    """What each user may do, apart from flags that a server sets by itself."""
    found = {name: admin.acl_getuser(name) for name in admin.acl_users()}
    return {name: {what: user[what] for what in user if what != "flags"} for name, user in found.items()}


def printed(capsys: Any, **options: Any) -> tuple[int, str, str]:
    given = {"team": None, "process": None, "format": "file", "password_stdin": False, "redis_6": False, **options}
    with pytest.raises(SystemExit) as ended_with:
        commands.acl(argparse.Namespace(**given))
    found = capsys.readouterr()
    return int(ended_with.value.code or 0), found.out, found.err


def test_no_password_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("AIRFLOW__PODRELAY__REDIS_URL", "redis://user:SECRET@host/3")
    code, out, _ = printed(capsys)
    assert (code, out.count("\n"), out.count(PLACEHOLDER)) == (0, 7, 7)
    assert "SECRET" not in out
    assert out.count("+select") == 7, "the database is another than 0"
    monkeypatch.setattr("sys.stdin", io.StringIO("hunter2\n"))
    code, out, _ = printed(capsys, process="watcher", password_stdin=True)
    assert code == 0
    assert " #f52fbd32b2b3b86ff88ef6c490628285f482af15ddcb29541f94bcf526a3f6c7 " in out
    assert "hunter2" not in out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"password_stdin": True}, "--password-stdin needs --process"),
        ({"password_stdin": True, "process": "watcher"}, "the first line of the standard input is empty"),
        ({"team": "ops", "process": "scheduler"}, "one scheduler serves all teams"),
    ],
)
def test_a_mistake_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: Any, options: Any, says: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    code, out, err = printed(capsys, **options)
    assert (code, out) == (commands.USAGE_ERROR, "")
    assert says in err


def test_the_placeholder_is_refused_by_redis(server: GuardedRedis) -> None:
    (line,) = acl_lines(None, "status", "setuser", redis_6=True)
    with pytest.raises(redis.exceptions.ResponseError, match="SHA256"):
        server.admin.execute_command(*line.split())


def test_with_teams_one_scheduler_serves_all(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    _, out, _ = printed(capsys)
    assert "podrelay:default:live:default" in out
    monkeypatch.setenv("AIRFLOW__CORE__MULTI_TEAM", "True")
    _, out, _ = printed(capsys)
    users = {line.split()[1]: line for line in out.splitlines()}
    assert "podrelay:default:live:* " in users[user_name("default", "scheduler")]
    assert "podrelay:default:live:default " in users[user_name("default", "launcher")]
    _, out, _ = printed(capsys, team="ops")
    assert [line.split()[1] for line in out.splitlines()] == [
        "podrelay.default.launcher.ops",
        "podrelay.default.watcher.ops",
    ]
    with pytest.raises(ConfigError):
        acl_lines("ops", "status", "file", redis_6=False)
