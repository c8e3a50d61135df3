"""`airflow podrelay status --launch` and `--task`: one launch, from Redis and from Airflow's database."""

from __future__ import annotations

import json
import re
import time
import uuid
from typing import Any

import pytest
import redis
from airflow.models.log import Log
from airflow.models.taskinstancehistory import TaskInstanceHistory
from airflow.utils.session import create_session
from cryptography.fernet import Fernet

from podrelay import event_log
from podrelay.cli.launch import KnownLaunch
from podrelay.cli.status import describe_launch
from podrelay.protocol import identifiers
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.messages import PodReport
from podrelay.protocol.redis_keys import RedisKeys, fair_queue_mark, rq_queue, rq_scheduled
from tests.conftest import FERNET_KEY
from tests.harness.commands import type_command
from tests.harness.redis_server import free_port
from tests.harness.task_instances import load, make_task_instances

KEYS = RedisKeys("status")
LAUNCH = "0190d5b2-3c4e-8a1b-9f00-1234567890ab"
POD = identifiers.pod_name("etl-load", LAUNCH, 1)
QUEUE = KEYS.launch_queue("default")
ENTRY = {
    "state": "created", "attempt": "1", "owner": "7", "queue": QUEUE, "cluster": "default", "pod": POD, "kind": "task",
    "key": '["etl", "load", "manual__1", 1, -1]',
}  # fmt: skip


@pytest.fixture
def client(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> redis.Redis:
    monkeypatch.setenv("AIRFLOW__PODRELAY__REDIS_URL", redis_url)
    monkeypatch.setenv("AIRFLOW__PODRELAY__DEPLOYMENT", KEYS.deployment)
    return redis.Redis.from_url(redis_url)


def enter(client: redis.Redis, **changes: Any) -> None:
    client.hset(KEYS.launch(LAUNCH), mapping={**ENTRY, "t_offered": time.time() - 30, **changes})


def seal(outcome: str, launch_id: str = LAUNCH, key: str = FERNET_KEY, **fields: Any) -> str:
    report = PodReport(launch_id, fields.pop("attempt", 1), outcome, **fields)  # type: ignore[arg-type]
    return PayloadCipher(key, KEYS.deployment).reports.encrypt(report.encode())


def publish(client: redis.Redis, sealed: str, launch_id: str = LAUNCH) -> None:
    client.xadd(KEYS.results, {"launch": launch_id, "attempt": "1", "outcome": "x", "result": sealed})


def known(name: str = LAUNCH) -> KnownLaunch:
    found = describe_launch(name, time.time())
    assert found is not None
    return found


# --- which launch -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "attempt"),
    [(LAUNCH, None), (f"{LAUNCH}_1", 1), (f"rq:job:{LAUNCH}_0", 0), (f"{LAUNCH}_0-pending-revoke", 0), (POD, 1),
     (f"airflow/{POD}", 1), (f" {LAUNCH}\n", None)],
)  # fmt: skip
def test_a_launch_by_any_of_its_names(client: redis.Redis, name: str, attempt: int | None) -> None:
    enter(client)
    found = known(name)
    assert (found.launch_id, found.asked_attempt) == (LAUNCH, attempt)
    assert found.entry["pod"] == POD


