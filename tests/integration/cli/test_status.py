"""`airflow podrelay status` shows the present state of launchers and watcher, not that of processes that are gone."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
import redis
from rq import suspension

from podrelay.cli.status import overview
from podrelay.cli.status_text import render_overview
from podrelay.protocol.redis_keys import RedisKeys, rq_failed, rq_queue, rq_scheduled, rq_started, rq_workers
from tests.harness.commands import type_command
from tests.harness.redis_server import free_port

KEYS = RedisKeys("status")


@pytest.fixture
def client(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> redis.Redis:
    monkeypatch.setenv("AIRFLOW__PODRELAY__REDIS_URL", redis_url)
    monkeypatch.setenv("AIRFLOW__PODRELAY__DEPLOYMENT", KEYS.deployment)
    return redis.Redis.from_url(redis_url)


def shown() -> str:
    return render_overview(overview(None, time.time()))


def lead(client: redis.Redis, for_s: float, **more: str) -> None:
    seconds, _ = client.time()  # type: ignore[misc]
    fields = {
        "leader": "host-7",
        "fence": "1",
        "expires": f"{seconds + for_s:.3f}",
        "t_listed": f"{time.time():.3f}",
        **more,
    }
    client.hset(KEYS.watch("default"), mapping=fields)


def work(client: redis.Redis) -> None:
    """A launcher and a leading watcher."""
    launcher = KEYS.worker("default", "host-1")
    client.sadd(rq_workers(KEYS.launch_queue("default")), launcher)
    client.hset(launcher, "state", "idle")
    client.expire(launcher, 60)
    lead(client, 30.0)


# --- exit codes -------------------------------------------------------------------------------------------------------
def test_the_exit_code_says_whether_all_is_well(client: redis.Redis, capsys: pytest.CaptureFixture[str]) -> None:
    assert type_command("status") == 1
    assert "cluster default: degraded" in capsys.readouterr().out
    work(client)
    assert type_command("status") == 0
    assert "cluster default: ok\n" in capsys.readouterr().out
    assert type_command("status", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["problems"]) == (True, [])


@pytest.mark.parametrize("words", [(), ("--json",), ("--launch", "x")])
def test_it_does_not_know_without_redis(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("AIRFLOW__PODRELAY__REDIS_URL", f"redis://127.0.0.1:{free_port()}/0")
    assert type_command("status", *words) == 2
    assert "Connection refused" in capsys.readouterr().err


def test_it_does_not_know_with_a_wrong_option(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AIRFLOW__PODRELAY__REDIS_URL", "no address")
    assert type_command("status") == 2
    assert "redis_url" in capsys.readouterr().err


@pytest.mark.parametrize("interval", ["0", "-1", "nan", "inf", "x"])
def test_an_interval_is_a_number_above_zero(capsys: pytest.CaptureFixture[str], interval: str) -> None:
    assert type_command("status", "--watch", "--interval", interval) == 2
    assert "argument --interval" in capsys.readouterr().err


# --- watcher, pauses, quarantine --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "args",
    [("status", "--launch", "\udcff"), ("status", "--task", "etl", "load", "\udcff"), ("status", "--team", "\udcff"),
     ("drain", "--all", "--team", "\udcff"), ("drain", "\udcff")],
)  # fmt: skip
def test_bytes_that_are_no_text_are_a_mistake_in_one_line(
    args: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert type_command(*args) == 2
    assert capsys.readouterr().err == "podrelay: '\\udcff' is no text in UTF-8\n"


def test_without_processes_it_names_the_commands_that_start_them(client: redis.Redis) -> None:
    assert "launchers: none  <- start one: airflow podrelay launcher" in shown()
    assert "watcher: none  <- start one: airflow podrelay watcher (never listed)" in shown()


def test_the_leading_watcher_and_its_pods(client: redis.Redis) -> None:
    lead(client, 30.0, pods="12", trouble="")
    assert "watcher: host-7 (12 pods, listed 0 s ago)" in shown()
    assert "not ready" not in shown()


def test_a_watcher_without_access_is_not_ready(client: redis.Redis) -> None:
    lead(client, 30.0, trouble="list: 403 pods is forbidden (default)")
    assert "not ready: list: 403 pods is forbidden (default)" in shown()


def test_a_dead_watcher_without_a_successor_is_none(client: redis.Redis) -> None:
    lead(client, -10.0, trouble="list: 403 (default)")
    assert "watcher: none  <- start one: airflow podrelay watcher (listed 0 s ago)" in shown()
    assert "not ready" not in shown()


@pytest.mark.parametrize("expires", ["inf", "nan", "x", "9" * 300])
def test_a_lead_that_no_watcher_could_have_is_none(client: redis.Redis, expires: str) -> None:
    lead(client, 1e6)
    assert "watcher: none" in shown()
    lead(client, 30.0, expires=expires, pods="x", t_listed="x")
    assert "watcher: none" in shown()


@pytest.mark.parametrize("until", ["inf", "nan", "x", "4000000000"])
def test_a_pause_that_no_launcher_writes_is_not_shown_as_one(client: redis.Redis, until: str) -> None:
    client.hset(KEYS.throttle("default"), mapping=dict.fromkeys(["until", "until:etl", "cleanup_until"], until))
    assert "for another" not in shown()


def test_a_suspension_is_shown_with_what_ends_it(client: redis.Redis) -> None:
    assert "suspended" not in shown()
    suspension.suspend(client)
    assert "suspended: launchers take nothing  <- go on with: rq resume --url REDIS_URL" in shown()


def test_a_pause_names_its_scope_and_reason(client: redis.Redis) -> None:
    now_s = time.time()
    pauses = {
        "until": now_s + 60,
        "reason": "429",
        "until:etl": now_s + 60,
        "reason:etl": "quota",
        "until:old": now_s - 1,
    }
    client.hset(KEYS.throttle("default"), mapping=pauses)
    lines = [line for line in shown().splitlines() if line.startswith("throttled")]
    assert len(lines) == 2
    assert lines[0].startswith("throttled: all launches, for another ")
    assert lines[0].endswith(" s: 429")
    assert lines[1].startswith("throttled: namespace etl, for another ")
    assert lines[1].endswith(" s: quota")


def test_the_quarantine_is_counted_by_reason(client: redis.Redis, capsys: pytest.CaptureFixture[str]) -> None:
    assert overview(None, time.time())["quarantine_reasons"] == {}
    for number in range(3):
        client.xadd(KEYS.quarantine, {"key": "k", "why": "a key of another type, deleted"})
        client.xadd(KEYS.quarantine, {"stream_entry": "1-0", "why": f"{number} reports up to this one are odd"})
        client.xadd(KEYS.quarantine, {"job": "j", "why": f"a job with 200000{number} bytes of data"})
    client.xadd(KEYS.quarantine, {"x": b"\xff", "why": b"a \x1b[31mred\xff one" + b"!" * 10_000})
    assert "quarantined entries: 10, the last one 0 s ago" in shown()
    assert "  ! something in Redis could not be trusted or read" in shown()
    lines = shown().splitlines()[-4:]
    assert sorted(lines[:3]) == [
        "      3 a job with bytes of data", "      3 a key of another type, deleted", "      3 reports up to this one are odd"
    ]  # fmt: skip
    assert lines[3].startswith("      1 a  [31mred\N{REPLACEMENT CHARACTER} one!!!")
    assert len(lines[3]) < 300
    assert type_command("status", "--json") == 1
    assert json.loads(capsys.readouterr().out)["quarantine_reasons"]["a key of another type, deleted"] == 3


def test_keys_of_another_type_do_not_hide_the_rest(client: redis.Redis) -> None:
    queue = KEYS.launch_queue("default")
    for key in (KEYS.watch("default"), KEYS.throttle("default"), KEYS.fair_queues("default"), KEYS.results, KEYS.quarantine,
                KEYS.unacknowledged, KEYS.key_rings, rq_queue(queue), rq_started(queue), rq_scheduled(queue),
                rq_failed(queue), "rq:workers"):  # fmt: skip
        client.set(key, "x")
    client.set("rq:suspended", "1")
    assert "suspended: launchers take nothing" in shown()
    assert "watcher: none" in shown()


def test_every_key_for_programs_is_documented(client: redis.Redis) -> None:
    work(client)
    client.hset(KEYS.schedulers, "default 7", f"{time.time()} 0 1 0.1.0")
    client.zadd(rq_scheduled(KEYS.launch_queue("default")), {"a_0": 1})
    client.xadd(KEYS.quarantine, {"key": "k", "kind": "bounds", "why": "shortened"})
    client.hset(KEYS.warm_state("default"), mapping={"keeper": "a", "expires": time.time() + 5, f"{'a' * 16} idle": 1})
    page = (Path(__file__).parents[3] / "docs" / "operations.md").read_text("utf-8")
    table = page.partition("### For programs")[2].partition("\n## ")[0]
    documented = dict(re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| (.*) \|$", table, re.MULTILINE))
    names = {name for cell in documented for name in re.findall(r"`(\w+)`", cell)}
    found = overview(None, time.time())
    assert names == set(found)
    for key in ("queues", "waits", "pods", "launchers", "watcher", "schedulers", "clamps"):
        cell = next(value for cell, value in documented.items() if f"`{key}`" in cell)
        part = found[key]
        sample = next(iter(part.values() if key == "queues" else part)) if key not in ("pods", "watcher") else part
        assert set(re.findall(r"`(\w+)`", cell)) == set(sample), key
    cell = next(value for cell, value in documented.items() if "`warm`" in cell)
    assert set(re.findall(r"`(\w+)`", cell)) == {*found["warm"], *found["warm"]["shapes"][0]}
