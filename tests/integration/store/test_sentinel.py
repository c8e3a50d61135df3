"""Redis under Sentinel: the master is found, used as redis_url configures it, followed on failover, awaited with a limit."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import redis
from redis.exceptions import RedisError

from podrelay.cli.dashboard import make_app
from podrelay.errors import RedisUnavailable
from podrelay.protocol.mailbox import Delivery, MailboxKey
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.settings import Settings
from podrelay.store.circuit_breaker import CircuitBreaker
from podrelay.store.connection import close, connect, connect_async
from podrelay_workers.warm_pod.inbox import Inbox
from tests.harness.redis_server import RedisServer, find_server, free_port

Servers = tuple[RedisServer, RedisServer, int]
PASSWORD = "of-the-test-only"
MASTER = "mymaster"


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    """A master, its replica, and the port of the one Sentinel that monitors them."""
    find_server()
    with ExitStack() as stack:
        (tmp_path / "replica").mkdir()
        master = stack.enter_context(RedisServer(tmp_path))
        replica = stack.enter_context(
            RedisServer(
                tmp_path / "replica", "--replicaof", "127.0.0.1", str(master.port), "--repl-diskless-sync-delay", "0"
            )
        )
        for server in (master, replica):
            redis.Redis.from_url(server.url).execute_command(
                "ACL", "SETUSER", "podrelay", "on", f">{PASSWORD}", "~*", "&*", "+@all"
            )
        port = free_port()
        configuration = tmp_path / "sentinel.conf"
        configuration.write_text(
            f"port {port}\nbind 127.0.0.1\nsentinel monitor {MASTER} 127.0.0.1 {master.port} 1\n"
            f"sentinel down-after-milliseconds {MASTER} 500\nsentinel failover-timeout {MASTER} 2000\n"
        )
        process = subprocess.Popen(
            [find_server(), configuration, "--sentinel"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        stack.callback(process.wait)
        stack.callback(process.terminate)
        sentinel = redis.Redis(port=port)
        until(lambda: bool(sentinel.sentinel_slaves(MASTER)), "the Sentinel knows the replica")
        yield master, replica, port


def until(condition: Callable[[], object], what: str, most_s: float = 30.0) -> None:
    deadline = time.monotonic() + most_s
    while True:
        try:
            if condition():
                return
        except (RedisError, RedisUnavailable):
            pass
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def settings(*ports: int, scheme: str = "redis", timeout_s: float = 0.5) -> Settings:
    return Settings(
        redis_url=f"{scheme}://podrelay:{PASSWORD}@nobody.invalid:1/3",
        fernet_key="",
        redis_timeout_s=timeout_s,
        redis_sentinels=tuple(("127.0.0.1", port) for port in ports),
        redis_sentinel_master=MASTER,
    )


def test_the_master_is_used_with_the_options_of_redis_url(servers: Servers) -> None:
    master, _, sentinel = servers
    with connect(settings(sentinel)) as client:
        assert client.acl_whoami() in ("podrelay", b"podrelay")
        client.set("of", "the scheduler")
    assert redis.Redis(port=master.port, db=3).get("of") == b"the scheduler"

    async def as_a_worker() -> None:
        async with connect_async(settings(sentinel)) as client:
            assert await client.acl_whoami() in ("podrelay", b"podrelay")
            await client.set("of", "a worker")

    asyncio.run(as_a_worker())
    assert redis.Redis(port=master.port, db=3).get("of") == b"a worker"


def test_a_failover_is_followed(servers: Servers) -> None:
    master, replica, sentinel = servers
    breaker = CircuitBreaker(settings(sentinel))
    breaker.call(lambda client: client.set("before", 1))
    until(lambda: redis.Redis(port=replica.port, db=3).get("before") == b"1", "the replica has it")
    master.kill()
    until(lambda: breaker.call(lambda client: client.set("after", 1)), "the breaker writes to the new master")
    assert redis.Redis(port=replica.port, db=3).mget("before", "after") == [b"1", b"1"]


def test_closing_leaves_no_socket(servers: Servers) -> None:
    """A warm pod forks its task afterwards."""
    master, _, sentinel = servers

    def sockets() -> set[int]:
        connections = psutil.Process().net_connections()
        return {item.laddr.port for item in connections if item.raddr and item.raddr.port in (master.port, sentinel)}

    before = sockets()  # what other tests left may be closed at any time
    client = connect(settings(sentinel))
    client.ping()
    opened = sockets() - before
    assert len(opened) == 2
    close(client)
    assert not opened & sockets()


def test_a_waiting_warm_pod_follows_a_failover(servers: Servers) -> None:
    master, replica, sentinel = servers
    key, keys, delivery = MailboxKey.generate(), RedisKeys("default"), Delivery("launch", 0, "workload")
    inbox, found = Inbox(settings(sentinel), "default", key), []
    pod = threading.Thread(target=lambda: found.append(inbox.wait(60)))
    pod.start()
    second = redis.Redis(port=replica.port, db=3)
    until(lambda: second.exists(keys.mailbox_alive(key.name)), "the pod waits, and the replica has it")
    master.kill()
    until(lambda: second.rpush(keys.mailbox_in(key.name), key.seal(delivery)), "the replica is the master")
    pod.join(30)
    inbox.close()
    assert found == [delivery]


def test_sentinels_that_do_not_answer_cost_one_timeout() -> None:
    """A heartbeat waits for them: they accept connections and never reply."""
    with ExitStack() as stack:
        silent = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        ports = [item.getsockname()[1] for item in silent]
        began_s = time.monotonic()
        with pytest.raises(RedisError):
            connect(settings(*ports, timeout_s=0.3)).ping()
        assert time.monotonic() - began_s < 0.9


def test_the_dashboard_reads_from_the_master(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    web = pytest.importorskip("rq_dashboard.web")
    for name in ("Worker", "from_url"):  # put back after the test
        monkeypatch.setattr(web, name, getattr(web, name))
    monkeypatch.setattr(web.config, "serializer", web.config.serializer)
    _, _, sentinel = servers
    found = settings(sentinel)
    with connect(found) as client:
        client.sadd("rq:queues", "rq:queue:seen")
        page = make_app(found.redis_url, client).test_client()
        queues = page.get("/0/data/queues.json").get_json()["queues"]
    assert [queue["name"] for queue in queues] == ["seen"]


def test_tls_of_redis_url_applies_under_sentinel() -> None:
    for client in (connect(settings(1, scheme="rediss")), connect_async(settings(1, scheme="rediss"))):
        assert "SSL" in client.connection_pool.connection_class.__name__
