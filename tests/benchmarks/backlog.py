"""Launches put into Redis as an executor puts them, without an executor: for what is asked of launchers alone."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.identifiers import DEFAULT_CLUSTER
from podrelay.protocol.messages import CleanupRequest, LaunchRequest
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.settings import Settings
from podrelay.store.circuit_breaker import CircuitBreaker
from podrelay.store.launch_queue import Acknowledgement, LaunchQueue
from podrelay.store.ledger import Ledger

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
    with _opened(redis_url, fernet_key) as (queue, _):
        queue.offer((request, 0) for request in launches)


def clean_up(redis_url: str, fernet_key: str, launches: Sequence[LaunchRequest]) -> None:
    """Let launchers delete the pods of these launches, at once and without a grace period."""
    with _opened(redis_url, fernet_key) as (queue, ledger):
        entries = zip(launches, ledger.entries([launch.launch_id for launch in launches]), strict=True)
        queue.acknowledge([Acknowledgement(launch.launch_id, 0, launch.subject, cleanup=_deletion(launch, entry))
                           for launch, entry in entries])  # fmt: skip


def _deletion(launch: LaunchRequest, entry: dict[str, str]) -> CleanupRequest:
    return CleanupRequest(
        launch.launch_id, "delete", launch.namespace, entry["pod"], entry["uid"],
        delete_options={"gracePeriodSeconds": 0},
    )  # fmt: skip


@contextmanager
def _opened(redis_url: str, fernet_key: str) -> Iterator[tuple[LaunchQueue, Ledger]]:
    settings = Settings(redis_url=redis_url, fernet_key=fernet_key, redis_timeout_s=30.0)
    breaker, keys = CircuitBreaker(settings), RedisKeys(DEPLOYMENT)
    cipher = PayloadCipher(fernet_key, DEPLOYMENT)
    try:
        yield LaunchQueue(breaker, keys, cipher, DEFAULT_CLUSTER, settings.ledger_ttl_s), Ledger(breaker, keys)
    finally:
        breaker.close()
