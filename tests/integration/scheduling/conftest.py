"""A started executor on an empty Redis and a real (SQLite) Airflow database, driven and observed from outside."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest
import redis

from podrelay.executor import RedisKubernetesExecutor
from podrelay.protocol import identifiers, redis_keys
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.messages import PodReport
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.store import scripts
from podrelay.store.script_table import script
from tests.conftest import FERNET_KEY
from tests.harness.task_instances import OWNER


class Outside:
    """Writes to Redis what launchers and watchers write, and reads what an operator sees there."""

    def __init__(self, url: str) -> None:
        self.redis = redis.Redis.from_url(url, decode_responses=True)
        self.names = RedisKeys("default")
        self._cipher = PayloadCipher(FERNET_KEY, "default")

    def publish(self, launch_id: str, outcome: str = "succeeded", attempt: int = 0, **fields: Any) -> int:
        """Publish a report with the watcher's script."""
        result = PodReport(launch_id, attempt, outcome, namespace="default", **fields)  # type: ignore[arg-type]
        known: dict[str, str] = {"pod": result.pod, "namespace": "default", "uid": result.uid} if result.pod else {}
        known["result_key"] = self._cipher.fingerprints[0]
        call = scripts.publish(
            self.names,
            cluster="default",
            fence=scripts.UNFENCED,
            launch_id=launch_id,
            attempt=attempt,
            outcome=outcome,
            result=self._cipher.reports.encrypt(result.encode()),
            now=f"{time.time():.6f}",
            results_max=100_000,
            fields=known,
        )
        reply = self.redis.eval(script(call.name).text, len(call.keys), *call.keys, *call.args)  # type: ignore[arg-type]
        return reply if isinstance(reply, int) else 0  # the ledger knows an end

    def create(self, launch_id: str, pod: str = "pod-1") -> None:
        """Write what a launcher writes once it has created the pod."""
        self.redis.hset(
            self.names.launch(launch_id), mapping={"state": "created", "pod": pod, "namespace": "default", "uid": "u"}
        )
        entry = self.ledger(launch_id)
        queue = redis_keys.rq_queue(entry["queue"])
        self.redis.lrem(queue, 1, identifiers.job_id(launch_id, int(entry["attempt"])))

    def claim(self) -> list[str]:
        """Job ids that a launcher gets now, in the order of their claim."""
        call = scripts.claim(
            self.names, cluster="default", kind="launch", queues=self.names.launch_queues("default"), most=64, low=0,
            lease_s=60.0, worker="w", execution_id="e", patience_s=0.0, probe_s=1.0, report_every_s=60.0,
        )  # fmt: skip
        reply = self.redis.eval(script(call.name).text, len(call.keys), *call.keys, *call.args)
        return list(reply[5][::12])  # type: ignore[index]

    def ledger(self, launch_id: str) -> dict[str, str]:
        return self.redis.hgetall(self.names.launch(launch_id))  # type: ignore[return-value]

    def queued(self, level: int = 0) -> list[str]:
        """Jobs queued at one priority level: in the level's queue, then in its fair queues."""
        queue = self.names.launch_queue("default", level)
        sides = self.redis.hgetall(self.names.fair_queues("default"))
        lists = [queue, *sorted(side for side, beside in sides.items() if beside == queue)]  # type: ignore[union-attr]
        return [job for name in lists for job in self.redis.lrange(redis_keys.rq_queue(name), 0, -1)]  # type: ignore[union-attr]

    def token(self, job: str) -> dict[str, Any]:
        """The claims in the token of a queued launch, decrypted as a launcher decrypts them."""
        data: str = self.redis.hget(redis_keys.RQ_JOB_PREFIX + job, "data")  # type: ignore[assignment]
        text = self._cipher.requests.decrypt(json.loads(data)[2][0]).decode()
        found = re.search(r"eyJ[\w-]+\.[\w-]+\.[\w-]+", text)
        assert found is not None
        return dict(jwt.decode(found[0], options={"verify_signature": False}))

    def commands(self) -> dict[str, int]:
        """How often each command was called so far by any client, without the INFO of this method."""
        stats: dict[str, Any] = self.redis.info("commandstats")  # type: ignore[assignment]
        return {name: said["calls"] for name, said in stats.items() if name != "cmdstat_info"}

    def log_requests(self) -> list[PodReport]:
        """The pods whose log is requested from the watcher; none is taken."""
        found = self.redis.lrange(self.names.log_requests("default"), 0, -1)
        return [PodReport.decode(self._cipher.requests.decrypt(sealed)) for sealed in found]  # type: ignore[union-attr]

    def cleanups(self) -> list[str]:
        """Descriptions of the queued clean-up jobs."""
        ids = self.redis.lrange(redis_keys.rq_queue(self.names.cleanup_queue("default")), 0, -1)
        return [self.redis.hget(redis_keys.RQ_JOB_PREFIX + job, "description") for job in ids]  # type: ignore[misc, union-attr]

    def everything(self) -> str:
        """All text in Redis, to search for what must not be there."""
        parts = []
        for key in self.redis.scan_iter():
            kind = self.redis.type(key)
            if kind == "hash":
                parts.append(json.dumps(self.redis.hgetall(key)))
            elif kind == "stream":
                parts.append(json.dumps(self.redis.xrange(key)))
            parts.append(key)
        return "\n".join(parts)


@pytest.fixture
def outside(redis_url: str) -> Outside:
    return Outside(redis_url)


@pytest.fixture
def start_executor(
    airflow_db: None, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., RedisKubernetesExecutor]]:
    started = []
    monkeypatch.setenv("AIRFLOW__PODRELAY__REDIS_URL", redis_url)
    monkeypatch.setenv("AIRFLOW__PODRELAY__RECONCILE_INTERVAL_S", "0.2")

    def start(job_id: int = OWNER) -> RedisKubernetesExecutor:
        executor = RedisKubernetesExecutor()
        executor.job_id = job_id
        executor.start()
        started.append(executor)
        return executor

    yield start
    for executor in started:
        executor.end()


@pytest.fixture
def executor(start_executor: Callable[..., RedisKubernetesExecutor]) -> RedisKubernetesExecutor:
    return start_executor()


def beat(executor: RedisKubernetesExecutor, until: Callable[[], Any] | None = None, most_s: float = 5.0) -> None:
    """Send one heartbeat, or heartbeats until a condition holds."""
    end = time.monotonic() + most_s
    executor.heartbeat()
    while until is not None and not until():
        if time.monotonic() > end:
            raise AssertionError(f"condition not met within {most_s} s")
        time.sleep(0.02)
        executor.heartbeat()