@pytest.mark.parametrize("as_json", [False, True])
def test_a_launch_is_shown_with_its_steps(
    client: redis.Redis, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    enter(client, state="acknowledged", t_offered="1", t_claimed="1.5")
    assert type_command("status", "--launch", LAUNCH, *(["--json"] if as_json else [])) == 0
    output = capsys.readouterr().out
    if as_json:
        found = json.loads(output)
        assert (found["state"], found["t_offered"], found["key"]) == (
            "acknowledged",
            "1",
            ["etl", "load", "manual__1", 1, -1],
        )
    else:
        assert output.startswith("task         etl.load, try 1\nrun          manual__1\nlaunch       " + LAUNCH)
        assert output.endswith("offered      1970-01-01 00:00:01.000\nclaimed      1970-01-01 00:00:01.500  +0.500 s\n")


@pytest.mark.parametrize("name", ["no-such-id", "", "a/b", "\x1b", "x" * 100_000])
def test_an_unknown_launch_is_an_error_that_names_the_option(
    client: redis.Redis, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    if not name:
        assert describe_launch(name, time.time()) is None
        return
    assert type_command("status", "--launch", name) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "in the ledger. An entry expires [podrelay] ledger_ttl_s" in shown.err
    assert "\x1b" not in shown.err
    assert len(shown.err) < 1000


def test_a_launch_with_odd_values_is_shown_as_it_is(client: redis.Redis, capsys: pytest.CaptureFixture[str]) -> None:
    odd = {
        "state": b"\xff",
        "t_offered": "x",
        "t_claimed": "1e300",
        "t_created": "9" * 400,
        "queue": "odd\x1b",
        "z": "9" * 9000,
    }
    client.hset(KEYS.launch("odd"), mapping=odd)
    client.hset(KEYS.launch("odd-2"), mapping={"state": "waiting", "attempt": "x" * 50, "queue": "rq:other"})
    assert type_command("status", "--launch", "odd") == 0
    shown = capsys.readouterr().out
    assert "offered" in shown
    assert "\x1b" not in shown
    assert len(shown) < 6000
    assert type_command("status", "--launch", "odd-2") == 0
    client.set(KEYS.launch("odd-3"), "x")
    assert type_command("status", "--launch", "odd-3") == 1


# --- what it waits for ------------------------------------------------------------------------------------------------
def test_a_queued_launch_says_how_many_are_ahead(client: redis.Redis) -> None:
    enter(client, state="offered")
    client.rpush(rq_queue(QUEUE), "a_0", "b_0", f"{LAUNCH}_1")
    assert known().waits_for == f"launches ahead in queue {QUEUE}: 2; no launcher is running"
    fair = QUEUE + fair_queue_mark("7")
    client.delete(rq_queue(QUEUE))
    client.rpush(rq_queue(fair), f"{LAUNCH}_1")
    client.hset(KEYS.fair_queues("default"), fair, QUEUE)
    assert known().waits_for == f"launches ahead in queue {fair}: 0; no launcher is running"


def test_a_launch_that_was_held_back_says_why_and_until_when(client: redis.Redis) -> None:
    enter(client, state="waiting", reason="QuotaExceeded", message="used up")
    client.zadd(rq_scheduled(QUEUE), {f"{LAUNCH}_1": time.time() + 20})
    assert re.fullmatch(
        r"QuotaExceeded: used up; the next try is due in (19|20) s; no launcher is running", known().waits_for
    )


def test_a_pod_that_waits_says_what_the_watcher_reported(client: redis.Redis) -> None:
    enter(client)
    assert known().waits_for == "the start of its pod"
    publish(client, seal("pending", reason="ErrImagePull", message="no such image"))
    assert known().waits_for == "ErrImagePull: no such image"
    publish(client, seal("started"))
    enter(client, state="started")
    assert known().waits_for == ""


# --- reports ----------------------------------------------------------------------------------------------------------
def test_reports_are_those_about_this_launch_in_order(client: redis.Redis) -> None:
    end = seal("failed", reason="Error", exit_code=3, log_tail=("first", "second"))
    enter(client, state="finished", result=end)
    publish(client, seal("pending", attempt=0, reason="R"))
    publish(client, seal("started", str(uuid.uuid4())), str(uuid.uuid4()))
    publish(client, seal("started", str(uuid.uuid4())), LAUNCH)  # of another launch: the field beside it is forged
    publish(client, end)
    found = known()
    assert [(report.attempt, report.outcome) for report in found.reports] == [(0, "pending"), (1, "failed")]
    assert found.log_report is not None and found.log_report.log_tail == ("first", "second")
    client.delete(KEYS.results)
    assert [report.outcome for report in known().reports] == ["failed"], "the ledger holds the end"
    assert "result" not in known().entry


def test_of_a_long_stream_the_latest_entries_are_read(client: redis.Redis) -> None:
    enter(client)
    publish(client, seal("pending", attempt=0))
    pipeline = client.pipeline()
    for _ in range(1200):
        pipeline.xadd(KEYS.results, {"launch": "other", "result": "x"})
    pipeline.execute()
    publish(client, seal("started"))
    assert [report.outcome for report in known().reports] == ["pending", "started"]


@pytest.mark.parametrize(
    ("key", "why"),
    [(Fernet.generate_key().decode(), "another Fernet key"), ("", "no Fernet key is configured here")],
    ids=["another key", "no key"],
)
def test_reports_that_cannot_be_decrypted_are_said(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], key: str, why: str
) -> None:
    enter(client, result=seal("failed"))
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", key)
    assert type_command("status", "--launch", LAUNCH) == 0
    shown = capsys.readouterr().out
    assert "reports about this launch cannot be read: " in shown
    assert why in shown
    assert "airflow podrelay status --task etl load manual__1\n" in shown


# --- a task instance --------------------------------------------------------------------------------------------------
def task(**values: Any) -> tuple[Any, tuple[str, str, str]]:
    ti = load(make_task_instances(**values)[0])
    return ti, (ti.dag_id, ti.task_id, ti.run_id)


def log_event(ti: Any, text: str, event: str = event_log.FAILED, try_number: int = 1) -> None:
    with create_session() as session:
        row = Log(
            event=event, extra=text, owner=event_log.OWNER, dag_id=ti.dag_id, task_id=ti.task_id, run_id=ti.run_id
        )
        row.map_index, row.try_number = ti.map_index, try_number
        session.add(row)


@pytest.fixture
def _db(client: redis.Redis, airflow_db: None) -> None:
    """Redis and a database."""


@pytest.mark.usefixtures("_db")
def test_a_task_is_found_with_its_events(client: redis.Redis, capsys: pytest.CaptureFixture[str]) -> None:
    ti, words = task()
    log_event(ti, event_log.row_text("exit code 3", ti.external_executor_id, 0, pod="p", namespace="n", tail=["oh"]))
    log_event(ti, "of Airflow", "running")
    assert type_command("status", "--task", *words) == 0
    shown = capsys.readouterr().out
    assert f"launch       {ti.external_executor_id}" in shown
    assert "state        unknown: the ledger no longer holds it" in shown
    assert f"pod failed: exit code 3\n    Launch {ti.external_executor_id}, attempt 0, pod n/p\n" in shown
    assert "    Last log lines:\n        oh\n" in shown
    assert "of Airflow" not in shown
    client.hset(KEYS.launch(ti.external_executor_id), mapping=ENTRY)
    assert type_command("status", "--task", *words, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["launch"], found["state"]) == (ti.external_executor_id, "created")
    assert [one["launch_id"] for one in found["tries"]] == [ti.external_executor_id]


@pytest.mark.usefixtures("_db")
def test_the_latest_try_with_a_launch_is_shown_and_the_others_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    ti, words = task(state="up_for_retry", external_executor_id=None)
    first = str(uuid.uuid4())
    with create_session() as session:
        ti = session.merge(ti)
        session.add(TaskInstanceHistory(ti, state="failed"))
        session.flush()
        session.query(TaskInstanceHistory).filter_by(dag_id=ti.dag_id).update({"external_executor_id": first})
        ti.try_number = 2
    assert type_command("status", "--task", *words) == 0
    shown = capsys.readouterr().out
    assert f"launch       {first}" in shown
    assert f"tries\n    1  failed  launch {first}  (shown above)\n    2  up_for_retry  launch none\n" in shown


@pytest.mark.usefixtures("_db")
def test_a_task_that_cannot_be_shown_says_what_there_is_instead(capsys: pytest.CaptureFixture[str]) -> None:
    def said(*words: str) -> str:
        assert type_command("status", "--task", *words) == 1
        return capsys.readouterr().err

    ti, (dag_id, task_id, run_id) = task()
    assert f"no run absent of DAG {dag_id}" in said(dag_id, task_id, "absent")
    assert f"no task absent of DAG {dag_id} in run {run_id}" in said(dag_id, "absent", run_id)
    assert "no run x  of DAG" in said(dag_id, task_id, "x\x1b")
    assert "has no map index 3; there is -1" in said(dag_id, task_id, run_id, "3")
    _, words = task(state="scheduled", external_executor_id=None)
    assert "has no launch of podrelay. Its state is scheduled" in said(*words)
    _, words = task(state="running", external_executor_id="celery-id")
    assert "Its state is running, its external_executor_id celery-id" in said(*words)
    _, words = task(count=1)
    with create_session() as session:
        first = session.merge(ti)
        first.map_index = 0
    with_index = make_mapped(ti)
    assert "has 2 mapped instances; add a map index, 0 to 1" in said(dag_id, task_id, run_id)
    assert type_command("status", "--task", dag_id, task_id, run_id, "1") == 0
    assert f"launch       {with_index}" in capsys.readouterr().out


def make_mapped(ti: Any) -> str:
    """A second instance of a mapped task; its launch id."""
    from airflow.models.taskinstance import TaskInstance

    other = load(make_task_instances()[0])
    with create_session() as session:
        session.query(TaskInstance).filter_by(id=other.id).update(
            {"dag_id": ti.dag_id, "run_id": ti.run_id, "task_id": ti.task_id, "map_index": 1}
        )
    return str(other.external_executor_id)


@pytest.mark.parametrize("words", [("a",), ("a", "b"), ("a", "b", "c", "x"), ("a", "b", "c", "1", "2")])
def test_a_task_is_three_or_four_words(
    client: redis.Redis, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert type_command("status", "--task", *words) == 2
    assert "--task takes a DAG id" in capsys.readouterr().err


def test_it_does_not_know_without_redis(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], airflow_db: None
) -> None:
    monkeypatch.setenv("AIRFLOW__PODRELAY__REDIS_URL", f"redis://127.0.0.1:{free_port()}/0")
    _, words = task()
    assert type_command("status", "--task", *words) == 2
    assert type_command("status", "--launch", LAUNCH) == 2
    assert capsys.readouterr().err.count("Connection refused") == 2


# --- warm pods --------------------------------------------------------------------------------------------------------
WARM = identifiers.warm_pod_name("etl", "0123456789abcdef" * 2)


@pytest.mark.parametrize("field", ["pod", "warm_pod"])
@pytest.mark.parametrize("name", [WARM, f"airflow/{WARM}"])
def test_the_launch_of_a_warm_pod(client: redis.Redis, field: str, name: str) -> None:
    """Its name says nothing about the launch: it is looked for in the ledger, among the launches with reports."""
    for number in range(3):
        publish(client, seal("started"), str(uuid.UUID(int=number + 1)))
    publish(client, seal("started", pod=WARM))
    enter(client, **{"pod": POD, field: WARM})
    client.xadd(KEYS.results, {"launch": "no id", "result": "x"})
    assert known(name).launch_id == LAUNCH


def test_a_warm_pod_that_no_launch_has(client: redis.Redis, capsys: Any) -> None:
    enter(client)
    publish(client, seal("started"))
    assert describe_launch(WARM, time.time()) is None
    assert type_command("status", "--launch", WARM) == 1
    assert "its label podrelay/launch-id does" in capsys.readouterr().err


@pytest.mark.parametrize("as_json", [False, True])
def test_how_its_pod_began(client: redis.Redis, capsys: Any, as_json: bool) -> None:
    enter(client, pod=WARM, warm_pod=WARM, warm_id="0" * 32, warm_record="SEALED", delivered="1", start="warm")
    assert type_command("status", "--launch", LAUNCH, *(["--json"] if as_json else [])) == 0
    shown = capsys.readouterr().out
    assert "SEALED" not in shown
    if as_json:
        assert json.loads(shown)["start"] == "warm"
    else:
        lines = {line[:12].strip(): line[13:] for line in shown.splitlines()}
        assert (lines["start"], lines["pod"]) == ("a warm pod", WARM)
        assert {"warm_pod", "warm_id", "delivered"} & set(lines) == set()
