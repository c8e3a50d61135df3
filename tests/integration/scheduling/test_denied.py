"""A scheduler whose user of Redis lacks rights, as after an update with the ACL of the release before: Redis answers, so that
whatever does not need the missing right goes on, without a pause.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from podrelay.executor import RedisKubernetesExecutor
from podrelay.protocol import access
from tests.harness.redis_users import GuardedRedis, knows_read_only, users_of_each_process
from tests.harness.task_instances import make_task_instances, update
from tests.integration.scheduling.conftest import Outside, beat
from tests.integration.scheduling.test_executor import hand_over
from tests.integration.scheduling.test_silent_ends import Run

Start = Callable[[], RedisKubernetesExecutor]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GuardedRedis]:
    monkeypatch.setenv("AIRFLOW__PODRELAY__DEPLOYMENT", "default")
    with users_of_each_process(tmp_path) as server:
        yield server


@pytest.fixture
def redis_url(server: GuardedRedis) -> str:
    return server.url


@pytest.fixture
def start(
    start_executor: Callable[..., RedisKubernetesExecutor], server: GuardedRedis, monkeypatch: pytest.MonkeyPatch
) -> Start:
    """Starts an executor as the user of schedulers, whose periodic parts run in each heartbeat."""
    monkeypatch.setenv("AIRFLOW__PODRELAY__REDIS_URL", server.url_of("scheduler"))
    monkeypatch.setattr("podrelay.scheduling.key_check.ANNOUNCE_S", 0.0)
    return start_executor


def leave(server: GuardedRedis, *missing: str) -> None:
    """Let the scheduler's user have all rights but these: commands, or keys by the end of their pattern."""
    rules = access.rules("scheduler", "default", "default", read_only_patterns=knows_read_only(server.url)).split()
    lacking = [rule for rule in rules if not rule.endswith(missing)]
    assert len(lacking) == len(rules) - len(missing)
    server.admin.execute_command("ACL", "SETUSER", "podrelay.default.scheduler", "resetkeys", *lacking)


# Rights without which launches can be handed over and results processed: what a scheduler says about itself and its keys, the
# comparison with lists of others, the quarantine, and requests for logs.
@pytest.mark.parametrize("right", [":schedulers", ":key_rings", ":live:default", "+xadd", ":log_requests:default"])
def test_a_missing_right_delays_nothing_that_does_without_it(
    start: Start, server: GuardedRedis, outside: Outside, right: str, capsys: pytest.CaptureFixture[str]
) -> None:
    executor = start()
    leave(server, right)
    executor.heartbeat()
    silent = Run(executor, outside)
    ended, following = make_task_instances(2)
    key, launch_id = hand_over(executor, ended)
    outside.create(launch_id)
    # A forged report is quarantined; of a pod that ended while its task's row says running, the log is requested.
    outside.redis.xadd(outside.names.results, {"launch": launch_id, "result": "forged"})
    silent.end()
    outside.publish(launch_id, "succeeded", pod="pod-1")
    update(ended, state="success")
    for _ in range(3):
        executor.heartbeat()
        assert executor._breaker.available
    assert executor.event_buffer[key][0] == "success"
    assert hand_over(executor, following)[0] in executor.running
    executor.parts.reconciler.schedule_now()
    beat(executor, until=lambda: silent.key in executor.event_buffer)
    assert server.denials()
    assert capsys.readouterr().out.count("Redis denies") == 1, "logged once"


def test_a_denied_offer_delays_no_result(start: Start, server: GuardedRedis, outside: Outside) -> None:
    """Nor the end of a task beside one that needs another attempt."""
    ended, replaced, following = make_task_instances(3)
    executor = start()
    finished, launch_id = hand_over(executor, ended)
    lost, lost_id = hand_over(executor, replaced)
    outside.create(launch_id)
    outside.create(lost_id, "pod-2")
    leave(server, "rq:queue:podrelay.default.default.launch*")
    outside.publish(lost_id, "failed", pod="pod-2", phase="Pending")
    outside.publish(launch_id, "succeeded", pod="pod-1")
    update(ended, state="success")
    waiting, _ = hand_over(executor, following)
    assert executor._breaker.available
    assert waiting in executor.queued_tasks
    assert executor.event_buffer[finished][0] == "success"
    assert lost in executor.running
    leave(server)
    beat(executor, until=lambda: waiting in executor.running and outside.ledger(lost_id)["attempt"] == "1")


def test_a_scheduler_that_may_not_say_how_far_it_is_compares_keys(
    start: Start, server: GuardedRedis, outside: Outside, caplog: pytest.LogCaptureFixture
) -> None:
    executor = start()
    leave(server, ":schedulers")
    outside.redis.delete(outside.names.schedulers)
    outside.redis.hset(outside.names.key_rings, "launcher a", f"0123456789abcdef {time.time():.0f}")
    executor.heartbeat()
    assert outside.redis.hlen(outside.names.schedulers) == 0
    assert "launcher a does not have the key" in caplog.text
    leave(server)
    beat(executor, until=lambda: outside.redis.hlen(outside.names.schedulers), most_s=1.0)
