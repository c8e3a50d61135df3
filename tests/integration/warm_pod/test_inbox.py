"""The mailbox as its pod sees it, on a real Redis: the workload, what is not one, and whatever becomes of the server."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import redis

from podrelay.errors import ConfigError
from podrelay.protocol.mailbox import ALIVE_TTL_S, MAILBOX_TTL_S, Delivery, MailboxKey
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.settings import Settings
from podrelay_workers.warm_pod.inbox import DataLost, Inbox
from tests.harness.redis_server import RedisServer, find_server, free_port
from tests.harness.redis_users import GuardedRedis, knows_read_only, lines

KEY = MailboxKey.generate()
KEYS = RedisKeys("default")
ALIVE, IN, TAKEN = KEYS.mailbox_alive(KEY.name), KEYS.mailbox_in(KEY.name), KEYS.mailbox_taken(KEY.name)
DELIVERY = Delivery("0190a0a0-0000-7000-8000-000000000001", 3, '{"token": "secret of the workload"}')
SEALED = KEY.seal(DELIVERY)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    find_server()
    with RedisServer(tmp_path) as server:
        yield server


class WaitingPod:
    """An inbox that waits in a thread, as the only thread of a pod does."""

    def __init__(self, url: str, limit_s: float = 60.0) -> None:
        self.inbox = Inbox(Settings(redis_url=url, fernet_key=""), "default", KEY)
        self.result: Delivery | Exception | None = None
        self._limit_s = limit_s
        self._thread = threading.Thread(target=self._wait)
        self._thread.start()

    def _wait(self) -> None:
        try:
            self.result = self.inbox.wait(self._limit_s)
        except Exception as error:  # noqa: BLE001  it is what the test looks at
            self.result = error
        finally:
            self.inbox.close()

    def end(self, within_s: float = 10.0) -> Delivery | Exception | None:
        self._thread.join(within_s)
        assert not self._thread.is_alive(), f"still waiting after {within_s} s"
        return self.result

    @property
    def waits(self) -> bool:
        return self._thread.is_alive()


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def client_of(server: RedisServer) -> redis.Redis:
    return redis.Redis.from_url(server.url, retry=None)


def is_gone(client: redis.Redis, key: str) -> bool:
    return not client.exists(key)


def waiting_on(server: RedisServer, limit_s: float = 60.0) -> tuple[WaitingPod, redis.Redis]:
    pod, client = WaitingPod(server.url, limit_s), client_of(server)
    until(lambda: client.exists(ALIVE))
    return pod, client


def test_the_workload_is_moved_and_read(server: RedisServer) -> None:
    pod, client = waiting_on(server)
    assert client.get(ALIVE) == b"1"
    assert 0 < client.pttl(ALIVE) <= ALIVE_TTL_S * 1000
    client.rpush(IN, SEALED)
    assert pod.end() == DELIVERY
    assert (client.lrange(IN, 0, -1), client.lrange(TAKEN, 0, -1)) == ([], [SEALED.encode()])
    assert 0 < client.ttl(TAKEN) <= MAILBOX_TTL_S
    assert [item["name"] for item in client.client_list() if item["name"] == "podrelay"] == []


def test_the_sign_of_life_stays_while_the_pod_waits(server: RedisServer) -> None:
    pod, client = waiting_on(server, 6)
    while pod.waits:
        assert client.exists(ALIVE)
        time.sleep(0.05)
    assert pod.end() is None
    pod.inbox.resign()
    assert not client.exists(ALIVE)


@pytest.mark.parametrize("late", [False, True])
def test_a_move_whose_answer_was_lost_is_a_delivery(server: RedisServer, late: bool) -> None:
    """A server that stood still may move the item for a connection that has gone, after the pod has looked."""
    client = client_of(server)
    if not late:
        client.rpush(TAKEN, SEALED)
    pod = WaitingPod(server.url)
    if late:
        until(lambda: client.exists(ALIVE))
        time.sleep(0.2)
        client.rpush(TAKEN, SEALED)
    assert pod.end() == DELIVERY


@pytest.mark.parametrize(
    "item",
    [b"", b"\xff", b"{}", b"A" * 1_000_000, MailboxKey.generate().seal(DELIVERY), SEALED[:-10]],
    ids=["empty", "no text", "JSON", "long", "another key", "cut"],
)
def test_what_no_launcher_sealed_is_dropped(
    server: RedisServer, caplog: pytest.LogCaptureFixture, item: str | bytes
) -> None:
    pod, client = waiting_on(server)
    with caplog.at_level(logging.WARNING):
        client.rpush(IN, item)
        until(lambda: caplog.records and not client.exists(IN, TAKEN))
    assert pod.waits
    client.rpush(IN, SEALED)
    assert pod.end() == DELIVERY
    assert [record.message[:30] for record in caplog.records] == ["Dropped an item of the mailbox"]
    assert KEY.text not in caplog.text


def test_keys_of_another_type_are_deleted(server: RedisServer) -> None:
    pod, client = waiting_on(server)
    for key in (IN, TAKEN):
        client.set(key, "no list")
        until(partial(is_gone, client, key))
    client.delete(ALIVE)
    client.rpush(ALIVE, "no string")
    client.rpush(IN, SEALED)
    assert pod.end() == DELIVERY


def test_a_pod_that_nobody_knows_any_more_ends_at_once(server: RedisServer) -> None:
    pod, client = waiting_on(server)
    client.flushall()
    assert isinstance(pod.end(3), DataLost)
    assert not client.exists(ALIVE)


def test_a_restart_that_loses_the_data_ends_it(server: RedisServer) -> None:
    pod, _ = waiting_on(server)
    server.kill()
    server.start()
    assert isinstance(pod.end(5), DataLost)


def test_a_long_outage_that_loses_the_data_ends_it(server: RedisServer) -> None:
    """Its sign of life has expired meanwhile, which says nothing. A launch that has it would wait for its idle time."""
    pod, _ = waiting_on(server)
    server.kill()
    time.sleep(ALIVE_TTL_S + 0.2)
    server.start()
    assert isinstance(pod.end(5), DataLost)
    assert not client_of(server).exists(ALIVE)


@pytest.fixture
def lasting(tmp_path: Path) -> Iterator[RedisServer]:
    find_server()
    with RedisServer(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


def test_a_restart_that_keeps_the_data_does_not(lasting: RedisServer) -> None:
    pod, _ = waiting_on(lasting)
    lasting.kill()
    lasting.start()
    client_of(lasting).rpush(IN, SEALED)
    assert pod.end() == DELIVERY


def test_a_long_outage_is_waited_for(lasting: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    pod, _ = waiting_on(lasting)
    lasting.kill()
    time.sleep(ALIVE_TTL_S + 0.2)
    lasting.start()
    client = client_of(lasting)
    until(lambda: client.exists(ALIVE))
    client.rpush(IN, SEALED)
    assert pod.end() == DELIVERY
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"], "one line, and one at the end"
    assert "check [podrelay] redis_url" in caplog.records[0].message


def test_a_server_that_stands_still_is_waited_for(server: RedisServer) -> None:
    pod, _ = waiting_on(server)
    server.pause()
    time.sleep(2.5)
    server.resume()
    client = client_of(server)
    client.rpush(IN, SEALED)
    assert pod.end() == DELIVERY


def test_a_server_that_has_become_a_replica_is_left(server: RedisServer) -> None:
    """Without Sentinel, the name of a managed Redis leads to the new master, and the old one may keep its connections."""
    pod, client = waiting_on(server)

    def connections() -> int:
        return int(client.info("stats")["total_connections_received"])  # type: ignore[index]

    before = connections()
    client.replicaof("127.0.0.1", free_port())
    until(lambda: connections() >= before + 3)  # one more would follow that the server closed
    client.replicaof("NO", "ONE")
    client.rpush(IN, SEALED)
    assert pod.end() == DELIVERY


def test_without_redis_it_ends_in_time(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    server.kill()
    begun_s = time.monotonic()
    assert WaitingPod(server.url, 2).end() is None
    assert 2 <= time.monotonic() - begun_s < 3
    assert len(caplog.records) == 1


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"\[podrelay\] redis_url"):
        Inbox(Settings(redis_url="nonsense", fernet_key=""), "default", KEY)


def test_a_full_redis_is_waited_for(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    pod, client = waiting_on(server)
    client.config_set("maxmemory", "1")
    until(lambda: caplog.records)
    assert "Redis is full" in caplog.records[0].message
    client.config_set("maxmemory", "0")
    client.rpush(IN, SEALED)
    assert pod.end() == DELIVERY


# --- as its user of Redis -----------------------------------------------------------------------------------------------
@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GuardedRedis]:
    find_server()
    monkeypatch.setenv("AIRFLOW__PODRELAY__DEPLOYMENT", "default")
    with GuardedRedis(tmp_path) as server:
        server.load(*lines(redis_6=not knows_read_only(server.url), roles=("task",)))
        yield server


def test_its_user_may_do_what_the_pod_does(guarded: GuardedRedis) -> None:
    pod, admin = WaitingPod(guarded.url_of("task")), guarded.admin
    until(lambda: admin.exists(ALIVE))
    admin.rpush(IN, "not sealed")
    until(lambda: not admin.exists(IN, TAKEN))
    admin.set(IN, "no list")
    until(lambda: not admin.exists(IN))
    admin.rpush(IN, SEALED)
    assert pod.end() == DELIVERY
    pod.inbox.resign()
    assert guarded.denials() == []


def test_its_user_may_do_nothing_else(guarded: GuardedRedis) -> None:
    admin, mine = guarded.admin, redis.Redis.from_url(guarded.url_of("task"))
    admin.set(KEYS.current, "of the launchers")
    other = RedisKeys("other").mailbox_alive(KEY.name)
    for words in (
        ["GET", ALIVE], ["KEYS", "*"], ["SCAN", "0"], ["MONITOR"], ["EVAL", "return 1", "0"], ["ACL", "LIST"],
        ["SUBSCRIBE", KEYS.wake("default")], ["DEL", KEYS.current], ["SET", other, "1"], ["LINDEX", KEYS.current, "0"],
        ["BLMOVE", IN, KEYS.current, "LEFT", "LEFT", "1"], ["RPUSH", IN, "x"],
    ):  # fmt: skip
        with pytest.raises(redis.exceptions.NoPermissionError):
            mine.execute_command(*words)


def test_a_user_without_rights_is_named(guarded: GuardedRedis, caplog: pytest.LogCaptureFixture) -> None:
    guarded.admin.execute_command("ACL", "SETUSER", "podrelay.default.task", "-blmove")
    assert WaitingPod(guarded.url_of("task"), 1).end() is None
    (record,) = caplog.records
    assert "podrelay.default.task" in record.message
    assert "blmove" in record.message
    assert "task-of-the-test" not in caplog.text
