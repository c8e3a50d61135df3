"""Launches whose token names no end, callbacks for instance: a recorded one does not stay valid."""

from __future__ import annotations

import json
import time

from airflow.utils.session import create_session

from podrelay.executor import RedisKubernetesExecutor
from podrelay.protocol import identifiers, jobs, redis_keys
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.messages import LaunchRequest
from podrelay.scheduling.request_builder import VALID_WITHOUT_END_S
from tests.conftest import FERNET_KEY
from tests.integration.parity.test_workloads import callback
from tests.integration.scheduling.conftest import Outside, beat

CIPHER = PayloadCipher(FERNET_KEY, "default")


def test_a_callback_is_valid_for_a_limited_time_and_then_encrypted_anew(
    executor: RedisKubernetesExecutor, outside: Outside
) -> None:
    workload = callback("some.function")
    with create_session() as session:
        executor.queue_workload(workload, session)
    beat(executor, until=lambda: waiting(outside))
    (first,) = waiting(outside)
    left_s = first.not_after_s - time.time()
    assert VALID_WITHOUT_END_S - 60 < left_s <= VALID_WITHOUT_END_S == first.token_life_s
    outside.redis.delete(redis_keys.RQ_JOB_PREFIX + identifiers.job_id(first.launch_id, 0))
    outside.publish(first.launch_id, "expired")
    beat(executor, until=lambda: any(request.attempt == 1 for request in waiting(outside)))
    (second,) = (request for request in waiting(outside) if request.attempt == 1)
    assert (second.launch_id, second.subject, second.kind) == (first.launch_id, first.subject, "callback")
    assert second.not_after_s > time.time(), "with a token of its own"
    assert workload.key in executor.running


def waiting(outside: Outside) -> list[LaunchRequest]:
    """The requests that wait for a launcher, decrypted as a launcher decrypts them."""
    found = []
    for level in range(redis_keys.PRIORITY_LEVELS):
        for job in outside.queued(level):
            data = outside.redis.hget(redis_keys.RQ_JOB_PREFIX + job, "data")
            if data is not None:
                assert json.loads(str(data))[0] == jobs.LAUNCH_FUNCTION
                found.append(jobs.read_launch(str(data).encode(), job, "default", CIPHER))
    return found
