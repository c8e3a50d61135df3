"""A right that is missing is named: at start, by `airflow podrelay check`, and in the log of the process that needs it."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from podrelay.cli.check import run_checks
from podrelay.errors import RedisUnavailable
from podrelay.executor import RedisKubernetesExecutor
from podrelay.protocol import access
from podrelay.protocol.access import Role
from podrelay.settings import Settings
from podrelay.store.async_scripts import AsyncScripts
from podrelay.store.connection import check, connect, connect_async, denied_calls
from podrelay.store.permissions import missing_rules, require_rights
from podrelay_workers.runtime import process
from podrelay_workers.runtime.readiness import Readiness
from podrelay_workers.runtime.shutdown import Shutdown
from tests.harness.redis_server import find_server
from tests.harness.redis_users import GuardedRedis, knows_read_only, lines

PROCESSES: list[Role] = ["scheduler", "launcher", "watcher"]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GuardedRedis]:
    find_server()
    monkeypatch.setenv("AIRFLOW__PODRELAY__DEPLOYMENT", "default")
    with GuardedRedis(tmp_path) as server:
        if not knows_read_only(server.url):
            pytest.skip("Redis 6.2 cannot say what it allows")
        server.load(*lines(redis_6=False))
        yield server


def client_of(server: GuardedRedis, role: Role) -> redis.Redis:
    return connect(Settings(server.url_of(role), ""))


def take(server: GuardedRedis, role: Role, *rules: str) -> None:
    """Take rights away from a user: commands, and all keys and channels but those of the other rules."""
    name = f"podrelay.default.{role}"
    kept = [item for item in access.rules(role, "default", "default").split() if item not in rules]
    server.admin.execute_command(
        "ACL", "SETUSER", name, "resetkeys", *kept, *(f"-{item[1:]}" for item in rules if item[0] == "+")
    )


@pytest.mark.parametrize("role", PROCESSES)
def test_the_printed_user_lacks_nothing(server: GuardedRedis, role: Role) -> None:
    with client_of(server, role) as client:
        check(client)
        assert missing_rules(client, role, "default", "default") == []
    assert server.denials() == [], "asking is no attempt"


@pytest.mark.parametrize("role", PROCESSES)
def test_who_may_do_everything_lacks_nothing(redis_url: str, role: Role) -> None:
    with connect(Settings(redis_url, "")) as client:
        assert missing_rules(client, role, "default", "default") == []


@pytest.mark.parametrize("role", PROCESSES)
def test_each_right_that_is_missing_is_named(server: GuardedRedis, role: Role) -> None:
    rules = access.rules(role, "default", "default").split()
    wanted = [rule for rule in rules if rule[0] in "~%+&"]
    # Without these nobody can be asked; that of publishing looks like that of its channel.
    wanted = [rule for rule in wanted if rule not in ("+evalsha", "+script|load", "+client|setname", "+del", "+hget")]
    for rule in wanted:
        take(server, role, rule)
        with client_of(server, role) as client:
            found = missing_rules(client, role, "default", "default")
        assert rule in found, rule
        assert set(found) <= {rule, "+publish", "+subscribe"} | {
            f"&{item}" for item in access.channels(role, "default", "default")
        }
        take(server, role)


@pytest.mark.parametrize("role", PROCESSES)
def test_every_question_has_the_words_that_the_command_takes(redis_url: str, role: Role) -> None:
    known: Any = redis.Redis.from_url(redis_url, decode_responses=True).command()
    for name in access.COMMANDS[role]:
        words = access.CALLS[name].split()
        arity = int(known[words[0]]["arity"])
        assert len(words) == arity if arity > 0 else len(words) >= -arity, name


def test_a_command_that_the_server_does_not_have_is_not_missing(redis_url: str) -> None:
    with connect(Settings(redis_url, "")) as client:
        assert denied_calls(client, [["nosuchcommand", "k"], ["ping"]]) == set()


def test_without_scripts_nobody_can_be_asked(server: GuardedRedis) -> None:
    take(server, "watcher", "+evalsha")
    with client_of(server, "watcher") as client, pytest.raises(RedisUnavailable, match="denies the command evalsha"):
        require_rights(client, "watcher", "default", "default")


# --- who says so ----------------------------------------------------------------------------------------------------
SAYS = (
    r"The user podrelay\.default\.{0} \(\[podrelay\] redis_url\) lacks rights in Redis that a {0} needs: \+xadd {1}\. "
)
SAYS += r"`airflow podrelay acl` prints all that it needs\."
LACKS = {"scheduler": r"~podrelay:default:current", "launcher": r"~podrelay:default:throttle:default",
         "watcher": r"~podrelay:default:watch:default"}  # fmt: skip


@pytest.fixture(params=PROCESSES)
def lacking(server: GuardedRedis, monkeypatch: pytest.MonkeyPatch, request: Any) -> Role:
    role: Role = request.param
    take(server, role, "+xadd", LACKS[role])
    monkeypatch.setenv("AIRFLOW__PODRELAY__REDIS_URL", server.url_of(role))
    return role


def test_check_names_what_is_missing(lacking: Role) -> None:
    process_name = None if lacking == "scheduler" else lacking
    found = {item.name: item for item in run_checks(None, process_name)}["Redis"]
    assert not found.ok
    assert re.fullmatch(SAYS.format(lacking, re.escape(LACKS[lacking])), found.detail)
    assert json.dumps(found.as_json())


def test_a_process_logs_one_line_at_its_start(
    server: GuardedRedis, lacking: Role, airflow_db: None, caplog: pytest.LogCaptureFixture, capsys: Any
) -> None:
    says = SAYS.format(lacking, re.escape(LACKS[lacking]))
    if lacking == "scheduler":
        executor = RedisKubernetesExecutor()
        executor.job_id = 7
        executor.start()
        executor._breaker.close()
    else:
        settings, shutdown = Settings(server.url_of(lacking), ""), Shutdown()

        async def begin() -> None:
            asyncio.get_running_loop().call_later(1.0, shutdown.request)
            role: process.Role = "launcher" if lacking == "launcher" else "watcher"
            await process._wait_for_redis(role, settings, None, shutdown, Readiness(role, settings, None))

        asyncio.run(begin())
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    # Airflow's own loggers, the executor's among them, print.
    errors += [line.partition("[error    ] ")[2] for line in capsys.readouterr().out.splitlines() if "[error" in line]
    assert len(set(errors)) == 1
    assert re.match(says, errors[0])
    assert "\n" not in errors[0]


def test_a_worker_starts_once_it_has_its_rights(server: GuardedRedis, caplog: pytest.LogCaptureFixture) -> None:
    take(server, "launcher", "+zadd")
    settings, shutdown = Settings(server.url_of("launcher"), ""), Shutdown()

    async def begin() -> None:
        asyncio.get_running_loop().call_later(0.6, take, server, "launcher")
        readiness = Readiness("launcher", settings, None)
        await asyncio.wait_for(process._wait_for_redis("launcher", settings, None, shutdown, readiness), 10)

    asyncio.run(begin())
    assert "Redis is available again." in caplog.text or "lacks rights" in caplog.text


def test_a_right_that_is_lost_later_is_one_line_too(server: GuardedRedis) -> None:
    async def scenario() -> str:
        async with connect_async(Settings(server.url_of("watcher"), "")) as client:
            server.admin.execute_command("ACL", "SETUSER", "podrelay.default.watcher", "-zrem")
            with pytest.raises(RedisUnavailable) as caught:
                await AsyncScripts(client).call(lambda client: client.zrem("podrelay:default:live:default", "SECRET"))
            return str(caught.value)

    assert asyncio.run(scenario()) == (
        "Redis denies the command zrem to the user podrelay.default.watcher ([podrelay] redis_url): `airflow podrelay acl` "
        "prints the rules that each process needs."
    )
