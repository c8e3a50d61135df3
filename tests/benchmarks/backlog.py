"""Launches put into Redis as an executor puts them, without an executor: for what is asked of launchers alone."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.identifiers import DEFAULT_CLUSTER
from podrelay.protocol.messages import LaunchRequest
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.settings import Settings
from podrelay.store.circuit_breaker import CircuitBreaker
from podrelay.store.launch_queue import LaunchQueue

DEPLOYMENT = "default"
# About as long as a workload's JSON with its token.
ARGS = ("python", "-m", "airflow.sdk.execution_time.execute_workload", "--json-string", "x" * 1200)


def requests(
    dag_id: str, count: int, namespace: str, priority: int = 1, owner: str = "4242"
) -> Iterator[LaunchRequest]:
    for number in range(count):
        yield LaunchRequest(
            launch_id=str(uuid.uuid4()), attempt=0, kind="task", subject=str(uuid.uuid4()),
            key=(dag_id, f"task_{number}", "run", 1, -1), owner=owner, args=ARGS, namespace=namespace, priority=priority,
        )  # fmt: skip


def offer(redis_url: str, fernet_key: str, launches: Iterator[LaunchRequest]) -> None:
    settings = Settings(redis_url=redis_url, fernet_key=fernet_key, redis_timeout_s=30.0)
    breaker = CircuitBreaker(settings)
    queue = LaunchQueue(
        breaker, RedisKeys(DEPLOYMENT), PayloadCipher(fernet_key), DEFAULT_CLUSTER, settings.ledger_ttl_s
    )
    queue.offer((request, 0) for request in launches)
    breaker.close()
